"""Controls and the figure that follows them."""

import matplotlib.pyplot as plt
import pytest

from lib.errors import SettingsError
from lib.plots.explorer import Explorer, accuracy_bars, percent


def draw(kind, size):
    if (kind, size) == ("b", 2):
        raise SettingsError("b at 2 was not measured")
    return accuracy_bars({kind: {"clean": [0.5 * size, 0.4]}}), f"{kind} at {size}."


@pytest.fixture
def live():
    explorer = Explorer({"kind": {"a (50 %)": "a", "b (40 %)": "b"}, "size": [1, 2]}, draw, live=True)
    explorer.controls()
    return explorer


def test_the_first_of_each_is_shown(live):
    assert live.choice == {"kind": "a", "size": 1} and bytes(live._picture.value).startswith(b"\x89PNG")
    assert live._said.value == "<p>a at 1.</p>" and not plt.get_fignums(), "no figure is left to be shown once more"


def test_a_control_changes_picture_and_sentence(live):
    before = live._picture.value
    live.widgets["size"].value = 2
    assert live._picture.value != before and live._said.value == "<p>a at 2.</p>"
    live.widgets["kind"].value = "b"
    assert live._picture.value == b"" and live._said.value == "<p>b at 2 was not measured</p>"
    live.choose(size=1)
    assert live.widgets["size"].value == 1 and live._said.value == "<p>b at 1.</p>" and live.sentence() == "b at 1."


@pytest.mark.parametrize("wrong, words", [({"sort": 1}, "unknown control 'sort'"), ({"size": 3}, "size = 3 .* 1, 2")])
def test_what_is_no_choice_is_refused(live, wrong, words):
    with pytest.raises(SettingsError, match=words):
        live.choose(**wrong)


def test_without_a_person_one_sentence_and_a_picture(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: shown.append(args))
    explorer = Explorer({"kind": ["a"], "size": [1, 2]}, draw)
    assert not explorer.live, "pytest has no kernel"
    explorer._ipython_display_()
    assert capsys.readouterr().out == "kind a, size 1: a at 1. In JupyterLab this cell is interactive.\n"
    assert shown[0][0]["image/png"].startswith(b"\x89PNG") and not explorer.widgets


def test_texts_of_accuracies():
    assert percent([0.5, 0.75]) == "62.5 %" and percent([float("nan")]) == percent([]) == "–"
    with pytest.raises(SettingsError, match="networks to show"):
        accuracy_bars({})
