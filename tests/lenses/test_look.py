"""A look at any network: what is refused before any work, the price, progress, what a crash leaves, and the report."""

import json
import os
import re
from dataclasses import dataclass, replace
from html import escape

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import cli
from lib.errors import SettingsError
from lib.lenses.accuracy import Accuracy
from lib.lenses.alignment import Alignment
from lib.lenses.lens import COLUMNS, Lens, Pool
from lib.lenses.manifold import Manifold
from lib.lenses.prunability import Prunability
from lib.lenses.similarity import Similarity
from lib.lenses.stitching import Stitching
from lib.lenses.subject import Subject
from lib.look import figures, look, price, work
from lib.look.command import normaliser
from lib.papers.settings import load as profile
from lib.profiles.networks import Training
from lib.runtime import ROOT, initialise_with
from lib.store import Store
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet
from lib.values.attacks import APGD, Square
from lib.values.data import Data

SMALL = (Accuracy(APGD(3, targets=1), Square(5), steps=2), Stitching(50, 1, 2), Similarity(4), Alignment(),
         Manifold(4, 20, 2))
DIGITS = Data("digits", train=128, test=48)
QUICK = ("manifold",)


class Residual(nn.Module):
    """Residuals without a module for the sum, GroupNorm, and ReLUs that overwrite their input."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.conv, self.relu, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(8 * 16, 10)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.norm(self.conv(x)))
        return self.fc(F.max_pool2d(x, 2).flatten(1))


class Untraceable(nn.Module):
    """Control flow that depends on the images."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return -self.fc(x.flatten(1)) if x.sum() < 0 else self.fc(x.flatten(1))


def plain():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1),
                         nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def one_class():
    net = plain()
    with torch.no_grad():
        net[-1].weight.mul_(1e-3), net[-1].bias.zero_()[3].fill_(5)
    return net


def subject(make, name, how="inside"):
    with initialise_with("look"):
        return Subject.wrap(make(), data=DIGITS, normaliser=how, name=name)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two normal and two robust networks that were hardly trained."""
    torch.set_num_threads(1)
    networks = replace(profile("test").networks, data=DIGITS, arch=ResNet(4, (1, 1)))
    return Pool(Zoo(Store(tmp_path_factory.mktemp("store"))), networks, lambda repetition: repetition)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(work, "ALL", SMALL)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))


@pytest.fixture(scope="module")
def two(pool, tmp_path_factory):
    """The report of two networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "ALL", SMALL)
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("results")))
        report = look(subject(plain, "plain", "half"), subject(Residual, "residual"), pool=pool, name="two")
        return report, report.page.parent, report.page.read_text(encoding="utf-8")


def test_all_lenses_see_all_networks(two):
    report, folder, _ = two
    assert not report.failures and not report.asked.left and len(report.seen) == len(SMALL) * 2
    rows = pd.read_csv(folder / "rows.csv", keep_default_na=False)
    assert tuple(rows.columns) == ("subject", *COLUMNS)
    assert {*zip(rows["subject"], rows["lens"], strict=True)} == {
        (name, lens.name) for name in ("plain", "residual") for lens in SMALL}
    own = rows[(rows["subject"] == "plain") & (rows["role"] != "subject")]
    assert {*own["network"]} == {"plain, untrained", "N0", "N1", "R0", "R1"}


def test_the_report_says_what_was_measured(two):
    report, folder, _ = two
    about = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in about["subjects"]] == ["plain", "residual"]
    assert [one["key"] for one in about["subjects"]] == [one.key for one in report.asked.subjects]
    assert "mean 0.5, standard deviation 0.5" in about["subjects"][0]["normaliser"]
    assert about["images"] == 48 and about["first seed"] == 0 and about["data"] == "digits"
    trained = {one["network"]: one for one in about["trained"]}
    assert {*trained} == {"N0", "R0", "N1", "R1", "denoiser 0", "denoiser 1"}
    assert all(one["seconds"] > 0 and one["training images"] > 0 for one in trained.values())
    assert {*about["seconds"]} == {lens.name for lens in SMALL}
    assert about["commit"] and "look(" in about["command"]


