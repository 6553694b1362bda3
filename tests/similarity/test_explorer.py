"""The explorer: what a person does with the controls, and what is shown where nobody can."""

import os
from dataclasses import dataclass, field

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt

from lib.errors import SettingsError
from lib.runtime import ROOT
from lib.similarity import explorer as explore
from lib.similarity.explorer import ALL, ENDS, RECTIFIED, similarity_explorer


@dataclass(frozen=True)
class Layer:
    label: str
    kind: str
    stage: str


def layers_of(kinds, head="Linear"):
    stages = ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    return (*(Layer(f"{stage}.{kind}", kind, stage) for stage in stages for kind in kinds), Layer("head", head, "head"))


DEEP, RECTIFYING = layers_of(("Conv2d", "ReLU")), layers_of(("BatchNorm2d", "GELU"))
SMOOTH = layers_of(("Conv2d", "Tanh"))  # has no rectified outputs


# Of DEEP with itself: the stem counts to the first stage, so that 14 of its 30 ordered pairs are .8 and 16 are .3.
BLOCK_INDEX = ((14 * 0.8 + 16 * 0.3) / 30 + 0.8) / 2 - 0.3


@dataclass
class Maps:
    """What lib.similarity gives, with numbers that tell the cells apart: 1 on the diagonal, .8 within, .3 between."""

    layers: dict = field(default_factory=lambda: {"N": DEEP, "R": DEEP, "smooth": SMOOTH, "tokens": RECTIFYING})
    measure: str = "cka"
    undefined: dict = field(default_factory=dict)

    @property
    def views(self):
        return tuple(self.layers)

    def between(self, a, b):
        if {a, b} == {"R", "tokens"}:
            raise SettingsError("R and tokens were not compared")
        stages = [[layer.stage.partition(".")[0] for layer in self.layers[view]] for view in (a, b)]
        alike = np.array([[x == y for y in stages[1]] for x in stages[0]])
        values = np.where(alike, 0.8, 0.3) * (1.0 if a == b else 0.5)
        for view, axis in ((a, 0), (b, 1)):
            for position, layer in enumerate(self.layers[view]):
                if (view, layer.label) in self.undefined:
                    np.moveaxis(values, axis, 0)[position] = np.nan
        if a == b:
            np.fill_diagonal(values, 1.0)
        return values


@pytest.fixture
def live():
    explorer = similarity_explorer(Maps(), {"N": "clean 74.0 %, PGD-20 0.0 %"}, live=True)
    explorer.controls()
    return explorer


def drawn(explorer):
    axis = next(axis for axis in explorer.figure().axes if axis.images)
    return axis, np.ma.filled(axis.images[0].get_array(), np.nan)


def test_it_starts_with_the_first_pair(live):
    assert bytes(live.widgets["picture"].value).startswith(b"\x89PNG")
    assert "mean of equal layers" in live.widgets["numbers"].value
    axis, values = drawn(live)
    np.testing.assert_array_equal(values, Maps().between("N", "R"))
    assert axis.get_ylabel() == "N" and axis.get_xlabel() == "R" and "74.0 %" in axis.texts[0].get_text()
    assert not plt.get_fignums(), "no figure is left open to be shown a second time"


def test_it_starts_with_a_pair_that_was_measured():
    maps = Maps()
    maps.pairs = (("R", "R"), ("R", "smooth"))
    explorer = similarity_explorer(maps)
    assert (explorer.first, explorer.second) == ("R", "smooth")
    maps.layers = {"N": DEEP}
    maps.pairs = (("N", "N"),)
    assert similarity_explorer(maps).numbers().keys() >= {"mean off-diagonal"}


def test_moving_the_controls_changes_picture_and_numbers(live):
    before = live.widgets["picture"].value
    live.widgets["second"].value = "N"
    assert live.widgets["picture"].value != before
    assert "<td style='padding-right: 1em'>block index</td>" in live.widgets["numbers"].value
    assert f"{BLOCK_INDEX:.3f}" in live.widgets["numbers"].value
    assert "equal layers" not in live.widgets["numbers"].value
    live.widgets["layers"].value = RECTIFIED
    axis, values = drawn(live)
    assert values.shape == (5, 5)
    assert [text.get_text() for text in axis.get_yticklabels()] == [x.label for x in DEEP if x.kind == "ReLU"]


def test_one_change_draws_once(live, monkeypatch):
    count = []
    draw = explore.similarity_maps
    monkeypatch.setattr(explore, "similarity_maps", lambda *a, **k: count.append(1) or draw(*a, **k))
    live.widgets["layers"].value = RECTIFIED
    assert len(count) == 1
    live.widgets["second"].value = "smooth"  # has no rectified layers: the subset changes too
    assert len(count) == 2


