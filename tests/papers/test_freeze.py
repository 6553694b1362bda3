"""A frozen paper: its seeds and test images are drawn from its values, written down, and stay."""

import csv
import json
from dataclasses import replace

import pytest

from lib import claims, data
from lib.claims.sheet import Expectation
from lib.errors import SettingsError
from lib.papers import freeze as freezing
from lib.papers import settings
from lib.papers.plan import plan
from lib.profiles import frozen
from lib.values.data import Data
from lib.values.keys import digest
from lib.values.recipe import outcome_key

PAPER, OTHER = "stitching", "harp_pruning"


@pytest.fixture
def expecting(tmp_path, monkeypatch):
    """A project at a clean commit that expects support for every claim, where nothing is frozen yet."""
    monkeypatch.setattr(frozen, "FOLDER", tmp_path / "frozen")
    monkeypatch.setattr(freezing, "commit", lambda: "0123456789ab")
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    sheets = {paper: claims.load(paper) for paper in (PAPER, OTHER)}
    for paper, sheet in sheets.items():
        sheets[paper] = replace(sheet, claims=tuple(
            replace(claim, expected=(Expectation("smoke", "supported"),)) for claim in sheet))
    monkeypatch.setattr(claims, "load", lambda paper, profile: sheets[paper])
    asked_for(monkeypatch, first_seed=0)
    return sheets


def asked_for(monkeypatch, **values):
    """Let the profile's file say other values at its top."""
    old = settings.read
    for module in (settings, freezing):
        monkeypatch.setattr(module, "read", lambda path: {**old(path), **values})


def test_what_is_drawn_follows_from_the_values_alone(expecting, monkeypatch):
    first = freezing.freeze("smoke", (PAPER,))
    frozen.place("smoke").unlink()
    assert freezing.freeze("smoke", (PAPER,)) == first == frozen.load_frozen("smoke")
    assert first.first_seed >= 1000, "seeds that settings were chosen with are smaller"
    frozen.place("smoke").unlink()
    sheet = expecting[PAPER]
    part = sheet.claims[0].parts[0]
    harder = replace(sheet.claims[0], parts=(replace(part, margin=part.margin + 0.01), *sheet.claims[0].parts[1:]))
    expecting[PAPER] = replace(sheet, claims=(harder, *sheet.claims[1:]))
    second = freezing.freeze("smoke", (PAPER,))
    assert second.first_seed == first.first_seed
    assert second.paper(PAPER).test_draw != first.paper(PAPER).test_draw
    frozen.place("smoke").unlink()
    pool = settings.read(settings.ROOT / "configs" / "smoke.yaml")["networks"]
    asked_for(monkeypatch, networks={**pool, "batch_size": 32})
    assert freezing.freeze("smoke", (PAPER,)).first_seed != first.first_seed


def test_a_frozen_profile_has_the_drawn_seed_and_keeps_it(expecting, monkeypatch):
    asked_for(monkeypatch, first_seed="frozen")
    with pytest.raises(SettingsError, match="first_seed = frozen is not possible: it must be a whole number until "
                                            "`./run_all.sh freeze --profile smoke` has drawn one"):
        settings.load("smoke")
    drawn = freezing.freeze("smoke", (PAPER,))
    assert settings.load("smoke").seed(2) == drawn.first_seed + 2
    assert settings.load("smoke", {"networks.batch_size": 32}).first_seed == drawn.first_seed
    other = settings.load("smoke", {"first_seed": 7})
    assert other.first_seed == 7 and other.networks_of(PAPER).data.draw == drawn.paper(PAPER).test_draw
    later = freezing.freeze("smoke", (OTHER,))
    assert later.first_seed == drawn.first_seed and later.papers[:1] == drawn.papers and len(later.papers) == 2


def test_only_the_frozen_paper_is_measured_on_other_images(expecting):
    def keys(s, paper):
        tasks = plan(s, (paper,))
        return {t.recipe.key for t in tasks}, {outcome_key(*m) for t in tasks for m in t.measures}

    before = {paper: keys(settings.load("smoke"), paper) for paper in (PAPER, OTHER)}
    freezing.freeze("smoke", (PAPER,))
    after = {paper: keys(settings.load("smoke"), paper) for paper in (PAPER, OTHER)}
    assert after[OTHER] == before[OTHER]
    assert after[PAPER][0] == before[PAPER][0], "the networks stay"
    assert after[PAPER][1].isdisjoint(before[PAPER][1]) and len(after[PAPER][1]) == len(before[PAPER][1])
    together = plan(settings.load("smoke"), (PAPER, OTHER))
    assert {outcome_key(*m) for t in together for m in t.measures} == after[PAPER][1] | after[OTHER][1]