def test_the_page_tells_all_by_itself(two):
    report, folder, page = two
    for lens in SMALL:
        assert f'<section id="{lens.name}">' in page and lens.title in page
    assert all(str(escape(sentence, quote=True)).replace("&#x27;", "&#39;") in page for sentence in report.sentences())
    assert not re.findall(r'(?:src|href)="(?!data:|#|figures/|rows\.csv|report\.json)', page), "it needs nothing else"
    pictures = re.findall(r'<img src="data:[^"]*" alt="([^"]*)"', page)
    assert len(pictures) == len({*pictures}) == len([*(folder / "figures").iterdir()]) == 7
    assert all(len(alt) > 40 for alt in pictures)
    assert all(place.is_file() for place in map(folder.__truediv__, re.findall(r'href="([^#"][^":]*)"', page)))
    assert page.count('<tr class="subject">') > 4 * len(SMALL) and "nan" not in re.sub(r'base64,[^"]*', "", page)
    assert "Two by two" in page and re.search("has more|they overlap", page)
    assert "48 test images of digits" in page and "normalised: mean 0.5" in page


def test_a_second_look_measures_nothing_again(two, pool, capsys, monkeypatch):
    report, *_ = two
    before = {(kind, key) for kind, key, *_ in pool.zoo.store.entries()}
    again = look(*report.asked.subjects, pool=pool, name="again")
    assert {(kind, key) for kind, key, *_ in pool.zoo.store.entries()} == before
    assert again.rows.equals(report.rows) and again.sentences() == report.sentences()
    said = capsys.readouterr().out
    assert all(sentence in said for sentence in report.sentences()) and str(again.page) in said


def test_prunability_is_measured_where_it_is_named(pool):
    own = subject(plain, "plain")
    assert "prunability" not in {lens.name for lens in work.check(own, pool=pool).lenses}
    assert work.check(own, pool=pool, lenses=["prunability"]).lenses == [Prunability()]
    report = look(own, pool=pool, lenses=[Prunability("1/2", finetune=Training(1), steps=2)], name="pruned")
    page, told = report.page.read_text(encoding="utf-8"), "\n".join(report.asked.price())
    assert not report.failures and 'id="prunability"' in page and report.sentences()[0][:4] in ("With", "How ")
    assert [file.stem for file in report.figures] == ["accuracy_pruned"] and "prunability of plain" in told
    about = json.loads((report.page.parent / "report.json").read_text(encoding="utf-8"))
    trained = {one["network"]: one for one in about["trained"]}
    assert {*trained} == {name + end for name in pool.recipes for end in ("", ", fine-tuned", ", pruned to 50%")}
    assert {trained[f"{name}{end}"]["training"] for name in ("N0", "R0") for end in (", fine-tuned", ", pruned to 50%")
            } == {"again, on images changed by PGD-2"}, "and not as the references"
    assert (trained["N0"]["training"], trained["R0"]["training"][:20]) == ("on clean images", "on images changed by")
    assert "keep 0.5" in trained["R0, pruned to 50%"]["architecture"]


def test_a_network_with_one_answer_is_told(pool):
    report = look(subject(one_class, "always 3"), pool=pool, lenses=QUICK)
    said, = report.notes["always 3"]
    assert said.startswith("it answers class 3 for 100% of the images")
    assert said in report.page.read_text(encoding="utf-8")


def test_a_lens_that_needs_layers_is_left_out_unless_it_is_asked_for(pool):
    flow = subject(Untraceable, "flow")
    asked = work.check(flow, pool=pool)
    assert [lens.name for lens in asked.lenses] == ["accuracy", "alignment", "manifold"] and len(asked.left) == 2
    left = asked.left[-1]
    assert left.startswith("Similarity of representations is left out for flow: its graph cannot be traced")
    assert left in "\n".join(asked.price())
    with pytest.raises(SettingsError, match="the lens similarity = of flow is not possible"):
        work.check(flow, pool=pool, lenses=["similarity"])


