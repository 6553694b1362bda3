"""What comes from files, profiles and command lines is data: it is never run, leaves no folder, reaches no shell and no
page as it is.
"""

import json
import pickle
import re
import shlex
import tarfile
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib import batch, cli
from lib import site as report
from lib.errors import OneLineError, SettingsError
from lib.files import is_file_name
from lib.models.external import load_resnet
from lib.papers import papers, settings
from lib.papers.plan import plan
from lib.runtime import ROOT
from lib.store import Store
from lib.study import Study

EVIL = ["../x", "..", "/tmp/x", "a/b", "a\\b", "x;touch y", "$(touch y)", "`touch y`", "<script>alert(1)</script>", "",
        ".hidden", "a\nb", "{input}", "a\0b"]


class Touch:
    """What a pickle may do when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("save", [lambda value, path: torch.save(value, path),
                                  lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_from_outside_is_never_executed(save, tmp_path):
    path, mark = tmp_path / "weights.pt", tmp_path / "executed"
    save({"conv.weight": torch.zeros(1), "evil": Touch(mark)}, path)
    with pytest.raises(OneLineError):
        load_resnet(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Touch(mark)))
    assert mark.exists(), "the trap works"


def test_lib_reads_no_pickle_but_tensors():
    for path in (ROOT / "lib").rglob("*.py"):
        for call in re.findall(r"(?<!['\"])torch\.load\([^\n]*", path.read_text(encoding="utf-8")):
            if "{path}" not in call and ".pkl" not in call:  # advice that an error gives
                assert "weights_only=True" in call, f"{path}: {call}"
        assert "yaml.load(" not in path.read_text(encoding="utf-8") or path.name == "loader.py"  # its safe Reader


@pytest.mark.parametrize("name", EVIL)
def test_names_that_lead_elsewhere_name_no_file(name, tmp_path, monkeypatch, capsys):
    assert not is_file_name(name)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    study = SimpleNamespace(folder=tmp_path)
    for save in (Study.table, Study.figure):
        with pytest.raises(SettingsError, match="name of one of the"):
            save(study, name, pd.DataFrame())
    for command in ("publish", "compare"):
        assert cli.main([command, name]) == 2
        assert capsys.readouterr().err.count("\n") - name.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == []


GATES = ("normal_clean", "normal_robust", "robust_clean", "robust_robust")
# A section of each paper with a name of the user's in it: {name} stands for it.
NAMED = {
    "representation_similarity": ("arms", [{"name": "{name}", "group": "threat", "threat": {"norm": "l2", "eps": 1},
                                            "attack": {"steps": 1, "step_size": 1}}]),
    "compact_robust_pruning": ("nets", [{"name": "{name}", "training": "PGD-AT", "finetune": {"epochs": 1},
                                         "gates": dict.fromkeys(GATES, 0.5)}]),
}


@pytest.mark.parametrize("paper", NAMED)
@pytest.mark.parametrize("name", [name for name in EVIL if name])
def test_names_of_a_profile_reach_a_shell_and_files_as_one_word(paper, name):
    setting, value = NAMED[paper]
    value = json.loads(json.dumps(value).replace('"{name}"', json.dumps(name)))
    try:
        s = settings.load("test", {f"{paper}.{setting}": value})
    except SettingsError as error:
        assert setting in str(error)
        return
    for task in plan(s, (paper,)):
        assert shlex.quote(task.job) == task.job and "/" not in task.job and not task.job.startswith(".")
    assert all(shlex.quote(job) == job for job in batch.batch_jobs(s, (paper,)))


def test_every_paper_s_jobs_are_words():
    for profile in settings.profiles():
        s = settings.load(profile)
        assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", task.job) for task in plan(s, tuple(s.notebooks)))
    assert {*papers()} >= {*NAMED}


def test_what_a_run_wrote_is_text_on_its_pages(tmp_path):
    """The site is made from files that anybody may have written."""
    script = "<script>alert(1)</script>"
    for source in sorted((ROOT / "results" / "reference" / "smoke" / "stitching").glob("*.json")):
        place = tmp_path / "smoke" / "stitching" / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_infected(json.loads(source.read_text(encoding="utf-8")), script), encoding="utf-8")
    report.index(tmp_path / "smoke")
    made = [path.read_text(encoding="utf-8") for path in (tmp_path / "smoke").rglob("*.html")]
    assert not [page for page in made if script in page]
    assert sum("&lt;script&gt;" in page for page in made) > 12, "the front page, all claims, and a page for each"


def _infected(value, script, key="", kept=("status", "verdict", "notebook", "profile", "run", "statistic", "side",
                                           "combine", "started", "finished", "commit", "id", "figure", "asks")):
    def walk(value, key):
        if isinstance(value, dict):
            return {name: walk(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [walk(part, key) for part in value]
        return value + script if isinstance(value, str) and key not in kept else value

    return json.dumps(walk(value, key))


def test_an_archive_writes_nothing_outside_the_store(tmp_path):
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../escaped", "/tmp/escaped-absolute", "network/k/../../../escaped"):
            tar.add(tmp_path / "evil", arcname=name)
    with pytest.raises(OneLineError):
        Store(tmp_path / "deep" / "store").import_(tmp_path / "a.tar")
    assert not list(tmp_path.rglob("escaped*"))


def test_jupyterlab_is_started_with_its_own_safe_defaults():
    script = (ROOT / "run_all.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in script.splitlines() if "jupyterlab" in line and "exec" in line)
    names = {word.split("=")[0] for word in line.split() if word.startswith("--")}
    assert names == {"--ServerApp.root_dir", "--LabApp.default_url", "--LabApp.app_settings_dir",
                     "--FileContentsManager.pre_save_hook",
                     "--KernelManager.transport_encryption"}, "localhost, with a token"