def test_a_draw_gives_other_balanced_test_images_and_the_same_training_images():
    first, other = (data.load(Data("digits", train=200, test=100, draw=draw), "test") for draw in (None, 5))
    assert sorted(first.labels.tolist()) == sorted(other.labels.tolist())
    assert set(first.indices.tolist()) != set(other.indices.tolist())
    one, two = (data.load(Data("digits", train=200, test=100, draw=draw), "train") for draw in (None, 5))
    assert one.indices.tolist() == two.indices.tolist()
    letters = data.load(Data("digits_letters", test=100, draw=5), "test")
    assert letters.indices.tolist() == other.indices.tolist(), "sets that are made from each other show the same images"


@pytest.mark.parametrize(("arrange", "said"), [
    (lambda e, m: m.setattr(freezing, "commit", lambda: "0123456789ab+changes"),
     "commit = 0123456789ab+changes is not possible: it must be one that holds all changes"),
    (lambda e, m: e.update({PAPER: replace(e[PAPER], claims=tuple(replace(c, expected=()) for c in e[PAPER]))}),
     "expected of stitching = nothing for C1a, "),
    (lambda e, m: freezing.freeze("smoke", (PAPER,)), "it must not be frozen yet, and it was for profile smoke on 20"),
    (lambda e, m: frozen.FOLDER.mkdir() or frozen.place("smoke").write_text('{"first_seed": 0, "pool": "a"}'),
     "first_seed = 0 is not possible"),
])
def test_what_cannot_be_frozen_is_one_sentence_and_writes_nothing(expecting, monkeypatch, arrange, said):
    arrange(expecting, monkeypatch)
    before = frozen.place("smoke").read_text() if frozen.place("smoke").exists() else None
    with pytest.raises(SettingsError) as error:
        freezing.freeze("smoke", (OTHER, PAPER))
    assert said in str(error.value)
    assert (frozen.place("smoke").read_text() if frozen.place("smoke").exists() else None) == before


def test_verdicts_say_what_was_expected_and_which_claim_was_changed_after(expecting):
    found = freezing.freeze("smoke", (PAPER,)).paper(PAPER)
    edited = replace(expecting[PAPER].claims[0], statement="It holds.")
    added = replace(edited, id="C99")
    elsewhere = replace(added, scope=("laptop",))
    others = [claim for claim in expecting[PAPER].claims[1:] if "smoke" in claim.scope][:2]
    judged = [claims.judge(claim, {}, "smoke") for claim in (edited, *others, added, elsewhere)]
    entries = [one.to_dict() for one in claims.as_expected(judged, found, "smoke")]
    assert [(one["expected"], one["changed_after_seeing"]) for one in entries] == [
        ("supported", True), ("supported", False), ("supported", False), ("nothing", True), ("nothing", False)]
    assert "expected" not in claims.as_expected(judged, None, "smoke")[0].to_dict()
    assert digest(edited) == digest(replace(edited, expected=())), "an expectation decides nothing"


def test_starts_of_frozen_papers_are_logged(expecting, tmp_path):
    settings.load("smoke").note_start((PAPER,), "run")
    assert frozen.starts("smoke", tmp_path / "none.csv") == ""
    freezing.freeze("smoke", (PAPER,))
    now = settings.load("smoke", {"stitching.seeds": 4})
    now.note_start((OTHER,), "run")
    now.note_start((PAPER, OTHER), "run")
    now.note_start((PAPER,), "interactive")
    rows = list(csv.DictReader(frozen.starts("smoke", tmp_path / "none.csv").splitlines()))
    assert [(row["papers"], row["how"], row["overrides"]) for row in rows] == [
        (f"{PAPER} {OTHER}", "run", "stitching.seeds=4"), (PAPER, "interactive", "stitching.seeds=4")]
    assert {row["first_seed"] for row in rows} == {str(now.first_seed)} and {row["run"] for row in rows} == {now.run}
    assert frozen.starts("laptop", tmp_path / "none.csv") == ""
    published, mine = tmp_path / "published.csv", frozen.starts("smoke", tmp_path / "none.csv")
    earlier = "2020-01-01T00:00:00Z,smoke,smoke,harp_pruning,1,,abc,run"
    published.write_text(mine + earlier + "\n" + earlier.replace("smoke", "laptop") + "\n", encoding="utf-8")
    head, *lines = mine.splitlines()
    assert frozen.starts("smoke", published).splitlines() == [head, earlier, *lines], "of another folder of results"


def test_the_freeze_is_a_file_that_people_can_read(expecting):
    freezing.freeze("smoke", (PAPER,))
    written = json.loads(frozen.place("smoke").read_text())
    assert written["papers"][0]["claims"][0]["expected"] == "supported"