def test_a_lens_that_crashes_loses_nothing_of_the_others(pool, monkeypatch, capsys):
    class Broken(Manifold):
        name, title = "broken", "Something broken"

        def measure(self, subject, pool, images):
            raise RuntimeError("out of <luck>\nand more")

    monkeypatch.setattr(work, "ALL", (Broken(), SMALL[4]))
    monkeypatch.setitem(figures.DRAWN, "manifold", lambda *_: 1 / 0)
    report = look(subject(plain, "plain"), pool=pool)
    failure, of_figures = report.failures
    assert (of_figures.subject, of_figures.sentence) == ("figures of plain", "ZeroDivisionError: division by zero")
    assert failure.sentence == "RuntimeError: out of <luck>" and "in measure" in failure.trace
    assert [one.lens.name for one in report.seen] == ["manifold"]
    page = report.page.read_text(encoding="utf-8")
    assert "out of &lt;luck&gt;" in page and "2 parts of this report failed" in page and 'id="manifold"' in page
    assert "failed: RuntimeError" in capsys.readouterr().out


def test_a_further_lens_is_drawn_without_a_word_about_it(pool, monkeypatch):
    @dataclass(frozen=True)
    class Size(Lens):
        name, title = "size", "Size of logits"

        def price(self, subject, pool, images):
            return 1.0

        def measure(self, subject, pool, images):
            return self.rows([self.row(role, one, "largest logit", float(one.net(images.pixels()).max()), images, "")
                              for role, one in pool.roles(subject)])

        def sentence(self, rows):
            return "It has a size."

    monkeypatch.setattr(work, "ALL", (Size(),))
    page = look(subject(plain, "plain"), pool=pool).page.read_text(encoding="utf-8")
    assert page.count("Largest logit") == 2 and "It has a size." in page


def test_the_price_is_told_lens_by_lens_and_nothing_is_run(pool, tmp_path):
    fresh = replace(pool, zoo=Zoo(Store(tmp_path / "store")))
    text = price(subject(plain, "plain"), pool=fresh)
    assert text.startswith("plain next to 4 references: 48 test images of digits")
    assert len(re.findall(r"\d x training of ", text)) == 3, "normal, robust, denoisers"
    for lens in SMALL:
        assert re.search(rf"(?m)^ +\d+ (s|min|h)\b.*  {lens.name} of plain", text), text
    assert "about" in text and "disk: about" in text and not fresh.zoo.trained_here
    assert not (tmp_path / "look").exists()


@pytest.mark.parametrize("options, said", [
    ({"lenses": ["acuracy"]}, "unknown lens 'acuracy'; did you mean 'accuracy'"),
    ({"lenses": []}, "lenses = [] is not possible: it must be a list of some of accuracy, stitching"),
    ({"lenses": "accuracy"}, "lenses = 'accuracy' is not possible"),
    ({"lenses": ["accuracy", "accuracy"]}, "lenses = accuracy is not possible: it must be named once"),
    ({"images": 12}, "images = 12 is not possible: it must be a whole number from 40 to 48, the test images of digits"),
    ({"images": 49}, "images = 49 is not possible"),
    ({"images": 40.5}, "images = 40.5 is not possible"),
    ({"name": "../up"}, "name = ../up is not possible: it must be one of letters"),
    ({"pool": None, "profile": "smole"}, "unknown profile 'smole'; did you mean 'smoke'"),
    ({"pool": None, "profile": "laptop"}, "data of plain = digits [1, 8, 8] is not possible"),
])
def test_what_is_not_possible_is_refused_before_any_work(pool, options, said):
    with pytest.raises(SettingsError) as error:
        work.check(subject(plain, "plain"), **{"pool": pool, **options})
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_subjects_are_checked(pool):
    one = subject(plain, "plain")
    for given, said in [((), "subjects = none"), ((plain(),), "subject = Sequential"),
                        ((one, one), "names = plain, plain"), ((replace(one, name="a/b"),), "name = a/b"),
                        ((replace(one, name="N0"),), "name = N0")]:
        with pytest.raises(SettingsError, match=re.escape(said)):
            work.check(*given, pool=pool)


# --------------------------------------------------------------------------------------------------- the command line