def test_subsets_that_a_network_lacks_are_not_offered(live):
    live.widgets["layers"].value = RECTIFIED
    live.widgets["second"].value = "smooth"
    assert live.widgets["layers"].options == (ALL, ENDS) and live.widgets["layers"].value == ALL
    assert live.which == ALL and "equal layers" not in live.widgets["numbers"].value, "their layers differ"
    live.widgets["second"].value = "tokens"
    assert RECTIFIED in live.widgets["layers"].options


def test_a_pair_that_was_not_measured_is_said_not_raised(live):
    live.widgets["first"].value = "R"
    live.widgets["second"].value = "tokens"
    assert live.widgets["numbers"].value == "<p>R and tokens were not compared</p>"
    assert live.widgets["picture"].value == b""
    live.widgets["first"].value = "N"
    assert live.widgets["picture"].value, "and the next pair is shown again"


def test_undefined_layers_give_their_reason():
    maps = Maps(undefined={("N", "stem.ReLU"): "its output hardly varies", ("R", "head"): "is constant"})
    explorer = similarity_explorer(maps, live=True).choose("N", "R")
    assert explorer.numbers()["undefined pairs of layers"] == 2 * len(DEEP) - 1
    explorer.controls()
    assert "N, stem.ReLU: its output hardly varies" in explorer.widgets["numbers"].value
    explorer.choose("R", "R", RECTIFIED)
    assert explorer.reasons() == [], "the undefined layers are not among those shown"


def test_choosing_in_code_moves_the_controls(live):
    live.choose("tokens", "N", ENDS)
    assert [live.widgets[name].value for name in ("first", "second", "layers")] == ["tokens", "N", ENDS]
    assert drawn(live)[1].shape == (6, 6)
    for wrong, message in ((("N", "Q"), "unknown view 'Q'"), (("N", "R", "ReLU"), "unknown subset.*did you mean"),
                           (("smooth", "N", RECTIFIED), "a subset that smooth has layers of")):
        with pytest.raises(SettingsError, match=message):
            live.choose(*wrong)
    with pytest.raises(SettingsError, match="unknown view 'X'"):
        similarity_explorer(Maps(), {"X": "clean 1 %"})


def test_the_numbers_of_maps():
    rows = DEEP
    same = Maps().between("N", "N")
    found = explore.summary(same, rows, rows, True)
    off = same[~np.eye(len(rows), dtype=bool)]
    assert found == {"mean off-diagonal": pytest.approx(off.mean()), "block index": pytest.approx(BLOCK_INDEX),
                     "undefined pairs of layers": 0}
    ends = explore.subset(rows, ENDS)
    assert [rows[i].label for i in ends] == ["stem.ReLU", "layer1.0.ReLU", "layer1.1.ReLU", "layer2.0.ReLU",
                                             "layer2.1.ReLU", "head"]
    one = [rows[0]]
    assert explore.summary(np.ones((1, 1)), one, one, True) == {"undefined pairs of layers": 0}, "nothing to average"
    assert np.isnan(explore.summary(np.full((1, 1), np.nan), one, one, False)["mean of equal layers"])
    with pytest.raises(SettingsError, match="shape of the map"):
        explore.summary(np.ones((2, 2)), rows, rows, True)


def test_without_a_person_one_sentence_and_a_picture(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: shown.append((args, kwargs)))
    explorer = similarity_explorer(Maps())
    assert not explorer.live, "pytest has no kernel"
    explorer._ipython_display_()
    said = capsys.readouterr().out
    assert said.startswith("N and R, all layers: mean of all pairs of layers 0.") and said.count("\n") == 1
    (bundle,), options = shown[0]
    assert bundle["image/png"].startswith(b"\x89PNG") and options == {"raw": True} and not explorer.widgets


def test_a_person_is_told_from_papermill():
    """In a real kernel: what JupyterLab sends (input allowed), what papermill and nbconvert send, and a batch run."""
    from jupyter_client.manager import start_new_kernel

    environment = {name: value for name, value in os.environ.items() if name != "REPRO_HEADLESS"}
    kernel, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT), env=environment)
    try:
        def answer(code, allow_stdin):
            said = []
            client.execute_interactive(code, allow_stdin=allow_stdin, timeout=60,
                                       output_hook=lambda m: said.append(m["content"].get("text", "")))
            return "".join(said).strip()

        ask = "from lib.similarity.explorer import attended; print(attended())"
        assert answer(ask, True) == "True"
        assert answer(ask, False) == "False"
        assert answer("import os; os.environ['REPRO_HEADLESS'] = '1'; " + ask, True) == "False"
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
