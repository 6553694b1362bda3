"""What a notebook's study says: warnings, and the table of verdicts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt
from matplotlib._pylab_helpers import Gcf

from lib import claims
from lib.claims import Claim, ClaimSheet, Part
from lib.claims.evidence import Evidence
from lib.study import Study, costs


def test_a_saved_table_says_its_warnings_below_it_with_the_claims_that_they_touch(tmp_path):
    said = []
    study = SimpleNamespace(folder=tmp_path, warn=lambda sentences, claims: said.append((*sentences, claims)))
    frame = pd.DataFrame({"warnings": ["3 of 9 images survive; Square wins", "", "5 of 9 images survive"]})
    assert Study.table(study, "cells", frame, {"# of # images survive": ["C2a"]}) is frame
    Study.table(study, "others", frame[1:])
    assert said == [("3 of 9 images survive (2 of 3 rows of the table cells)", ["C2a"]),
                    ("Square wins (1 of 3 rows of the table cells)", ()),
                    ("5 of 9 images survive (1 of 2 rows of the table others)", None)]
    assert (tmp_path / "tables" / "cells.csv").exists()


def test_warnings_are_kept_with_the_claims_that_they_touch(capsys):
    study = SimpleNamespace(warnings=[])
    assert Study.warn(study, ["a", "b"], ("C10a", "C2b")) == ["a", "b"]
    Study.warn(study, ["c"], [])
    Study.warn(study, ["d"])
    touches = {"a": ["C2b", "C10a"], "b": ["C2b", "C10a"], "c": [], "d": None}
    assert study.warnings == [{"sentence": one, "claims": which} for one, which in touches.items()]
    assert capsys.readouterr().out.splitlines() == [
        "warning (touches C2b, C10a): a", "warning (touches C2b, C10a): b", "warning (touches no claim): c",
        "warning (touches all claims): d"]


def sheet():
    """Three claims about differences of accuracies: of the paper, a control, and a bar of ours."""
    def one(key, asks, **more):
        limits = {"margin": 0.02, "null_value": 0} | more
        part = Part("gap", "robust accuracy, R minus N", "difference", "above", **limits)
        return Claim(key, f"Statement of {key}.", asks, "number not found", "abstract", "PGD-20", ("smoke",), (part,))

    return ClaimSheet("Title", "Authors", "Venue", "key", "https://example.org/paper", (
        one("C1", "paper"), one("C2", "control"), one("C3", "ours", margin=-0.01, null_value=None), one("C4", "paper")))


def gaps(mean):
    """[4, 400]: differences of outcomes with this mean in every repetition, up to 0.5 points."""
    values = np.zeros((4, 400))
    for row, more in zip(values, (-2, 0, 0, 2), strict=True):
        row[:round(400 * mean) + more] = 1
    return values


@pytest.fixture
def table(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "load", lambda name, profile: sheet())
    study = SimpleNamespace(paper=SimpleNamespace(name="made up"), settings=SimpleNamespace(profile="smoke"),
                            frozen=None, failures=[], folder=tmp_path, table=lambda name, frame: frame,
                            show=lambda frame: frame)
    evidence = Evidence({key: {"gap": {"linf": gaps(0.2)}} for key in ("C1", "C2", "C3")})
    failed = [{"name": "robust networks are robust", "ok": False, "detail": "12 %"}]
    return Study.judge(study, evidence, [], {"C2": failed})


def test_the_table_of_verdicts_says_who_asks_and_why(table):
    assert list(table) == ["claim", "asked by", "statement", "verdict", "because"]
    assert table["asked by"].tolist() == ["paper", "control", "ours", "paper"]
    assert table["verdict"].tolist() == ["supported", "not tested (withheld: supported)", "supported", "not tested"]
    first, control, bar, missing = table["because"]
    assert first.startswith("robust accuracy, R minus N, linf: +20.0 [")
    assert first.endswith("] points. Needed: more than +2.0 points · no effect: 0 points.")
    assert control == f"Precondition not met: robust networks are robust (12 %). {first}"
    assert bar.endswith("Needed: more than −1.0 points · a bar.")
    assert missing == "No measurement of robust accuracy, R minus N."


def test_an_error_of_settings_is_one_line_in_a_notebook(capsys):
    shell = InteractiveShell()
    try:
        for code, lines in (("Study('stitching', {'epoch': 7})", 1), ("1 / 0", 5)):
            shell.run_cell(f"from lib.study import Study\n{code}")
            said = capsys.readouterr().out.strip()
            assert (said.count("\n") < 1) == (lines == 1), said
            assert lines > 1 or said.startswith("SettingsError: unknown parameter 'epoch'; did you mean 'epochs'")
    finally:
        InteractiveShell.clear_instance()


def test_costs_are_summed_once_and_apart_by_when_they_were_made():
    started = 1_000_000_000.0
    networks = [{"seconds": 5.0, "made_seconds": 1.0, "made_at": "2001-09-09T01:46:40Z"},
                {"seconds": 50.0, "made_at": "2001-09-09T01:46:39Z"}]
    used = {("network", "a"): {"made_seconds": 9.0, "made_at": "2001-09-09T01:46:41Z"},
            ("diverged", "c"): {"made_seconds": 9.0, "made_at": "2001-09-09T01:46:41Z"},
            ("outcomes", "b"): {"made_seconds": 2.0, "made_at": "2001-09-09T01:46:41Z"},
            ("maps", "b"): {"made_seconds": 4.0, "made_at": "2000-01-01T00:00:00Z"}}
    found = costs(networks, used, started)
    assert found["training"] == {"made": {"entries": 1, "seconds": 5.0}, "found": {"entries": 1, "seconds": 50.0}}
    assert found["evaluation"] == {"made": {"entries": 1, "seconds": 2.0}, "found": {"entries": 1, "seconds": 4.0}}


def test_a_saved_figure_is_drawn_once_more_only_if_it_has_changed(tmp_path, monkeypatch):
    """At the end of a cell pyplot draws what has changed since it was drawn; then the notebook draws it to show it."""
    monkeypatch.setattr(Study, "folder", tmp_path)
    figure, drawn = plt.figure(), []
    object.__new__(Study).figure("one", figure)
    assert sorted(path.name for path in tmp_path.rglob("one.*")) == ["one.png", "one.svg"]
    monkeypatch.setattr(figure.canvas, "draw_idle", lambda: drawn.append(figure))
    Gcf.draw_all()
    assert not drawn
    figure.suptitle("changed")
    Gcf.draw_all()
    assert drawn == [figure]
    plt.close(figure)
