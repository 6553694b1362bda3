"""The look of all figures: colours, names of stages, curves."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from lib import plots
from lib.errors import SettingsError
from lib.papers.compact_robust_pruning.settings import RULES
from lib.plots.style import curve, spans, stage_ticks, style
from tests.kit.figures import LAYERS, Layer, grow


def test_a_kind_has_the_same_colour_in_every_company():
    alone = plots.colours(["robust"])
    among = plots.colours(["something", "untrained", "robust", "normal"])
    assert alone["robust"] == among["robust"] == plots.ROBUST
    assert len(set(among.values())) == 4
    assert among["something"] not in plots.KINDS.values()


def test_relatives_of_a_kind_get_tints_of_its_colour():
    found = plots.colours(["R", "R wide", "R deep", "N wide", "eps 2/255"])
    assert len(set(found.values())) == 5
    rgb = {kind: matplotlib.colors.to_rgb(colour) for kind, colour in found.items()}
    assert all(rgb[kind][0] > rgb[kind][2] for kind in ("R wide", "R deep", "eps 2/255")), "red"
    assert rgb["N wide"][2] > rgb["N wide"][0], "blue"


def test_more_kinds_than_colours_are_refused():
    with pytest.raises(SettingsError, match="kinds without a colour.*k0, k1.*at most 6"):
        plots.colours([f"k{i}" for i in range(7)])


def lab(rgb):
    """CIELAB of linear sRGB in [0, 1]."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


TOGETHER = {
    "kinds": [plots.KINDS[kind] for kind in ("normal", "robust", "matched", "untrained", "noise", "TRADES", "half",
                                             "FGSM-RS", "l2")],
    "rules": [plots.KINDS[rule] for rule in ("dense", *RULES)],
    "measures": [plots.CLEAN, plots.ROBUST, plots.VERIFIED],
}


@pytest.mark.parametrize("eyes", ["normal", "deuteranopia", "protanopia"])
@pytest.mark.parametrize(("which", "least"), [("kinds", 12), ("rules", 11), ("measures", 30)])
def test_what_stands_together_can_be_told_apart(which, least, eyes):
    """Also by the colour-blind: simulated as in Machado et al. 2009, severity 1."""
    matrix = {
        "normal": np.eye(3),
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }[eyes]
    seen = {}
    for colour in TOGETHER[which]:
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        seen[colour] = lab(np.clip(np.array(matrix) @ linear, 0, 1))
    assert len(seen) == len(TOGETHER[which]), "each has a colour of its own"
    apart = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a in seen for b in seen if a < b}
    assert min(apart.values()) > least, min(apart, key=apart.get)


def test_spans_of_stages():
    assert spans(LAYERS) == [("stem", 0, 2), ("layer1", 2, 6), ("layer2", 6, 10), ("head", 10, 12)]
    assert spans([]) == []


def test_names_of_close_stages_are_left_out_but_no_boundary():
    deep = [Layer("a", "Conv2d", "stem"), *[Layer("b", "Conv2d", f"layer1.{k}") for k in range(78)],
            Layer("c", "Linear", "head")]
    _, axis = plt.subplots()
    assert stage_ticks(axis, deep, "x", room=1.5) == [0.5, 78.5]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["layer1"]
    stage_ticks(axis, deep, "x", room=20)
    assert sorted(text.get_text() for text in axis.get_xticklabels()) == ["head", "layer1", "stem"]


def test_curves_leave_gaps_where_nothing_was_measured():
    table = grow(("normal",), xs=(0, 1, 3))
    _, axis = plt.subplots()
    curve(axis, table, "distance", "similarity", "#000000", dots=True, xs=range(4))
    mean, *seeds = axis.lines
    np.testing.assert_allclose(mean.get_ydata(), [0.31, 0.36, np.nan, 0.46])
    assert len(seeds) == 3 and np.isnan(seeds[0].get_ydata()[2])


def test_the_style_is_the_theme_of_seaborn():
    import seaborn

    def numbers(set_style):
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            set_style()
            found = {name: value for name, value in matplotlib.rcParams.items() if name != "image.cmap"}
        colours = found.pop("axes.prop_cycle").by_key()["color"]
        return found | {"colours": [matplotlib.colors.to_hex(colour) for colour in colours]}

    ours = {"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110, "grid.alpha": 0.4}
    assert numbers(style) == numbers(lambda: seaborn.set_theme(
        "notebook", "whitegrid", font_scale=0.85, color_codes=False, rc=ours))
