"""A table of bad inputs: each is refused in one sentence that names it, before any work."""

import gzip
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision import datasets

from lib import batch, cli
from lib.data import images
from lib.errors import OneLineError
from lib.study import Study
from lib.values.data import Data


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Folders of the test's own for data, store and results, no network, and a run that fails the test if it starts."""
    monkeypatch.setattr(images, "OWN", tmp_path / "own")
    for name in ("REPRO_DATA", "REPRO_STORE", "REPRO_RESULTS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "REPRO_DATA").mkdir()

    def refuse(self):
        raise OSError("no network here")

    def start(*args):
        raise AssertionError("work was started")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    for engine in ("_snakemake", "_replay"):
        monkeypatch.setattr(batch, engine, start)
    monkeypatch.setattr(Study, "measure", start)
    images._official.cache_clear()
    yield tmp_path
    images._official.cache_clear()
    assert not (tmp_path / "REPRO_STORE").exists() and not list(tmp_path.glob("REPRO_RESULTS/**/card.json"))


def one_sentence(text: str, words: list[str]):
    assert "\n" not in text.strip() and "Traceback" not in text and all(w in text for w in words), text


NUMBER, FRACTION, LIST = "a whole number", "8/255", "a list"  # what is allowed


@pytest.mark.parametrize("names, words", [
    ({"seeds": {1, 2}}, ["seeds = {1, 2}", "no order"]),
    ({"seeds": (n for n in (1, 2))}, ["seeds = <generator", "must be a number"]),
    ({"seeds": lambda: 5}, ["seeds = <function", "must be a number"]),
    ({"seeds": np}, ["seeds = <module", "must be a number"]),
    ({"seeds": object()}, ["seeds = <object", "must be a number"]),
    ({"seeds": b"5"}, ["seeds = b'5'", "must be a number"]),
    ({"seeds": 1j}, ["seeds = 1j", "must be a number"]),
    ({"seeds": Decimal("nan")}, ["seeds = Decimal('NaN')", "must be a number"]),
    ({"seeds": np.datetime64("2026-01-01")}, ["seeds = ", "2026-01-01", "must be a number"]),
    ({"alphas": torch.ones(2, requires_grad=True)}, ["alphas = tensor(", "must be a number"]),
    ({"seeds": "5"}, ["stitching.seeds = '5'", NUMBER]),
    ({"seeds": 5.0}, ["stitching.seeds = 5.0", NUMBER]),
    ({"seeds": np.float64(5)}, ["stitching.seeds = 5.0", NUMBER]),
    ({"seeds": True}, ["stitching.seeds = True", NUMBER]),
    ({"seeds": np.bool_(True)}, ["stitching.seeds = True", NUMBER]),
    ({"seeds": Fraction(5, 2)}, ["stitching.seeds = '5/2'", NUMBER]),
    ({"seeds": np.array([5])}, ["stitching.seeds = [5]", NUMBER]),
    ({"seeds": np.int64(-1)}, ["stitching.seeds = -1", NUMBER]),
    ({"alphas": 0.5}, ["stitching.alphas = 0.5", LIST]),
    ({"alphas": ["a"]}, ["stitching.alphas", "a", FRACTION]),
    ({"alphas": [np.nan]}, ["stitching.alphas", "nan", FRACTION]),
    ({"joints": {"stem": 1}}, ["stitching.joints = {'stem': 1}", LIST]),
    ({"sedes": np.int64(5)}, ["unknown parameter 'sedes'", "did you mean 'seeds'"]),
    ({"sedes": None}, ["unknown parameter 'sedes'", "did you mean 'seeds'"]),
    ({"profile": np.str_("smok")}, ["unknown profile 'smok'", "did you mean 'smoke'"]),
    ({"profile": ["test"]}, ["unknown profile '['test']'"]),
    ({"overrides": [("seeds", 5)]}, ["overrides = [['seeds', 5]]", "a dictionary of dotted names"]),
    ({"overrides": ""}, ["overrides = ", "a dictionary of dotted names"]),
    ({"overrides": {1: 2}}, ["overrides = {1: 2}", "must be a number"]),
    ({"overrides": {"epoch": 2}}, ["unknown parameter 'epoch'", "did you mean 'epochs'"]),
    ({"overrides": {"optimiser.lrs": 2}}, ["unknown setting 'stitching.optimiser.lrs'", "stitching.optimiser.lr'"]),
    ({"overrides": {"stitching.seeds": 4}, "seeds": 3}, ["stitching.seeds = 3", "given once", "stitching.seeds = 4"]),
    ({"overrides": {"networks.threat.eps": {1, 2}}}, ["overrides = {", "no order"]),
    ({"overrides": {"networks.threat.eps": np.float64(-8) / 255}}, ["threat.eps = -8/255"]),
])
def test_bad_parameters_of_a_notebook(names, words):
    with pytest.raises(OneLineError) as error:
        Study("stitching", {"profile": "test", **names})
    one_sentence(str(error.value), words)


@pytest.mark.parametrize("given, words", [
    (["-p", "seeds"], ["-p seeds", "name=value"]),
    (["-p", "=5"], ["-p =5", "name=value"]),
    (["-p", "seeds="], ["harp_pruning.seeds = null"]),
    (["-p", "seeds=0x10"], ["harp_pruning.seeds = '0x10'", NUMBER]),
    (["-p", "seeds=0o10"], ["harp_pruning.seeds = '0o10'", NUMBER]),
    (["-p", "seeds=1e1"], ["harp_pruning.seeds = 10.0", NUMBER]),
    (["-p", "seeds=1_0"], ["harp_pruning.seeds = '1_0'", NUMBER]),
    (["-p", "seeds=1:30"], ["harp_pruning.seeds = '1:30'", NUMBER]),
    (["-p", "seeds=yes"], ["harp_pruning.seeds = 'yes'", NUMBER]),
    (["-p", "seeds=" + "9" * 5000], ["seeds = '9999", "cannot be read"]),
    (["-p", "keeps=[0.1"], ["keeps = '[0.1'", "cannot be read"]),
    (["-p", "keeps=" + "[" * 3000], ["keeps = '[[[", "cannot be read"]),
    (["-p", "prune={epochs: 2, epochs: 3}"], ["prune = ", "'epochs' is given twice"]),
    (["-p", "seeds=2", "-p", "seeds=3"], ["harp_pruning.seeds = 3", "given once", "harp_pruning.seeds = 2"]),
    (["-p", "seeds=2", "--seeds", "3"], ["harp_pruning.seeds = 3", "given once", "harp_pruning.seeds = 2"]),
    (["-p", "prune.epochs=2", "-p", "prune={epochs: 3}"], ["harp_pruning.prune = {'epochs': 3}", "epochs = 2"]),
    (["-p", "prun.epochs=20"], ["unknown parameter 'prun'", "did you mean 'prune'"]),
    (["-p", "prune.epoch=20"], ["unknown setting 'harp_pruning.prune.epoch'", "'harp_pruning.prune.epochs'"]),
    (["-p", "stiching.seeds=2"], ["unknown parameter 'stiching'", "did you mean 'stitching'"]),
    (["-p", "frozen=true"], ["unknown parameter 'frozen'"]),
    (["-p", "first_seed=-010"], ["first_seed = -10", NUMBER]),
    (["-p", "first_seed=010.5"], ["first_seed = 10.5", NUMBER]),
    (["-p", "device=cuda.0"], ["device", "cuda.0"]),
    (["-p", "device.x=1"], ["device.x = 1", "'device'"]),
    (["-p", "networks.threat.eps=8/0"], ["networks.threat.eps = '8/0'", FRACTION]),
    (["-p", "networks.threat.eps=.nan"], ["networks.threat.eps = nan", FRACTION]),
    (["--seeds", "0x10"], ["--seeds", "0x10"]),
])
def test_bad_parameters_of_a_command_line(given, words, capsys):
    assert cli.main(["run", "--profile", "test", "harp_pruning", *given]) == 2
    one_sentence(capsys.readouterr().err, ["error: ", *words])


RAW, BATCH = "MNIST/raw/train-images-idx3-ubyte", "cifar-10-batches-py/data_batch_1"
LABELS, TREE = {"MNIST/raw/train-labels-idx1-ubyte": b""}, "imagenette2/train"


@pytest.mark.parametrize("name, files, words", [
    ("mnist", {}, [RAW + ".gz", "is missing", "no network here", "REPRO_DATA"]),
    ("mnist", {RAW: b""}, ["train-labels-idx1-ubyte.gz is missing", "no network here"]),
    ("mnist", {**LABELS, RAW: b""}, [RAW + " is corrupt"]),
    ("mnist", {**LABELS, RAW: bytes(16 + 47_040_000)}, [RAW + " is corrupt"]),
    ("mnist", {**LABELS, RAW + ".gz": b"<html>not found</html>"}, [RAW + ".gz is corrupt"]),
    ("fashion_mnist", {f"Fashion{n}": b"" for n in (RAW, *LABELS)}, [f"Fashion{RAW} is corrupt"]),
    ("mnist_rgb32", {**LABELS, RAW: b""}, ["mnist cannot be read", RAW + " is corrupt"]),
    ("cifar10", {BATCH: b""}, ["data_batch_2 (and 4 more) is missing", "no network here"]),
    ("imagenette", {}, [f"{TREE} is missing", "imagenette2.tgz"]),
    ("imagenette", {f"{TREE}/n01440764/a.JPEG": b""}, [f"{TREE} lacks the class", "imagenette2.tgz"]),
])
def test_bad_data_files(name, files, words, place, capsys):
    for file, content in files.items():
        path = place / "REPRO_DATA" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    data = f"data={{name: {name}, train: 192, holdout: 50, test: 60}}"
    assert cli.main(["run", "--profile", "test", "harp_pruning", "-p", data]) == 2
    one_sentence(capsys.readouterr().err, ["error: ", *words])


@pytest.mark.parametrize("content", [
    b"", b"no archive",  # without a time, so that two processes collect the same tests
    *(gzip.compress(text, mtime=0)[:end] for text, end in ((b"1,2\n", None), (b"1,x\n", None), (b"1,2\n" * 99, -9))),
])
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_digits_that_are_no_digits(content, place, monkeypatch):
    path = place / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=place / "__init__.py"))
    with pytest.raises(OneLineError) as error:
        images.load(Data("digits"), "test")
    one_sentence(str(error.value), ["digits.csv.gz cannot be read (", "install the package again"])
