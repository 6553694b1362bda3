"""What a user or a machine can do wrong, and the one sentence that says so: no traceback, and no work before it."""

import ast
import errno
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lib import batch, cli
from lib.claims import sheet
from lib.papers import settings
from lib.runtime import ROOT
from lib.store import Store

TEST = ["--profile", "test"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a little of everything that is wrong; the environment names its `results` and `store`."""
    for name in ("results/torn/stitching", "results/smoke/stitching", "results/list/stitching", "folder"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("a file")
    for path in ("torn/stitching/card.json", "smoke/stitching/claims.json"):
        (tmp_path / "results" / path).write_text('{"status": ')
    (tmp_path / "results/list/stitching/card.json").write_text('{"status": "failed"}')
    Store(tmp_path / "store").obtain("network", "k", lambda work: (work / "data.txt").write_text("x" * 9999) and {})
    Store(tmp_path / "store").export(tmp_path / "whole.tar")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:5000])
    with tarfile.open(tmp_path / "foreign.tar", "w") as archive:
        archive.add(tmp_path / "file", "file")
    for name in ("REPRO_DATA", "REPRO_RUN_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "store"))
    for engine in ("_snakemake", "_replay"):
        monkeypatch.setattr(batch, engine, lambda *given: pytest.fail("it began to work"))
    return tmp_path


def told(args, capsys, status=2) -> str:
    """The one sentence that a command ends with."""
    assert cli.main(args) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n"), said
    return said


# what is called, {what the environment says}, words of the sentence; {} stands for the folder of the fixture
ROWS = [
    ([], {}, ["required: COMMAND", "run_all.sh --help"]),
    (["rnu"], {}, ["invalid choice: 'rnu'"]),
    (["run", "--sedes", "3"], {}, ["--sedes", "run_all.sh --help"]),
    (["run", "--seeds", "many"], {}, ["--seeds", "invalid int value: 'many'"]),
    (["run", "--seeds", "0", *TEST], {}, ["seeds = 0", "a whole number from 1"]),
    (["run", "--seeds", "-3", *TEST], {}, ["seeds = -3", "a whole number from 1"]),
    (["run", "--jobs", "0", *TEST], {}, ["--jobs = 0", "1 or more"]),
    (["run", "--jobs", "1.5", *TEST], {}, ["--jobs", "invalid int value: '1.5'"]),
    (["run", "--gpus", "9", "-p", "device=auto", *TEST], {"CUDA_VISIBLE_DEVICES": ""},
     ["--gpus 9", "torch sees no GPU here"]),
    (["run", "--gpus", "0,1", "--dry-run", "--on", "h200", *TEST], {}, ["--gpus = 0,1", "how many cards"]),
    (["run", "--jobs"], {}, ["--jobs: expected one argument"]),
    (["run", "--profile", "tset"], {}, ["unknown profile 'tset'", "did you mean 'test'"]),
    (["run", "--profile", ""], {}, ["unknown profile ''"]),
    (["run", "stiching", *TEST], {}, ["unknown notebook 'stiching'", "did you mean 'stitching'"]),
    (["run", "", *TEST], {}, ["unknown notebook ''"]),
    (["run", "stitching", "--profile", "imagenet"], {}, ["imagenet", "no section for it"]),
    (["run", "-p", "epochs", *TEST], {}, ["-p epochs", "name=value"]),
    (["run", "-p", "=3", *TEST], {}, ["-p =3", "name=value"]),
    (["run", "-p", "seeds=[1, ", *TEST], {}, ["'[1, '", "cannot be read"]),
    (["run", "-p", "seeds=2020-13-45", *TEST], {}, ["'2020-13-45'", "a whole number"]),
    (["run", "-p", "seeds=" + "[" * 5000, *TEST], {}, ["cannot be read"]),
    (["run", "-p", "seeds=!!python/object:os.system", *TEST], {}, ["cannot be read"]),
    (["run", "-p", "sedes=3", *TEST], {}, ["unknown parameter 'sedes'", "did you mean"]),
    (["run", "-p", "seeds=", *TEST], {}, ["seeds = null", "must be given"]),
    (["run", "-p", "seeds=1.5", *TEST], {}, ["seeds = 1.5"]),
    (["run", "-p", "networks=3", *TEST], {}, ["networks = 3", "a section"]),
    (["run", "-p", "networks=null", *TEST], {}, ["networks = null", "must be given"]),
    (["run", "-p", "networks.robust.epochs.x=3", *TEST], {}, ["networks.robust.epochs.x = 3", "a single value"]),
    (["run", "-p", "networks.robust.epochs=many", *TEST], {}, ["networks.robust.epochs", "many"]),
    (["run", "-p", "networks.arch.type={x: 1}", *TEST], {}, ["unknown networks.arch type"]),
    (["run", "-p", "nothing.x=3", *TEST], {}, ["unknown parameter 'nothing'"]),
    (["run", "-p", "device=gpu", *TEST], {}, ["device = gpu", "auto, cpu, cuda"]),
    (["run", "-p", "jobs=all", *TEST], {}, ["unknown jobs 'all'"]),
    (["train", "nosuch", *TEST], {}, ["unknown job 'nosuch'"]),
    (["notebook", "nosuch", *TEST], {}, ["unknown notebook 'nosuch'"]),
    (["again", "nosuch", *TEST], {}, ["KEY = nosuch"]),
    (["index", "{}/nowhere"], {}, ["folder = {}/nowhere", "the folder of a run"]),
    (["index", "{}/file"], {}, ["folder = {}/file", "the folder of a run"]),
    (["publish", "nosuch"], {}, ["run = nosuch", "no finished notebook"]),
    (["publish", "torn"], {}, ["torn/stitching/card.json is damaged", "not JSON"]),
    (["publish", "list"], {}, ["run = list", "status failed"]),
    (["compare", "nosuch"], {}, ["run = nosuch", "there is no run", "there are "]),
    (["compare", "smoke"], {}, ["smoke/stitching/claims.json is damaged", "not JSON"]),
    (["store", "sell"], {}, ["invalid choice: 'sell'"]),
    (["store", "export"], {}, ["store export needs the name of a .tar file"]),
    (["store", "export", "{}/nowhere/all.tar"], {}, ["{}/nowhere/all.tar", "a folder that exists"]),
    (["store", "export", "{}/folder"], {}, ["{}/folder", "a file in a folder"]),
    (["store", "import", "{}/nowhere.tar"], {}, ["{}/nowhere.tar", "no such file"]),
    (["store", "import", "{}/file"], {}, ["{}/file", "a whole .tar"]),
    (["store", "import", "{}/cut.tar"], {}, ["{}/cut.tar", "a whole .tar"]),
    (["store", "import", "{}/foreign.tar"], {}, ["{}/foreign.tar", "entries of a store"]),
    (["store", "show"], {"REPRO_STORE": "{}/file"}, ["store = {}/file", "a folder; REPRO_STORE"]),
    (["store", "import", "{}/whole.tar"], {"REPRO_STORE": "/dev/null/store"}, ["whole.tar", "Not a directory"]),
    (["run", "stitching", *TEST], {"REPRO_STORE": "{}/file"}, ["store = {}/file", "a folder; REPRO_STORE"]),
    (["run", "stitching", *TEST], {"REPRO_RESULTS": "{}/file"}, ["Not a directory ({}/file/test)"]),
    (["run", "stitching", *TEST], {"REPRO_RESULTS": "/proc/results"}, ["/proc/results"]),
    (["run", "stitching", *TEST, "-p", "networks.data.name=mnist", "-p", "networks.threat.eps=0.1"],
     {"REPRO_DATA": "{}/nowhere"}, ["REPRO_DATA = {}/nowhere"]),
    (["run", "stitching", *TEST, "-p", "networks.data.name=mnist", "-p", "networks.threat.eps=0.1"],
     {"REPRO_DATA": "{}/file"}, ["REPRO_DATA = {}/file"]),
]


@pytest.mark.parametrize("args, environment, words", ROWS, ids=[" ".join(row[0])[:60] for row in ROWS])
def test_one_sentence_says_what_is_wrong(place, monkeypatch, capsys, args, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("{}", str(place)))
    before = {*place.rglob("*")}
    said = told([arg.replace("{}", str(place)) for arg in args], capsys)
    missing = [word for word in words if word.replace("{}", str(place)) not in said]
    assert not missing, said
    left = {path for path in place.rglob("*")} - before - {place / "store" / "making"}
    assert not [path for path in left if not path.relative_to(place).parts[1].startswith("test")], "left behind"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO])
def test_what_the_system_refuses_is_one_sentence(place, monkeypatch, capsys, number):
    """Such as data that this user may not read."""

    def refuse(*given):
        raise OSError(number, os.strerror(number), "some file")

    monkeypatch.setattr(batch, "_check_data", refuse)
    assert f"{os.strerror(number)} (some file)" in told(["run", "stitching", *TEST], capsys)


@pytest.mark.parametrize("content, words", [
    (b"networks: [1", "configs/mine.yaml is not YAML at line 1"), (b"\xff\xfe\x00", "configs/mine.yaml is not YAML"),
    (b"", "a mapping of settings"),
    (b"- 3", "a mapping of settings"), (b"3: 4", "unknown setting '3'"), (b"networks: 3", "networks = 3"),
    (b"seeds: 3", "unknown setting 'seeds'"),
])
def test_a_profile_that_cannot_be_read_is_told(place, monkeypatch, capsys, content, words):
    (place / "configs").mkdir()
    (place / "configs" / "mine.yaml").write_bytes(content)
    monkeypatch.setattr(settings, "ROOT", place)
    assert words in told(["run", "--profile", "mine"], capsys)


@pytest.mark.parametrize("content, words", [
    (b"claims: [1", "claims/stitching.yaml is not YAML at line 1"), (b"", "claims/stitching.yaml, the file"),
    (b"\xff\xfe", "claims/stitching.yaml is not YAML"), (b"paper: 3\nclaims: []", "paper = 3"),
    (b"paper: {}\nclaims: 3", "claims = 3"), (b"paper: {}\nclaims: [3]", "a claim = 3"), (None, "unknown claims file"),
])
def test_claims_that_cannot_be_read_are_told_before_any_work(place, monkeypatch, capsys, content, words):
    (place / "claims").mkdir()
    if content is not None:
        (place / "claims" / "stitching.yaml").write_bytes(content)
    monkeypatch.setattr(sheet, "FOLDER", place / "claims")
    assert words in told(["run", "stitching", *TEST], capsys)
    assert not (place / "results" / "test").exists()


@pytest.mark.parametrize("environment", [
    {"PYTHONOPTIMIZE": "2"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": "latin-1"},
])
def test_a_command_runs_without_docstrings_and_in_any_locale(tmp_path, environment):
    (tmp_path / "run" / "stitching").mkdir(parents=True)
    card = {"status": "failed", "error": "– ä"}
    (tmp_path / "run" / "stitching" / "card.json").write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")
    for args in (["--help"], ["index", str(tmp_path / "run")]):
        done = subprocess.run([sys.executable, "-m", "lib", *args], cwd=ROOT, env=os.environ | environment,
                              capture_output=True, timeout=100)
        assert done.returncode == 0 and not done.stderr, done
    assert "– ä" in (tmp_path / "run" / "index.html").read_text(encoding="utf-8")


def test_who_reads_only_the_beginning_of_the_output_stops_nothing(place):
    script = f"{sys.executable} -m lib store show | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert not done.stderr


def text_without_encoding(tree: ast.AST):
    """Lines of calls that read or write text in the locale's encoding."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {word.arg: word.value for word in call.keywords}
        mode = next((value.value for value in [*call.args, *given.values()] if isinstance(value, ast.Constant)
                     and isinstance(value.value, str) and {*value.value} <= {*"rwaxb+t"}), "r")
        path = name in ("read_text", "write_text")
        opened = name in ("open", "fdopen") and "b" not in mode and not isinstance(call.func, ast.Attribute)
        if (path or opened or "text" in given and name in ("run", "Popen", "check_output")) and "encoding" not in given:
            yield call.lineno


@pytest.mark.parametrize("code, found", [
    ("path.read_text()", [1]), ("path.read_text(encoding='utf-8')", []), ("open(path)", [1]), ("open(path, 'rb')", []),
    ("subprocess.run(command, text=True)", [1]), ("subprocess.run(command, encoding='utf-8')", []),
])
def test_text_without_encoding_is_found(code, found):
    assert [*text_without_encoding(ast.parse(code))] == found


@pytest.mark.parametrize("path", sorted((ROOT / "lib").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_utf_8_whatever_the_locale(path: Path):
    assert not [*text_without_encoding(ast.parse(path.read_text(encoding="utf-8")))]
