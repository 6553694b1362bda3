"""`new-paper` in a copy of the project: the skeleton of a seventh paper is tested, run, judged and on the report."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from lib import new_paper
from lib.errors import SettingsError
from lib.papers import papers
from lib.runtime import ROOT

NAME = "weight_averaging"
COPIED = ("lib", "docs", "claims", "configs", "notebooks", "tests", "pyproject.toml", "Snakefile", "README.md")


def copy_of_the_project(folder):
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(
            ROOT / name, folder / name, **({"ignore": left_out} if (ROOT / name).is_dir() else {}))
    return folder


def python(folder, *args, **env):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(folder), **env}
    return subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, env=environment,
                          timeout=300)


@pytest.fixture(scope="module")
def seventh(tmp_path_factory):
    folder = copy_of_the_project(tmp_path_factory.mktemp("project"))
    made = python(folder, "-m", "lib", "new-paper", NAME)
    assert made.returncode == 0 and f"lib/papers/{NAME}/networks.py" in made.stdout, made.stderr
    return folder


@pytest.mark.slow
def test_the_skeleton_is_found_and_passes_its_own_tests_and_those_of_the_house(seventh):
    code = "from lib.papers import papers, settings\nprint([*papers()][-1], settings.load().notebooks[-1])"
    assert python(seventh, "-c", code).stdout.split() == [NAME, NAME]
    checked = python(seventh, "-m", "ruff", "check", "lib", "notebooks", f"tests/papers/{NAME}")
    assert checked.returncode == 0, checked.stdout
    done = python(seventh, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/papers/{NAME}",
                  "tests/house/test_house.py", "-k", f"{NAME} or paper or Notebook or plan")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_it_runs_is_judged_and_appears_on_the_report(seventh, tmp_path):
    """Its claim is tested from smoke on; here at `test` size, where nothing is learned, and so without gates."""
    for path, old, new in ((f"claims/{NAME}.yaml", "from: smoke", "from: test"),
                           ("configs/test.yaml", *_gates((seventh / "configs/test.yaml").read_text()))):
        text = (seventh / path).read_text()
        assert old in text
        (seventh / path).write_text(text.replace(old, new))
    place = {"REPRO_STORE": str(tmp_path / "store"), "REPRO_RESULTS": str(tmp_path / "results")}
    done = python(seventh, "-m", "lib", "run", "--profile", "test", "--seeds", "2", NAME, **place)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = next((tmp_path / "results").glob("test+*")) / NAME
    row, = json.loads((folder / "claims.json").read_text())
    assert row["verdict"] in ("supported", "contradicted", "undecided") and row["parts"][0]["low"] is not None
    front, every = ((folder.parent / name).read_text() for name in ("index.html", "claims.html"))
    assert f"{NAME}/notebook.html" in front and row["statement"] in every


def _gates(text):
    gates = text[text.rindex("  gates:"):]
    return gates, "  gates: {normal_clean: 0, normal_robust: 1, robust_clean: 0, robust_robust: 0}\n"


@pytest.mark.parametrize("name, allowed", [
    *((name, "lower-case") for name in ("Weight", "7th", "../x", "import", "")),
    ("networks", "a setting of the profiles"), (next(iter(papers())), "is there already"),
])
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_written(name, allowed, tmp_path):
    (tmp_path / "lib/papers/stitching").mkdir(parents=True)
    with pytest.raises(SettingsError, match=allowed):
        new_paper.write(name, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["lib", "papers", "stitching"]
