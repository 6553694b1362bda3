"""Parameters of notebooks and of the command line: taken whatever their type, or refused in one sentence."""

import collections
import enum
import types
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from lib import cli, study
from lib.errors import SettingsError, fraction
from lib.papers import papers
from lib.parameters import overrides_of, parameters, plain_value
from lib.profiles.loader import parse, read
from lib.study import Study
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.keys import digest
from lib.values.threats import Threat

PAPER = "stitching"
SETTINGS = papers()[PAPER].parameters


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("value, plain", [
    (5, 5), (True, True), (None, None), ("a", "a"), (0.25, 0.25), ((1, 2), [1, 2]), ([1, [2.5]], [1, [2.5]]),
    (np.int64(5), 5), (np.uint8(5), 5), (np.float64(0.1), 0.1), (np.float32(0.1), 0.1), (np.float16(0.1), 0.1),
    (np.bool_(True), True), (np.str_("a"), "a"), (np.linspace(0, 1, 3), [0, 0.5, 1]), (np.array(5), 5),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]), (np.array(["a", "b"]), ["a", "b"]), (np.array(0.1, "f4"), 0.1),
    (Fraction(3), 3), (Fraction(8, 255), "8/255"), (Decimal("0.1"), "1/10"), (Decimal("1e3"), 1000),
    (range(3), [0, 1, 2]), (collections.deque([1, 2]), [1, 2]), ({"b": 1, "a": 2}.keys(), ["b", "a"]),
    ({"a": 2}.values(), [2]), ({"a": 2}.items(), [["a", 2]]), (torch.tensor(5), 5), (torch.tensor(0.1), 0.1),
    (torch.tensor([0.1, 0.5]), [0.1, 0.5]), (pd.Series([1, 2]), [1, 2]), (Path("a") / "b", "a/b"),
    ({"a": np.int64(1), "b": {"c": range(2)}}, {"a": 1, "b": {"c": [0, 1]}}),
    (types.MappingProxyType({"a": 1}), {"a": 1}), (collections.OrderedDict(a=1), {"a": 1}),
    (enum.IntEnum("E", "a")(1), 1), (PGD(3, "2/255"), PGD(3, "2/255")),
])
def test_a_value_of_any_type_means_what_it_prints_as(value, plain):
    got = plain_value("x", value)
    assert got == plain and type(got) is type(plain)
    if isinstance(got, list):
        assert [type(entry) for entry in got] == [type(entry) if type(entry) is not int or isinstance(
            entry, bool) else type(g) for entry, g in zip(plain, got, strict=True)]
        assert all(type(entry).__module__ == "builtins" for entry in got)


LOOP = []
LOOP.append(LOOP)