NETS = """
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20))

def sized():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    torch.save({"0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    monkeypatch.setenv("REPRO_CALLED_FROM", str(tmp_path))
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("REPRO_THREADS", "1")
    return tmp_path


@pytest.mark.parametrize("args, said", [
    (["nets.py:small"], "normaliser = None is not possible: it must be given"),
    (["nets.py:small", "--normaliser", "imagnet"], '--normaliser = imagnet is not possible: it must be "inside"'),
    (["nets.py:small", "--normaliser", "0.5/0"], "normaliser = ([0.5], [0.0]) is not possible"),
    (["nets.py:smal", "--normaliser", "inside"], "unknown function in nets.py 'smal'"),
    (["nothing.py:small", "--normaliser", "inside"], "source = nothing.py:small is not possible"),
    (["nets.py:wide", "--normaliser", "inside"], "number of classes = 20 is not possible"),
    (["nets.py:sized", "--normaliser", "inside"], "net = Sequential is not possible: it must be a network that takes"),
    (["nets.py:small", "--normaliser", "inside", "--weights", "none.pt"], "none.pt"),
    (["nets.py:small", "--normaliser", "inside", "--weights", "other.pt"], "other.pt"),
    (["nets.py:small", "nets.py:small", "--normaliser", "inside", "--name", "a"],
     "--name = given 1 times is not possible: it must be given once for each of the 2 sources"),
    (["nets.py:small", "--normaliser", "inside", "--data", "cifar10"],
     "--data = cifar10 is not possible: it must be digits, the data of the references of profile test"),
    (["nets.py:small", "--normaliser", "inside", "--lens", "accuracy,nothing"], "unknown lens 'nothing'"),
    (["nets.py:small", "--normaliser", "inside", "--images", "3"], "images = 3 is not possible"),
])
def test_a_wrong_command_line_is_one_sentence(nets, args, said, capsys):
    assert cli.main(["look", *args, "--profile", "test"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and said in text and text.count("\n") == 1
    assert not (nets / "look").exists() and not (nets / "store" / "network").exists()


def test_a_command_gives_its_report_and_its_status(nets, capsys, monkeypatch):
    args = ["look", "nets.py:small", "--normaliser", "0.5/0.25", "--profile", "test", "--lens", "manifold", "--images",
            "40", "--name", "mine"]
    assert cli.main([*args, "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("nothing was run\n") and not (nets / "look").exists()
    assert cli.main(args) == 0
    about = json.loads((nets / "look" / "mine" / "report.json").read_text(encoding="utf-8"))
    assert about["command"] == ("./run_all.sh look nets.py:small --profile test --normaliser 0.5/0.25 --name mine "
                                "--lens manifold --images 40") and about["threads"] == 1
    monkeypatch.setattr(Manifold, "measure", lambda *_: 1 / 0)
    assert cli.main(args) == 1
    assert os.getcwd() != str(nets), "the working folder is as it was"


@pytest.mark.parametrize("text, wanted", [
    ("inside", "inside"), ("cifar10", "cifar10"), (None, None), ("0.5/0.25", ([0.5], [0.25])),
    ("0.4,0.5,0.6/1,2,3", ([0.4, 0.5, 0.6], [1, 2, 3])),
])
def test_normalisers_are_read(text, wanted):
    assert normaliser(text) == wanted


def test_the_three_lines_of_the_documentation_are_possible(monkeypatch):
    text = (ROOT / "docs" / "look.md").read_text(encoding="utf-8")
    block, = re.findall(r"(?s)```python\n(.*?)```", text)
    seen = []
    monkeypatch.setattr("lib.look.look", lambda *given, **options: seen.append(work.check(*given, **options)))
    exec(block, {"network": plain()})
    assert seen[0].folder.name == "mine" and seen[0].profile == "smoke"
    assert all(f"| `{lens.name}` |" in text for lens in SMALL) and "| `prunability` (on request) |" in text


@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    for name in ("REPRO_RESULTS", "REPRO_STORE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = papermill.execute_notebook(ROOT / "your_network.ipynb", tmp_path / "out.ipynb",
                                      {"profile": "test", "images": 40}, cwd=ROOT, kernel_name="python3",
                                      progress_bar=False)
    assert (tmp_path / "REPRO_RESULTS" / "look" / "mine" / "report.html").is_file()
    outputs = [output for cell in page.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_can_be_read(two, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    from tests.site.test_browser import CHROMIUM, TEXTS, overlaps

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        errors = []
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("requestfailed", lambda request: errors.append(request.url))
        page.goto(two[0].page.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        texts = page.evaluate(TEXTS)
        assert not [text["text"] for text in texts if text["clipped"]]
        assert not overlaps([text for text in texts if not text["apart"]])
        violations = axe.Axe().run(page, options={"preload": False}).response["violations"]
        assert not [(one["id"], [node["target"] for node in one["nodes"]][:5]) for one in violations]
        assert not errors
        browser.close()
