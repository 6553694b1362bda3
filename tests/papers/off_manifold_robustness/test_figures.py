"""Off-manifold robustness: what is drawn is what the tables say."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
import pytest

from lib import plots
from lib.errors import SettingsError
from lib.papers.off_manifold_robustness import figures as manifold
from lib.papers.off_manifold_robustness import gradients as gradient
from lib.papers.off_manifold_robustness import regimes, strength_axis
from tests.kit.figures import legend_texts, overlaps

ON_OFF = {0.0: (0.3, 0.5), 0.01: (0.32, 0.4), 0.1: (0.3, 0.2), 1.0: (0.2, 0.1), 10.0: (0.004, 0.001)}
ALIGNED = {0.0: 0.1, 0.01: 0.15, 0.1: 0.3, 1.0: 0.25, 10.0: 0.4}
RIGHT = {0.0: 0.9, 0.01: 0.9, 0.1: 0.88, 1.0: 0.7, 10.0: 0.3}


def sweep(kinds=("gradient norm", "PGD"), strengths=tuple(ON_OFF), seeds=3, **more):
    """Rows of a sweep of known regimes: weak up to 0.01, Bayes-aligned at 0.1, excessive from 1 on, constant at 10."""
    rows = [{"kind": kind, "strength": s, "seed": seed, "on": ON_OFF[s][0] + 0.001 * seed, "off": ON_OFF[s][1],
             "accuracy": RIGHT[s] + 0.01 * (seed - 1), "alignment": ALIGNED[s], "shuffled pairs": 0.05, **more}
            for kind in kinds for s in strengths for seed in range(seeds)]
    return pd.DataFrame(rows)


def seen(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def line_of(axis, colour):
    """The line with marks of a colour."""
    found, = [line for line in axis.lines if line.get_color() == colour and line.get_marker() not in ("None", None, "")
              and line.get_linestyle() == "-"]
    return found


def test_regimes_are_told_apart_by_crossing_and_peak():
    on, off = zip(*ON_OFF.values(), strict=True)
    right, aligned = list(RIGHT.values()), list(ALIGNED.values())
    weak, best, excessive = regimes.REGIMES
    assert regimes.regimes(on, off, right, aligned) == [weak, weak, best, excessive, excessive]
    with_constants = regimes.regimes(on, off, right, aligned, dead=0)
    assert with_constants == [weak, weak, best, best, best], "the peak is the strongest, which is a constant"
    assert regimes.regimes(on, on, right, aligned) == [weak, weak, best, excessive, excessive], "they never cross"
    assert regimes.regimes(off, on, right, aligned)[:2] == [best, best], "they have crossed from the start"
    level = regimes.regimes(on, off, [0.9] * 5, aligned)
    assert level == [weak, weak, best, best, best], "nothing is excessive where accuracy stays"
    back = regimes.regimes(on, off, [0.9, 0.9, 0.88, 0.8, 0.88], aligned)
    assert back[-2:] == [excessive, excessive], "accuracy may come back, the regime does not"


def test_representatives_of_the_regimes():
    weak, best, excessive = regimes.REGIMES
    found = regimes.representatives(sweep(("noise", "PGD")))
    of_each = [((kind, s), regime) for kind in ("noise", "PGD")
               for s, regime in ((0.01, weak), (0.1, best), (1.0, excessive))]
    assert list(found.items()) == [(("none", 0.0), weak), *of_each], "the strongest that is no constant"
    everywhere_constant = regimes.representatives(sweep(("PGD",)), dead=1)
    assert everywhere_constant["PGD", 10.0] == best, "what is best among constants, if there is nothing else"
    short = regimes.representatives(sweep(("noise",), (0.0, 0.1)))
    assert short == {("none", 0.0): ""}, "two strengths have no regimes"


def test_strengths_lie_on_a_logarithmic_axis_with_0_at_its_left_edge():
    figure = regimes.regime_curves({"digits": sweep(("PGD",))})
    above, _, below = seen(figure)
    line = line_of(above, strength_axis.ON)
    assert line.get_xdata() == pytest.approx([-3, -2, -1, 0, 1])
    assert line.get_ydata() == pytest.approx([on + 0.001 for on, _ in ON_OFF.values()])
    ticks = {text.get_text(): at for text, at in zip(below.get_xticklabels(), below.get_xticks(), strict=True)}
    assert ticks == {"0": -3, "0.01": -2, "0.1": -1, "1": 0, "10": 1}
    breaks = [line.get_xdata()[0] for line in below.lines if len(line.get_xdata()) == 2]
    assert breaks == [-2.5], "between 0 and the first strength"
    assert above.get_xlim()[0] < -3 and "per image" in below.get_xlabel()
    crowded = regimes.regime_curves({"": pd.concat([sweep(("PGD",)), sweep(("PGD",), (1.0,)).assign(strength=1.3)])})
    names = [text.get_text() for text in seen(crowded)[2].get_xticklabels()]
    assert "1" in names and "1.3" not in names, "names that do not fit are left out"


def test_regime_curves_show_means_bands_regimes_and_constants():
    table = sweep()
    figure = regimes.regime_curves({"digits": table}, {"digits": 0.1})
    above, other, below, _, cosines, _ = seen(figure)
    assert [axis.get_title("left") for axis in (above, other)] == ["digits: gradient norm", "digits: PGD"]
    assert line_of(above, strength_axis.OFF).get_ydata() == pytest.approx([off for _, off in ON_OFF.values()])
    assert line_of(below, plots.CLEAN).get_ydata() == pytest.approx(list(RIGHT.values()))
    assert line_of(cosines, strength_axis.ALIGNED).get_ydata() == pytest.approx(list(ALIGNED.values()))
    band = above.collections[1].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.322) and band[:, 1].min() == pytest.approx(0.004)
    ground = [(matplotlib.colors.to_hex(patch.get_facecolor()), patch.get_x(), patch.get_x() + patch.get_width())
              for patch in below.patches]
    weak, best, excessive = regimes.REGIMES.values()
    assert [colour for colour, _, _ in ground] == [weak, weak, best, excessive, excessive]
    assert [stop for _, _, stop in ground[1:3]] == pytest.approx([-1.5, -0.5]), "half-way between strengths"
    hollow, = [line for line in cosines.lines if line.get_markerfacecolor() == "white"]
    assert [*hollow.get_xdata(), *hollow.get_ydata()] == pytest.approx([1, 0.4]), "constant at strength 10"
    assert {0.1} in [{*line.get_ydata()} for line in below.lines if line.get_linestyle() != "-"], "guessing"
    said = legend_texts(figure)
    assert "regime: weak, Bayes-aligned, excessive" in said and len(said) <= 6
    assert "hardly change" in figure.legends[0].get_title().get_text()
    assert figure.description.startswith("Sensitivity, accuracy and alignment"), "equal repetitions decide nothing"
    spread = table.assign(off=table.off + 0.001 * table.seed)
    assert regimes.regime_curves({"digits": spread}).description.startswith(
        "Without a regulariser, networks change more off the manifold than along it; regularisation turns this order "
        "(digits: 2 of 2 regularisers)")
    assert not any("spectrum" in text or "paper" in text for text in said)
    calm = regimes.regime_curves({"digits": sweep(strengths=(0.0, 0.01, 0.1), matched=0.2)})
    assert not seen(calm)[0].patches, "three strengths have no regimes"
    assert "off it, same spectrum" in legend_texts(calm)
    assert not calm.legends[0].get_title().get_text()


def test_sweeps_share_rows_where_they_fit():
    few, many = sweep(("noise",)), sweep(("gradient norm", "smoothness", "noise", "PGD"))
    figure = regimes.regime_curves({"a": sweep(("gradient norm", "PGD")), "b": few, "c": many})
    titles = {axis.get_title("left"): axis for axis in seen(figure) if axis.get_title("left")}
    assert list(titles) == ["a: gradient norm", "a: PGD", "b: noise", *(f"c: {kind}" for kind in many.kind.unique())]
    figure.canvas.draw()
    high = {name: axis.get_window_extent().y0 for name, axis in titles.items()}
    assert high["b: noise"] == high["a: PGD"] > high["c: noise"] == high["c: gradient norm"]
    lost = pd.concat([few, sweep(("PGD",), (0.0,))])
    figure = regimes.regime_curves({"b": lost})
    assert [axis.get_title("left") for axis in seen(figure)][0] == "b: noise" and len(seen(figure)) == 3, "all diverged"
    with pytest.raises(SettingsError, match="strength above 0"):
        regimes.regime_curves({"b": sweep(("PGD",), (0.0,))})
    with pytest.raises(SettingsError, match="sweeps = empty"):
        regimes.regime_curves({})


def test_published_curves_stand_where_the_axes_mean_the_same():
    published = pd.DataFrame({"kind": "PGD", "per image": [1e-5, 0.01, 1.0, 1e4], "on": [0.5, 0.6, 0.6, 0.1],
                              "off": [1.1, 1.0, 0.4, 0.0], "accuracy": [0.95, 0.94, 0.8, 0.1]})
    figure = regimes.regime_curves({"digits": sweep()}, published={"digits": published})
    _, above, _, below = seen(figure)[:4]
    faint, = [line for line in below.lines if line.get_alpha() == 0.6]
    assert list(faint.get_xdata()) == [-2, 0] and list(faint.get_ydata()) == [0.94, 0.8], "as far as the axis goes"
    crossing, = [line for line in above.lines if line.get_alpha() == 0.7]
    assert crossing.get_xdata()[0] == pytest.approx(-2 + 2 * 0.4 / 0.6), "where off minus on is 0"
    assert len([line for line in above.lines if len(line.get_xdata()) == 4]) == 0, "their changes are in another norm"
    assert any("paper" in text for text in legend_texts(figure))
    other = regimes.regime_curves({"digits": sweep()}, published={"digits": published.assign(kind="smoothness")})
    assert not any("paper" in text for text in legend_texts(other))


def rhos(where="subspace", seeds=2, bayes=0.0):
    """Rows of the theory: |rho1 - rho2| = c sigma^2 of networks, and of the Bayes classifier `bayes`."""
    rows = []
    for seed in range(seeds):
        for sigma in (0.004, 0.001, 0.002):
            for kind, share in (("none", 0.9), ("noise 0.5", 0.2)):
                rows.append({"where": where, "kind": kind, "seed": seed, "sigma": sigma, "rho2": share,
                             "rho1": share + (seed - 0.5) * sigma**2, "worst rho2": share + 0.05})
            rows.append({"where": where, "kind": "Bayes", "seed": seed, "sigma": sigma, "rho1": bayes + sigma**6,
                         "rho2": 0.0, "worst rho2": bayes})
    return pd.DataFrame(rows)


def test_theory_is_drawn_with_its_slope_and_bayes_apart():
    figure = manifold.off_manifold_theory(pd.concat([rhos(), rhos("torus")]), {"rho1": 1e-3, "worst rho2": 1e-6})
    left, middle, right = figure.axes
    assert [axis.get_title("left") for axis in (left, middle)] == ["subspace", "torus"]
    lines = [line for line in left.lines if line.get_marker() == "o"]
    assert len(lines) == 4, "two kinds of network, two repetitions, not Bayes"
    for line in lines:
        assert line.get_xdata() == pytest.approx([0.001, 0.002, 0.004])
        assert line.get_ydata() == pytest.approx(0.5 * np.array([0.001, 0.002, 0.004]) ** 2)
    dotted, = [line for line in left.lines if line.get_linestyle() == ":"]
    assert np.polyfit(np.log(dotted.get_xdata()), np.log(dotted.get_ydata()), 1)[0] == pytest.approx(2)
    key, = [key for key in figure.legends[0].legend_handles if key.get_label() == "Bayes classifier"]
    bayes = [line for line in right.lines if line.get_color() == key.get_color()]
    assert [line.get_ydata() for line in bayes[:2]] == [pytest.approx([1e-16] * 2)] * 2, "rounding noise"
    none = [line for line in right.lines if line.get_color() == plots.CLEAN]
    assert none[1].get_ydata() == pytest.approx([0.95] * 2) and right.get_ylim()[0] < 1e-16
    bounds = {line.get_ydata()[0]: line.get_linestyle() for line in right.lines if len({*line.get_ydata()}) == 1
              and line.get_linestyle() in ("--", ":")}
    assert bounds == {1e-3: "--", 1e-6: ":"}
    with pytest.raises(SettingsError, match="unknown kind 'PGD 1'"):
        manifold.off_manifold_theory(rhos().replace({"kind": {"none": "PGD 1"}}))
    with pytest.raises(SettingsError, match="unknown bound 'rho3'"):
        manifold.off_manifold_theory(rhos(), {"rho3": 1})


def test_controls_of_steps_have_a_row_for_every_space_and_length():
    spaces = {f"{side}, {space}": value for space, value in (("PCA, 2", 0.5), ("auto-encoder, 0.5", 0.1))
              for side, value in (("on", value), ("off", value / 2))}
    table = sweep(other=0.25, matched=0.2, **spaces)
    figure = manifold.step_controls(table, ("auto-encoder", "PCA"), (2, 0.5), "digits")
    grid = np.array(figure.axes).reshape(3, 2)
    assert [" ".join(axis.get_ylabel().split()) for axis in grid[:, 0]] == [
        "auto-encoder, length 2", "PCA, length 2", "auto-encoder, length 0.5"]
    assert [axis.get_title("left") for axis in grid[0]] == ["digits: gradient norm", "digits: PGD"]
    assert line_of(grid[1, 1], strength_axis.ON).get_ydata() == pytest.approx([0.5] * 5)
    assert line_of(grid[2, 0], strength_axis.OFF).get_ydata() == pytest.approx([0.05] * 5)
    flat = [{*np.round(line.get_ydata(), 6)} for line in grid[0, 0].lines]
    assert {0.25} in flat and {0.2} in flat, "another image's space, and the same spectrum"
    assert len(legend_texts(figure)) == 4
    alone = manifold.step_controls(table.assign(other=np.nan).drop(columns="matched"), ("auto-encoder",), (2,))
    assert legend_texts(alone) == ["change along the manifold", "change off the manifold"], "one space for all points"
    assert all(len(line.get_xdata()) in (2, 5) and np.isfinite(line.get_ydata()).all() for line in alone.axes[0].lines)
    with pytest.raises(SettingsError, match="lacks the columns on, local PCA, 2, off, local PCA, 2"):
        manifold.step_controls(table, ("auto-encoder", "local PCA"), (2,))


def test_log_ratios_of_changes_are_drawn_for_every_length_and_control():
    table = sweep(**{"on, PCA, 2": 0.4, "off, PCA, 2": 0.2, "on, PCA, 0.5": 0.1, "off, PCA, 0.5": 0.1, "matched": 0.1})
    figure = manifold.log_ratios({"digits": table}, {"digits": ("PCA",)}, {"digits": (2, 0.5)})
    left, right = seen(figure)
    assert [left.get_title("left"), right.get_title("left")] == ["digits: gradient norm", "digits: PGD"]
    drawn = [line.get_ydata() for line in left.lines if line.get_marker() in ("o", "s", "D")]
    assert drawn[0] == pytest.approx([np.log(2)] * 5) and drawn[1] == pytest.approx([0] * 5)
    assert drawn[2] == pytest.approx([np.log((on + 0.001) / 0.1) for on, _ in ON_OFF.values()], abs=0.02)
    assert legend_texts(figure) == ["length 2", "length 0.5", "off it with the same spectrum"]
    assert figure.description.startswith("Steps along the manifold change networks clearly more than steps off it of "
                                         "the same spectrum at some strength of 2 of 2 regularisers, without "
                                         "regularisation in 2")
    alone = manifold.log_ratios({"digits": table.drop(columns="matched")}, {"digits": ("PCA",)}, {"digits": (2,)})
    assert legend_texts(alone) == ["length 2"] and alone.description.startswith("Changes by steps along")
    with pytest.raises(SettingsError, match="lacks the columns on, PCA, 3, off, PCA, 3"):
        manifold.log_ratios({"digits": table}, {"digits": ("PCA",)}, {"digits": (3,)})


def test_shares_of_the_gradient_are_drawn_for_every_space():
    table = sweep(**{"inside, PCA": 0.3})
    table["inside"] = table.alignment + 0.2 + 0.01 * table.seed
    figure = manifold.shares_inside({"digits": table}, {"digits": pd.DataFrame({"inside": [0.1, 0.2]})})
    left, _ = seen(figure)
    assert line_of(left, strength_axis.ON).get_ydata() == pytest.approx([one + 0.21 for one in ALIGNED.values()])
    assert legend_texts(figure) == ["the image’s tangent space", "principal components",
                                    "the image’s tangent space, untrained networks"]
    assert {0.15} in [{*np.round(line.get_ydata(), 6)} for line in left.lines], "untrained"
    assert figure.description.startswith("The share of the gradient in the tangent space grows from 31\u00a0% to up to "
                                         "61\u00a0% with 2 of 2 regularisers")
    level = manifold.shares_inside({"digits": table.assign(inside=0.5)})
    assert level.description.startswith("Shares of the gradient inside the tangent space")


def ends(figure):
    """The names at the ends of lines."""
    return {text.get_text() for axis in figure.axes for text in axis.texts}


def test_alignments_stand_beside_what_knows_nothing():
    table = sweep(**{"white noise": 0.0, "inside": 0.4, "sum of logits": 0.3, "1 - LPIPS": np.nan})
    untrained = pd.DataFrame({"alignment": [-0.1, -0.3], "inside": [0.2, 0.2]})
    figure = manifold.alignment_variants(table, untrained)
    first, second, third = (figure.axes[2 * row] for row in range(3))
    assert line_of(first, strength_axis.ALIGNED).get_ydata() == pytest.approx(list(ALIGNED.values()))
    assert [{*line.get_ydata()} for line in first.lines if line.get_alpha() == 0.5] == [{-0.2}], "mean of the untrained"
    assert len(second.lines) == 2, "the break, and no LPIPS where there is none"
    assert third.get_ylim()[0] == 0
    assert legend_texts(figure) == ["untrained networks"]
    assert ends(figure) == {"own class score", "another image’s score", "white noise", "summed logits and score",
                            "squared gradient"}
    assert "the same: 1 − LPIPS" in ends(manifold.alignment_variants(table.assign(**{"1 - LPIPS": 0.7})))
    exact = manifold.alignment_variants(sweep(("noise",)))
    assert len(exact.axes) == 1, "closed forms have no second and third row here"
    assert ends(exact) == {"own Bayes gradient", "another point’s"}


@dataclass
class Pictures:
    images: np.ndarray
    score: np.ndarray | None
    class_score: np.ndarray
    gradients: dict


def gradients(kinds=("gradient norm", "noise"), score=True):
    rng = np.random.default_rng(1)
    images, ideal = rng.random((2, 1, 4, 4)), rng.normal(size=(2, 1, 4, 4))
    shown = regimes.representatives(sweep(kinds))
    found = {name: ideal * (-1) ** k for k, name in enumerate(shown)}
    return Pictures(images, images - 0.5 if score else None, ideal, found), shown


def test_gradient_grid():
    pictures, shown = gradients()
    pictures.gradients["noise", 0.1] = np.zeros((2, 1, 4, 4))
    figure = gradient.gradient_grid(pictures, shown)
    drawn = [axis for axis in figure.axes if axis.images]
    titles = [" ".join(axis.get_title().split()) for axis in drawn if axis.get_title()]
    assert titles == ["image", "score", "class score", "no regulariser", "gradient norm 0.01", "gradient norm 0.1",
                      "gradient norm 1", "image", "score", "class score", "noise 0.01", "noise 0.1", "noise 1"]
    assert len(drawn) == 2 * 13, "two images, kinds that do not fit below"
    by_title = {" ".join(axis.get_title().split()): axis for axis in drawn if axis.get_title()}
    shades = {title: np.asarray(axis.images[0].get_array()) for title, axis in by_title.items()}
    np.testing.assert_allclose(shades["image"], pictures.images[0, 0])
    np.testing.assert_allclose(shades["gradient norm 0.01"], 1 - shades["class score"], err_msg="its opposite")
    assert [by_title[name].get_xlabel() for name in ("no regulariser", "gradient norm 0.01", "noise 0.1")] == [
        "1.00", "−1.00", "0.00"], "cosines; nothing has no direction"
    box = by_title["gradient norm 0.1"].title.get_bbox_patch()
    assert matplotlib.colors.to_hex(box.get_facecolor()) == regimes.REGIMES["Bayes-aligned"]
    assert legend_texts(figure) == [f"{name} regime" for name in regimes.REGIMES]
    assert not overlaps(figure), "no heading touches a number"


def test_gradient_grid_without_what_is_missing():
    pictures, shown = gradients(("noise",), score=False)
    del pictures.gradients["noise", 1.0]
    figure = gradient.gradient_grid(pictures, shown)
    titles = [" ".join(axis.get_title().split()) for axis in figure.axes if axis.get_title()]
    assert titles == ["image", "class score", "no regulariser", "noise 0.01", "noise 0.1"]
    assert "excessive regime" not in legend_texts(figure)
    with pytest.raises(SettingsError, match="of the gradients that are there"):
        gradient.gradient_grid(pictures, {("PGD", 1.0): "weak"})


LETTER_KINDS = {"untrained": 0.0, "standard": 0.5, "robust, eps per image": 1.0, "robust, eps per batch": 0.8}


def ratios(sets=("digits_letter_a", "digits_letters"), kinds=tuple(LETTER_KINDS)):
    return pd.DataFrame([
        {"where": where, "kind": kind, "seed": seed, "noise": noise, "log ratio": LETTER_KINDS[kind] + 0.1 * (seed - 1),
         "counts": noise > 0.1 or seed > 0}
        for where in sets for kind in kinds for seed in range(3) for noise in (0.1, 0.3, 1.0)])


def test_ratios_of_signal_and_distractor():
    figure = gradient.distractor_ratio(ratios())
    left, right = figure.axes
    assert (left.get_title("left"), right.get_title("left")) == ("digits, letter A", "digits, random letters")
    assert left.get_xscale() == left.get_yscale() == "log"
    line = line_of(left, plots.ROBUST)
    np.testing.assert_allclose(line.get_ydata(), [np.nan, np.e, np.e], err_msg="the geometric mean, where all count")
    assert line.get_xdata() == pytest.approx([0.1, 0.3, 1.0])
    faint, = [line for line in left.lines if line.get_color() == plots.ROBUST and line.get_alpha() == 0.25]
    assert list(faint.get_xdata()) == [0.1]
    assert [1, 1] in [list(line.get_ydata()) for line in left.lines], "a line at 1"
    band = next(c for c in left.collections if matplotlib.colors.to_hex(c.get_facecolor()[0]) == plots.ROBUST)
    ys = band.get_paths()[0].vertices[:, 1]
    assert (ys.min(), ys.max()) == pytest.approx((np.exp(0.9), np.exp(1.1)))
    assert legend_texts(figure) == [*LETTER_KINDS, "hardly any change: not counted"]
    positions = ("digit above", "digit below")
    placed = pd.concat([ratios(("digits_letters",)).assign(position=p, counts=True) for p in positions])
    figure = gradient.distractor_ratio(placed)
    assert [axis.get_title("left") for axis in figure.axes] == [f"digits, random letters, {p}" for p in positions]
    assert legend_texts(figure) == [*LETTER_KINDS]
    with pytest.raises(SettingsError, match="unknown kind of network 'dense'.*standard"):
        gradient.distractor_ratio(ratios().replace({"kind": {"standard": "dense"}}))


def shares_of_gradients(sets=("mnist_letter_a", "mnist_letters")):
    return pd.DataFrame([{"where": where, "kind": kind, "seed": seed, "position": f"digit {position}",
                          "share": 0.5 + 0.3 * value + 0.02 * (seed - 1) + 0.05 * (position == "above")}
                         for where in sets for kind, value in LETTER_KINDS.items() for seed in range(3)
                         for position in ("above", "below")])


def test_gradients_beside_a_letter():
    pictures = {"mnist_letters": (np.random.default_rng(0).random((2, 1, 8, 4)),
                                  {kind: np.full((2, 1, 8, 4), value) for kind, value in LETTER_KINDS.items()})}
    table = shares_of_gradients()
    figure = gradient.distractor_gradients(table, pictures)
    strips = [axis for axis in figure.axes if not axis.images]
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title("left") for axis in strips] == ["mnist, letter A", "mnist, random letters"]
    assert [text.get_text() for text in strips[0].get_yticklabels()] == [*LETTER_KINDS]
    assert strips[0].get_ylim()[0] > strips[0].get_ylim()[1] and strips[0].get_xlim() == (0, 1)
    mine = [line for line in strips[0].lines if line.get_color() == plots.ROBUST]
    by_mark = {line.get_marker(): line for line in mine}
    assert by_mark["^"].get_xdata() == pytest.approx([0.83, 0.85, 0.87])
    assert by_mark["v"].get_xdata() == pytest.approx([0.78, 0.80, 0.82])
    assert by_mark["None"].get_xdata()[0] == pytest.approx(0.825), "the mean"
    assert all(round(y) == 2 for line in mine for y in line.get_ydata()), "in its row"
    assert len(drawn) == 2 * 5 and [axis.get_title() for axis in drawn[:3]] == ["input", "untrained", "standard"]
    np.testing.assert_allclose(drawn[0].images[0].get_array(), pictures["mnist_letters"][0][0, 0])
    assert legend_texts(figure) == ["digit above", "digit below", "mean"] and not overlaps(figure)
    assert len(gradient.distractor_gradients(table).axes) == 2
    with pytest.raises(SettingsError, match="pictures of mnist_letters 'dense'"):
        gradient.distractor_gradients(table, {"mnist_letters": (np.zeros((1, 1, 8, 4)), {"dense": None})})


@pytest.mark.parametrize(("draw", "lacks"), [
    (lambda table: regimes.regime_curves({"digits": table}), "alignment"), (regimes.representatives, "off"),
    (lambda table: manifold.step_controls(table, ("PCA",), (1,)), "on"),
    (lambda table: manifold.shares_inside({"digits": table}), "inside"), (manifold.alignment_variants, "strength"),
    (manifold.off_manifold_theory, "rho1"), (gradient.distractor_ratio, "counts"),
    (gradient.distractor_gradients, "share"),
])
def test_tables_of_off_manifold_robustness_are_checked(draw, lacks):
    whole = pd.concat([sweep(inside=0.5), rhos(), ratios(), shares_of_gradients()])
    with pytest.raises(SettingsError, match=f"lacks the column {lacks}:"):
        draw(whole.drop(columns=lacks))
    with pytest.raises(SettingsError, match="without rows"):
        draw(whole[:0])