@pytest.mark.parametrize("value", [
    {1, 2}, frozenset("ab"), (i for i in range(3)), map(int, "12"), iter([1]), len, lambda: 5, int, np, object(), b"12",
    1j, np.datetime64("2026-01-01"), Decimal("nan"), {1: 2}, {"a": {1, 2}}, [1, {2}], np.array([object()]),
    torch.ones(2, requires_grad=True), LOOP,
])
def test_what_has_no_order_or_no_plain_value_is_refused(value):
    with pytest.raises(SettingsError, match="^seeds = .* is not possible: it must be a number, a text") as error:
        plain_value("seeds", value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_numbers_behind_floats():
    assert fraction(8 / 255) == fraction("8/255") == fraction(np.float64(8) / 255) == Fraction(8, 255)
    assert fraction(1 / 3) == Fraction(1, 3) and fraction(1e-12) == Fraction("1e-12")
    assert fraction(0.0005) == Fraction(1, 2000) and fraction(0.1234567) == Fraction("0.1234567")
    assert fraction(np.pi) == Fraction(str(np.pi)) and fraction(123456789.123) == Fraction("123456789.123")
    assert Threat("linf", 8 / 255) == Threat("linf", "8/255")


def test_the_library_takes_numpys_numbers_for_what_they_are():
    given, plain = PGD(np.int64(20), np.float64(0.25), confidence=None), PGD(20, 0.25)
    assert given == plain and digest(given) == digest(plain)
    assert digest(Data("digits", train=np.int32(100))) == digest(Data("digits", train=100))
    with pytest.raises(SettingsError, match=r"attack.steps = array\(20\) is not possible: it must be a whole number"):
        PGD(np.array(20), 0.25)


# ------------------------------------------------------------------------------------------------------ notebook names


def taken(**names):
    return overrides_of(PAPER, parameters(names, SETTINGS, set(), None))


def test_imports_functions_and_classes_made_before_are_no_parameters():
    given = taken(np=np, Path=Path, Study=Study, papers=papers, _hidden=3, In=[], profile="test", seeds=np.int64(5))
    assert given == ("test", {"stitching.seeds": 5})


@pytest.mark.parametrize("value", [np.int64(5), Fraction(1, 2), range(2), None, object()])
def test_an_unknown_name_is_refused_whatever_its_type(value):
    with pytest.raises(SettingsError, match="bogus"):
        taken(bogus=value)


def test_overrides_hold_settings_by_any_of_their_names():
    given = {"networks.robust.epochs": np.int64(4), "optimiser.lr": 0.1, "epochs": 2, "middle": None}
    assert taken(overrides=given, seeds=3) == ("smoke", {
        "networks.robust.epochs": 4, "stitching.optimiser.lr": 0.1, "stitching.epochs": 2, "stitching.middle": None,
        "stitching.seeds": 3})


# --------------------------------------------------------------------------------------------------------- live kernel


@pytest.fixture
def kernel(monkeypatch):
    """Runs cells one after another in an IPython shell and gives the parameters that the notebook's Study has seen."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr(study, "set_threads", lambda threads: None)
    shell.run_cell("from lib.study import Study\nimport numpy as np", store_history=True).raise_error()

    def run(*cells):
        for cell in cells:
            done = shell.run_cell(cell, store_history=True)
        done.raise_error()
        return {k: v for k, v in shell.user_ns["study"].given.items() if k not in ("profile", "overrides")}

    yield run
    InteractiveShell.clear_instance()


P = 'profile = "test"\nseeds = 1\nalphas = [0, 1]\noverrides = {}'
S = 'study = Study("stitching", globals())'
LATER = "section = study.section\nfound = [section.seeds, 7]"


def test_later_cells_variables_are_no_parameters(kernel):
    assert kernel(P, S) == {"seeds": 1, "alphas": [0, 1]}
    later = [LATER, "data = found[0]", "smallest = min(found)\nbins = 20", "k = 3", "import pandas as pd",
             "middle = study.section.middle"]
    assert kernel(*later, S) == {"seeds": 1, "alphas": [0, 1]}, "data and middle are settings, but set by later cells"
    assert kernel(*later, P.replace("1", "2", 1), *later, S)["seeds"] == 2


def test_a_parameter_that_a_later_cell_has_overwritten_is_refused(kernel):
    kernel(P, S, LATER)
    with pytest.raises(SettingsError, match=r"seeds = \[1, 7\] is not possible: .* run the parameters cell again"):
        kernel("seeds = found", S)
    assert kernel(P, S) == {"seeds": 1, "alphas": [0, 1]}


@pytest.mark.parametrize("cell", [P + "\nsedes = 5", "sedes = 5", "sedes = np.int64(5)"])
def test_a_typing_error_after_a_good_run_is_an_error(cell, kernel):
    kernel(P, S, LATER)
    with pytest.raises(SettingsError, match="unknown parameter 'sedes'; did you mean 'seeds'"):
        kernel(cell, S)
    mended = cell.replace("sedes", "seeds")
    assert kernel(mended, S)["seeds"] == 5, "the wrong name is still there in the kernel, but in no cell"
    assert kernel(S)["seeds"] == 5


def test_a_typing_error_before_the_first_good_run_can_be_mended(kernel):
    with pytest.raises(SettingsError, match="sedes"):
        kernel(P.replace("seeds", "sedes"), S)
    assert kernel(P, S) == {"seeds": 1, "alphas": [0, 1]}


def test_a_name_gone_from_the_parameters_cell_is_as_the_profile_says(kernel, capsys):
    kernel(P, S, LATER)
    assert kernel(P.replace("seeds = 1\n", ""), S) == {"alphas": [0, 1]}
    assert "seeds is no longer set in the parameters cell: it has the profile's value" in capsys.readouterr().out
    assert kernel(P, S) == {"seeds": 1, "alphas": [0, 1]}


def test_a_setting_given_in_a_cell_of_its_own_stays_until_that_cell_changes(kernel):
    assert kernel(P, "epochs = 2", S) == {"seeds": 1, "alphas": [0, 1], "epochs": 2}
    assert kernel(LATER, P.replace("1", "2", 1), S) == {"seeds": 2, "alphas": [0, 1], "epochs": 2}
    assert kernel(LATER, "epochs = 3", S) == {"seeds": 2, "alphas": [0, 1], "epochs": 3}
    assert kernel(LATER, "alphas = [k / 2 for k in range(3)]", S)["alphas"] == [0, 0.5, 1]


def test_what_papermill_injects_adds_to_the_cell_that_people_edit(kernel):
    injected = '# Parameters\nprofile = "test"\nseeds = 2\noverrides = {}\n'
    assert kernel(P, injected, S) == {"seeds": 2, "alphas": [0, 1]}
    assert kernel(LATER, injected.replace("2", "3"), S) == {"seeds": 3, "alphas": [0, 1]}



# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("text, value", [
    ("010", 10), ("-007", -7), ("+3", 3), ("08", 8), ("1e3", 1000.0), ("1e-05", 1e-05), ("5.", 5.0), (".5", 0.5),
    ("0x10", "0x10"), ("0o10", "0o10"), ("1_000", "1_000"), ("1:30", "1:30"), ("8/255", "8/255"),
    ("-.inf", float("-inf")),
    ("2026-01-01", "2026-01-01"), ("yes", "yes"), ("No", "No"), ("on", "on"), ("off", "off"), ("true", True),
    ("False", False), ("null", None), ("~", None), ("", None), ("[a, 010]", ["a", 10]), ('"010"', "010"),
])
def test_a_text_is_read_the_same_on_the_command_line_and_in_files(text, value, tmp_path):
    (tmp_path / "a.yaml").write_text(f"a: {text}\nb: {{c: {text}}}\n")
    for got in (parse(text), read(tmp_path / "a.yaml")["a"], read(tmp_path / "a.yaml")["b"]["c"]):
        assert got == value and type(got) is type(value)


def test_a_file_that_says_a_thing_twice_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("b: &b {d: 1, e: 2}\nc: {<<: *b, d: 3}\n")
    assert read(tmp_path / "a.yaml")["c"] == {"d": 3, "e": 2}
    (tmp_path / "a.yaml").write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(SettingsError, match="a.yaml is not YAML at line 3: 'a' is given twice"):
        read(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(SettingsError, match="a.yaml is not YAML: .*utf-8"):
        read(tmp_path / "a.yaml")


def overrides(notebooks, *given, seeds=()):
    words = [word for text in given for word in ("-p", text)]
    return cli.overrides(cli.parser().parse_args(["run", *words, *seeds]), notebooks)


def test_a_name_may_begin_with_a_setting_of_the_notebooks_that_have_it():
    assert overrides(("harp_pruning",), "prune.epochs=20") == {"harp_pruning.prune.epochs": 20}
    both = {"harp_pruning.search.steps": 7, "stitching.search.steps": 7}
    assert overrides(("harp_pruning", "stitching"), "search.steps=7") == both
    assert overrides(("harp_pruning",), "stitching.epochs=2", "networks.robust.epochs=2", "first_seed=0100") == {
        "stitching.epochs": 2, "networks.robust.epochs": 2, "first_seed": 100}
    assert overrides(("stitching",), "seeds=010", seeds=["--seeds", "010"]) == {"stitching.seeds": 10}
