"""Ready-made references: what an archive brings, what it spares, and what is said when it is damaged."""

import shutil
import tarfile
from dataclasses import replace

import pytest
import torch
from torch import nn

from lib import cli
from lib.errors import SettingsError
from lib.lenses.accuracy import Accuracy
from lib.lenses.alignment import Alignment, denoisers
from lib.lenses.lens import Pool
from lib.lenses.manifold import Manifold
from lib.lenses.similarity import Similarity
from lib.lenses.stitching import Stitching
from lib.lenses.subject import Subject
from lib.look import look, price, ready_made, work
from lib.papers.settings import load as profile
from lib.runtime import initialise_with
from lib.store import Store, contents
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet
from lib.values.attacks import APGD, Square
from lib.values.data import Data
from lib.values.keys import plain

DIGITS = Data("digits", train=128, test=48)
LENSES = (Accuracy(APGD(2, targets=1), Square(5), steps=2), Stitching(50, 1, 2), Similarity(4), Alignment(),
          Manifold(4, 20, 1))
OF_REFERENCES = 4 + 6 + 0 + 4 + 4  # tables: one for each, one for each of the others on each host, none, ...


def drawn(name):
    with initialise_with(name):
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    return Subject.wrap(net, data=DIGITS, normaliser="inside", name=name)


def pool_in(store):
    networks = replace(profile("test").networks, data=DIGITS, arch=ResNet(4, (1, 1)))
    return Pool(Zoo(store), networks, lambda repetition: repetition)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pool that one network was looked at with, and the archive of its references."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("results")))
        pool = pool_in(Store(tmp_path_factory.mktemp("store")))
        look(drawn("first"), pool=pool, lenses=LENSES, name="first")
        archive = tmp_path_factory.mktemp("archive") / "test.tar"
        count = ready_made.export(archive, pool, LENSES, DIGITS.n_test)
    assert count == 6 + OF_REFERENCES
    return pool, archive


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    """An empty store, and a copy of the archive as that of the profile `test`."""
    (tmp_path / "ready_made").mkdir()
    shutil.copy(made[1], tmp_path / "ready_made")
    monkeypatch.setattr(ready_made, "FOLDER", tmp_path / "ready_made")
    monkeypatch.setattr(work, "references", lambda profile: pool_in(Store(tmp_path / "store")))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    return Store(tmp_path / "store")


def networks_of(pool):
    return [recipe.key for recipe in (*pool.recipes.values(), *denoisers(pool))]


def test_a_look_from_an_archive_trains_nothing_and_measures_no_reference(made, store):
    asked = work.check(drawn("second"), lenses=LENSES, profile="test")
    assert not asked.pool.zoo.trained_here and all(store.has("network", key) for key in networks_of(asked.pool))
    said = "\n".join(asked.price())
    assert "training of" not in said
    for lens in LENSES:
        others = ", its twin and the references" if lens.name == "similarity" else " and its twin\n"
        assert f"{lens.name} of second{others}" in said + "\n"
    before = {(kind, key) for kind, key, *_ in store.entries()}
    report = look(drawn("second"), lenses=LENSES, profile="test")
    assert not report.failures and not report.asked.pool.zoo.trained_here
    new = [meta["of"] for kind, key, _, meta in store.entries() if kind == "lens" and (kind, key) not in before]
    assert new and all(one[0] in ("second", "second, untrained") for one in new)
    again = look(drawn("second"), lenses=LENSES, pool=made[0], name="again")
    assert again.rows.equals(report.rows), "as with references that were trained here"


def test_whoever_wants_trains_anew(made, store, tmp_path):
    work.check(drawn("second"), lenses=["manifold"], profile="test")
    first, *others = made[0].recipes.values()
    ready = store.load("network", first.key)
    shutil.move(ready.path, tmp_path / "ready")

    def make(folder):
        shutil.copy(tmp_path / "ready" / "data.safetensors", folder)
        return ready.meta

    here = store.obtain("network", first.key, make)
    before = [*store.entries()]
    assert "training of" in price(drawn("second"), lenses=["manifold"], profile="test", make=True)
    assert [*store.entries()] == before, "a price changes nothing"
    report = look(drawn("second"), lenses=LENSES[4:], profile="test", make=True)
    assert {*report.asked.pool.zoo.trained_here} == {one.key for one in others}
    assert store.load("network", first.key).meta == here.meta, "what was trained here stays"


def damage(path, how):
    data = path.read_bytes()
    if how == "text":
        path.write_bytes(b"<html>not an archive</html>" * 99)
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2 - 77])
    else:
        with tarfile.open(path) as tar:
            member = next(one for one in tar if one.name.endswith("data.safetensors"))
        path.write_bytes(data[: member.offset_data + 900] + b"\x13\x37" + data[member.offset_data + 902 :])


@pytest.mark.parametrize("how", ["text", "cut", "bits"])
def test_a_damaged_archive_is_one_sentence_with_a_remedy(store, how):
    damage(ready_made.place("test"), how)
    with pytest.raises(SettingsError) as error:
        work.check(drawn("second"), profile="test", lenses=["manifold"])
    said = str(error.value)
    assert said.startswith(f"archive = {ready_made.place('test')} is not possible: it must be ")
    assert said.endswith(ready_made.REMEDY) and "\n" not in said


def test_an_archive_holds_weights_and_texts_only(made):
    with tarfile.open(made[1]) as tar:
        names = {member.name.rpartition("/")[2] for member in tar if member.isfile()}
    assert names == {"data.safetensors", "table.csv", "meta.json"}


def test_what_is_missing_or_too_large_is_not_exported(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "empty"))
    for args, said in ([["export", "--ready-made", "test"], "needs the name"],
                       [["show", "--ready-made", "test"], "--ready-made is not possible without store export"],
                       [["export", str(tmp_path / "a.tar"), "--ready-made", "test"], "ready-made networks = digits"]):
        assert cli.main(["store", *args]) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ") and said in text and text.count("\n") == 1
    monkeypatch.setattr(ready_made, "MOST", 1000)
    with pytest.raises(SettingsError, match="size of the archive = .* MB is not possible"):
        ready_made.export(tmp_path / "a.tar", made[0], LENSES, DIGITS.n_test)
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize("archive", sorted(ready_made.FOLDER.glob("*.tar")), ids=lambda path: path.stem)
def test_archives_in_the_repository_are_whole_and_belong_to_their_profiles(archive, tmp_path, monkeypatch):
    assert archive.stat().st_size <= ready_made.MOST
    monkeypatch.setenv("REPRO_STORE", str(tmp_path))
    pool = work.references(archive.stem)
    ready_made.take(archive.stem, pool.zoo.store)
    recipes = [*pool.recipes.values(), *denoisers(pool)]
    found = contents(archive, "")
    assert {key for kind, key in found if kind == "network"} == {recipe.key for recipe in recipes}
    assert all(found["network", one.key]["recipe"] == plain(one) for one in recipes)
    for recipe in recipes:
        pool.zoo.obtain(recipe)
    assert not pool.zoo.trained_here
