"""Explore steps on and off the manifold: choose a network, an image, a direction and a length, and see how far the
network's answer moves.
"""

from __future__ import annotations

import functools

import torch

from lib.manifold import sensitivity
from lib.papers.off_manifold_robustness.material import Material
from lib.papers.off_manifold_robustness.networks import UNTRAINED
from lib.papers.off_manifold_robustness.results import Results
from lib.plots.common import as_picture, show_picture, signed
from lib.plots.explorer import Explorer, percent
from lib.plots.style import GREY, WIDTH, style
from lib.runtime import threads
from lib.training.ready import SMALL
from lib.training.zoo import Zoo

ON, OFF, MATCHED = "along the manifold", "off the manifold", "off the manifold, same spectrum"
LENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0)  # shares of the sweep's first length
COLOURS = {ON: "#1b7f4f", OFF: "#c2185b", MATCHED: "#9a8a00"}


def explorer(zoo: Zoo, f: Results, live: bool | None = None) -> Explorer:
    """The controls `network` (with its clean accuracy), `image`, `direction` and `length`, in units of the data's own
    space. Directions are along the manifold, off it and, where there are such steps (`Material.controls`), off it with
    the Fourier spectrum of steps along it. Shown is the first sweep of images, or the first of all, and networks of the
    first repetition.
    """
    sweep = next((one for one in f.section.sweeps if not one.closed_form), f.section.sweeps[0])
    on = Material(zoo, f.networks_of(sweep))
    cells = {c.condition: c for c in f.of(where=sweep.name) if c.repetition == 0 and c in f.sensitivity}
    cells = dict(sorted(cells.items(), key=lambda pair: pair[0].kind == UNTRAINED))  # last, since it is seldom of use

    @functools.cache
    def net_of(condition):
        return zoo.obtain(cells[condition].recipe).net

    named = {f"{f.label(c)} (clean {percent(f.accuracy(c))})": c for c in cells}
    labels = on.test.labels
    images = {f"{n + 1} (class {int(labels[n])})": n for n in range(min(8, len(labels)))}
    draws = sensitivity.normal_draws(on.images, on.test.indices, sweep.draws, "steps")
    unit, ways = sweep.sizes[0], [OFF, ON]
    if f.matching.get(sweep.name, ("", False, ""))[1]:
        ways.append(MATCHED)

    def draw(network, image: int, direction: str, length: float) -> tuple:
        net, x = net_of(network), on.images[image:image + 1]
        tangents = on.first.at([image]) if len(on.first.bases) > 1 else on.first
        both, found = sensitivity.steps(draws[:, image:image + 1], tangents, length * on.length), {}
        for way in ways:
            made = {ON: both.on, OFF: both.off}.get(way)
            if made is None:
                made = sensitivity.resized(on.controls["matched"][:, image:image + 1], length * on.length)
            step = made[:, 0].reshape(-1, *x.shape[1:])
            with torch.no_grad(), threads(1 if x.numel() < SMALL else None):
                answers = net(torch.cat([x, x + step])).softmax(1)
            found[way] = step[0].cpu().numpy(), answers[0].cpu().numpy(), answers[1:].cpu().numpy()
        changes = {way: 0.5 * abs(after - before).sum(1).mean() for way, (_, before, after) in found.items()}
        others = "; ".join(f"{way} by {change:.3f}" for way, change in changes.items() if way != direction)
        said = (f"{sweep.name}: steps of length {length:g} {direction} change the class probabilities by "
                f"{changes[direction]:.3f} (total variation, mean of {len(draws)} draws); equally long steps {others}.")
        return _figure(x[0].cpu().numpy(), found[direction], direction, not sweep.closed_form), said

    return Explorer({"network": named, "image": images, "direction": ways,
                     "length": {f"{share * unit:.3g}": share * unit for share in LENGTHS[::-1]}}, draw, live)


def _figure(x, found, direction: str, pictures: bool):
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import PercentFormatter

    style()
    step, before, after = found
    figure = plt.figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = figure.subplots(1, 4 if pictures else 1, squeeze=False, width_ratios=[1, 1, 1, 2.4] if pictures else None)[0]
    shown = zip(axes, ("image", "one step", "image after it"), (as_picture(x), signed(step), as_picture(x + step)),
                strict=False)
    for axis, title, picture in shown if pictures else ():
        show_picture(axis, picture)
        axis.set_title(title, fontsize=9)
    places = np.arange(len(before))
    axes[-1].bar(places - 0.2, before, 0.4, color=GREY, label="before")
    axes[-1].bar(places + 0.2, after.mean(0), 0.4, color=COLOURS[direction], label=f"after steps {direction}, mean")
    axes[-1].set_xticks(places, [str(place) for place in places])
    axes[-1].set_xlabel("class")
    axes[-1].set_ylabel("probability")
    axes[-1].set_ylim(0, 1)
    axes[-1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[-1].grid(False, axis="x")
    axes[-1].legend(frameon=False, fontsize=8, loc="upper right")
    return figure
