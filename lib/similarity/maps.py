"""Maps of similarity between all layers of networks that see the same images, streamed over minibatches.

This is minibatch CKA (Nguyen et al. 2021), as Cianfarani et al. (2022) use it. All networks see the same minibatch, and
every layer gives one centred Gram matrix. One matrix product gives the terms of all pairs of layers. The ratio is taken
once, after the terms are averaged over minibatches. Features are discarded in the hook that reads them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lib.door import check_images, in_own_state
from lib.errors import is_int, need, unknown
from lib.models.staged import device_of, memory_format, precision_of
from lib.models.taps import Tap, as_overwritten, tapped, taps
from lib.modes import evaluating
from lib.representations.gram import Centred, as_rows, double_centred, pooled_rows, rounding
from lib.representations.measures import Measure, Scatter, check_features, named
from lib.runtime import ProgressBar, keep_freed_memory

LEAST = 4  # images in a minibatch: HSIC1 divides by n - 3
_COLUMNS = 2**14  # how many columns of the flattened Gram matrices are converted to fp64 at a time


@dataclass(frozen=True, eq=False)
class View:
    """A network and the images it is shown.

    name: the view's name in the maps. images: float32 [N, C, H, W] in [0, 1], clean or attacked, or a set with `pixels`
    and `indices` (lib.data.ImageSet). indices: int64 [N], which images they are; required if `images` is a tensor.
    taps: the taps to read, or the layers in a form that `lib.models.taps.taps` takes.
    """

    name: str
    net: nn.Module
    images: object
    indices: Tensor | None = None
    taps: str | float | Sequence[str] | Sequence[Tap] = "all"


@dataclass(frozen=True, eq=False)
class Maps:
    """The similarity of every layer to every layer, within and between views.

    measure: the measure's name. views: the views' names. layers: view -> its taps, R of all views together, in that
    order. sizes: the number of images of each minibatch; if `exact`, of all images. terms: fp64 [B, R, R], for each of
    B minibatches the mean products of centred Gram matrices (CKA) or the values themselves (other measures, and all
    measures if `exact`), NaN for pairs that were not requested. undefined: (view, label) -> why the layer has no value.
    pairs: the requested pairs of views, in either order. pooled, faithful, exact: see `maps`.
    """

    measure: str
    views: tuple[str, ...]
    layers: dict[str, tuple[Tap, ...]]
    sizes: tuple[int, ...]
    terms: Tensor
    undefined: dict[tuple[str, str], str]
    pairs: tuple[tuple[str, str], ...]
    pooled: bool = False
    faithful: bool = False
    exact: bool = False

    @property
    def batches(self) -> int:
        """The number of minibatches."""
        return len(self.sizes)

    def between(self, a: str, b: str, without: int | None = None) -> np.ndarray:
        """The map [layers of a, layers of b] of two views, fp64; NaN in rows and columns of `undefined` layers.

        without: the number of a minibatch to leave out, for the jackknife. Raises SettingsError for an unknown view, a
        pair that was not requested, a minibatch that does not exist, or leaving out the only one.
        """
        for name in (a, b):
            if name not in self.views:
                raise unknown("view", name, self.views)
        need((a, b) in self.pairs or (b, a) in self.pairs, "views", f"{a}, {b}", f"one of the pairs {self.pairs}")
        need(without is None or (is_int(without, 0) and without < self.batches and self.batches > 1), "without",
             without, f"None or the number of one of several minibatches, here {self.batches}")
        kept = [k for k in range(self.batches) if k != without]
        rows, columns = self._rows(a), self._rows(b)
        value = self.terms[kept, rows, columns].mean(0)
        if named(self.measure).centre and not self.exact:
            own = self.terms.diagonal(dim1=1, dim2=2)[kept].mean(0)
            value = value / (own[rows, None] * own[None, columns]).sqrt()
        value = value.numpy().copy()
        value[[(a, tap.label) in self.undefined for tap in self.layers[a]]] = np.nan
        value[:, [(b, tap.label) in self.undefined for tap in self.layers[b]]] = np.nan
        return value

    def _rows(self, view: str) -> slice:
        first = sum(len(self.layers[name]) for name in self.views[:self.views.index(view)])
        return slice(first, first + len(self.layers[view]))

    def to_plain(self) -> tuple[dict[str, Tensor], dict]:
        """({name: tensor}, the rest as JSON types); `from_plain` restores the maps."""
        meta = {name: getattr(self, name) for name in ("measure", "pooled", "faithful", "exact")}
        meta |= {"views": list(self.views), "sizes": list(self.sizes), "pairs": [list(pair) for pair in self.pairs],
                 "layers": {view: [[t.name, t.call, t.kind, t.stage] for t in self.layers[view]]
                            for view in self.views},
                 "undefined": [[view, label, why] for (view, label), why in self.undefined.items()]}
        return {"terms": self.terms}, meta

    @classmethod
    def from_plain(cls, tensors: dict[str, Tensor], meta: dict) -> Maps:
        """Restore maps from what `to_plain` returned."""
        return cls(meta["measure"], tuple(meta["views"]),
                   {view: tuple(Tap(*tap) for tap in meta["layers"][view]) for view in meta["views"]},
                   tuple(meta["sizes"]), tensors["terms"],
                   {(view, label): why for view, label, why in meta["undefined"]},
                   tuple((a, b) for a, b in meta["pairs"]), meta["pooled"], meta["faithful"], meta["exact"])


@in_own_state
def maps(views: Sequence[View], measure: str = "cka", batch_size: int = 256, pooled: bool = False,
         faithful: bool = False, exact: bool | None = None, pairs: Sequence[tuple[str, str]] | None = None) -> Maps:
    """The similarity maps between all views (or the `pairs` of names), including each view with itself. The networks
    run in eval mode on the devices they are on, and are left as they were.

    measure: see `lib.representations.compare`. batch_size: the largest number of images in a minibatch, at least 4 (up
    to three more where the rest would be fewer than 4). The N images are split into ceil(N / batch_size) minibatches of
    equal weight whose sizes differ by at most 1, so that none is a small remainder: HSIC1 is unbiased at every size,
    but "cka_biased" and "procrustes" depend on it. Compare values of these two and of "svcca" only at equal sizes.
    pooled: first average [n, C, H, W] over positions and [n, T, C] over dimension 1. exact: one value over all images
    together, from moments, in two passes. It is possible only with `pooled`, where it is the default, and "cca" and
    "pwcca" need it. For each pair of views, its memory grows with the square of the number of channels of all layers
    together. faithful: as in the paper's code, whose in-place ReLUs overwrite what its hooks keep, an output that a
    ReLU takes counts as that ReLU's output. It is refused with `pooled`, where that code makes a copy.

    Raises SettingsError before any work for impossible settings and for views that show different images.
    """
    kind = named(measure)
    exact = pooled if exact is None else exact
    need(is_int(batch_size, LEAST), "batch_size", batch_size, f"a whole number of at least {LEAST}")
    need(pooled or kind.takes_grams, "pooled", pooled,
         f"true for {measure}, which is 1 for any features if they outnumber the images")
    need(exact or kind.takes_grams, "exact", exact, f"true for {measure}, which needs more images than features")
    need(pooled or not exact, "exact", exact, "false for features that are not pooled: their moments are too large")
    need(not (pooled and faithful), "faithful", faithful, "false for pooled features, which the paper's code copies")
    _check(views)
    keep_freed_memory()
    wanted = _pairs([view.name for view in views], pairs)
    looks = [_Resolved(view, faithful) for view in views]
    count = looks[0].count
    parts = _parts(count, batch_size)
    rows = pooled_rows if pooled else as_rows
    with contextlib.ExitStack() as stack, torch.no_grad():
        for look in looks:
            stack.enter_context(evaluating(look.net))
        bar = stack.enter_context(ProgressBar(len(parts) * (2 if exact else 1), f"{measure} maps", "part"))
        terms, reasons = (_exact if exact else _streamed)(kind, looks, parts, wanted, rows, bar)
    order = [first + k for look, first in zip(looks, _offsets(looks), strict=True) for k in look.where]
    labels = [(look.name, tap.label) for look in looks for tap in look.taps]
    undefined = {label: reasons[row] for label, row in zip(labels, order, strict=True) if reasons[row]}
    sizes = (count,) if exact else tuple(part.stop - part.start for part in parts)
    return Maps(measure, tuple(look.name for look in looks), {look.name: look.taps for look in looks}, sizes,
                terms[:, order][:, :, order].contiguous(), undefined, wanted, pooled, faithful, exact)


# --------------------------------------------------------------------------------------------------------------- views


class _Resolved:
    """A view with its taps resolved. heard: the distinct taps that are read; where: each tap's position in `heard`."""

    def __init__(self, view: View, faithful: bool):
        self.name, self.net, self.images = view.name, view.net, view.images
        first = _pixels(view, slice(0, 1))
        self.count, shape = len(view.images), tuple(first.shape[1:])
        self.device, self.dtype = device_of(view.net), precision_of(view.net)
        self.format, self.eps = memory_format(view.net), torch.finfo(self.dtype).eps
        named_by = view.taps
        given = isinstance(named_by, (list, tuple)) and all(isinstance(tap, Tap) for tap in named_by)
        self.taps = tuple(named_by) if given else taps(view.net, shape, named_by)
        need(len(set(self.taps)) == len(self.taps) > 0, f"taps of view {view.name}", [tap.label for tap in self.taps],
             "at least one tap, all different")
        sources = as_overwritten(view.net, shape, self.taps) if faithful else self.taps
        self.heard = tuple(dict.fromkeys(sources))
        self.where = [self.heard.index(tap) for tap in sources]

    def error_of(self, output: Tensor) -> float:
        """The relative error of an output: that of its own type or of the network's, whichever is coarser."""
        return max(self.eps, torch.finfo(output.dtype).eps)

    def show(self, part: slice, visit: Callable[[int, Tensor], None]) -> None:
        """Run a forward pass of these images and call `visit(position in heard, output)` for every tap."""
        images = _pixels(self, part).to(self.device, self.dtype).contiguous(memory_format=self.format)
        seen = set()

        def once(position: int, output: Tensor) -> None:
            seen.add(position)
            visit(position, output)

        with tapped(self.net, self.heard, once):
            self.net(images)
        missing = [tap.label for position, tap in enumerate(self.heard) if position not in seen]
        need(not missing, "layers", ", ".join(missing), f"layers that the network of view {self.name} runs")


def _pixels(view: View | _Resolved, part: slice) -> Tensor:
    return view.images[part] if isinstance(view.images, Tensor) else view.images.pixels(part)


def _indices(view: View) -> Tensor:
    found = view.indices if view.indices is not None else getattr(view.images, "indices", None)
    found = found if isinstance(found, Tensor) else None  # the `indices` of a tensor is a method
    need(found is not None, f"indices of view {view.name}", None, "given where the images are a tensor")
    need(found.shape == (len(view.images),), f"indices of view {view.name}", f"a tensor of shape {tuple(found.shape)}",
         f"of shape [{len(view.images)}], one for each image")
    return found.cpu()


def _check(views: Sequence[View]) -> None:
    names = [view.name for view in views]
    need(len(views) > 0, "views", "none", "at least one")
    need(len(set(names)) == len(names), "names of views", ", ".join(names), "different from each other")
    first = _indices(views[0])
    need(len(first) >= LEAST, "number of images", len(first), f"at least {LEAST}")
    for view in views:
        own = _indices(view)
        need(len(own) == len(first), f"images of view {view.name}", f"{len(own)} images",
             f"the {len(first)} of view {names[0]}, in the same order")
        differ = (own != first).nonzero()
        need(not len(differ), f"images of view {view.name}", "images with other indices",
             f"those of view {names[0]}, in the same order"
             + (f"; number {int(differ[0])} is {int(own[differ[0]])}, not {int(first[differ[0]])}"
                if len(differ) else ""))
        if isinstance(view.images, Tensor):
            check_images(view.images, f"images of view {view.name}")


def _pairs(names: list[str], pairs: Sequence[tuple[str, str]] | None) -> tuple[tuple[str, str], ...]:
    if pairs is None:
        return tuple((a, b) for k, a in enumerate(names) for b in names[k:])
    for pair in pairs:
        for name in pair:
            if name not in names:
                raise unknown("view", name, names)
    return tuple((a, b) for a, b in pairs)


def _parts(count: int, batch_size: int) -> list[slice]:
    """Slices of minibatches of nearly equal size, each of at least `LEAST` images."""
    number = min(-(-count // batch_size), count // LEAST)
    ends = [count * k // number for k in range(number + 1)]
    return [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]


def _offsets(looks: Sequence[_Resolved]) -> list[int]:
    return [sum(len(other.heard) for other in looks[:k]) for k in range(len(looks))]


def _reason(square: Tensor, spread: Tensor, level: Tensor, floor: Tensor) -> str:
    """Why a layer is left out whose centred Gram has this squared norm, tr K = spread and n |mean|^2 = level, where
    rounding alone may give a norm of `floor`; "" if it is not.
    """
    strength, floor = float(square.sqrt()), float(floor)
    if not np.isfinite(strength):
        return "its output is not finite"
    if float(spread + level) == 0:
        return "its output is 0 for every image"
    if strength <= floor:
        return (f"its output does not differ between images beyond rounding (norm of its centred Gram {strength:.1e}, "
                f"rounding up to {floor:.1e})")
    return ""


# ------------------------------------------------------------------------------------------------------- minibatches


def _streamed(kind: Measure, looks: list[_Resolved], parts: list[slice], wanted, rows, bar) -> tuple[Tensor, list[str]]:
    """(terms fp64 [B, R, R], reasons [R]) for the R heard taps of all views; a reason is "" for a defined layer."""
    offsets, total = _offsets(looks), sum(len(look.heard) for look in looks)
    home = looks[0].device
    fine = not kind.centre or any(look.dtype == torch.float64 for look in looks)
    gram_of = Centred(torch.float64 if fine else torch.float32)
    most = max(part.stop - part.start for part in parts)
    store = torch.empty(total * most**2 if kind.centre else 0, device=home)
    terms = torch.full((len(parts), total, total), float("nan"), dtype=torch.float64)
    measured = torch.zeros(len(parts), 4, total, dtype=torch.float64, device=home)
    for number, part in enumerate(parts):
        n = part.stop - part.start
        held = store[:total * n**2].view(total, n, n) if kind.centre else [None] * total
        for look, first in zip(looks, offsets, strict=True):

            def visit(position: int, output: Tensor, look=look, first=first, held=held, number=number):
                row = first + position
                x = rows(output)
                gram, level = gram_of(x)
                spread = gram.diagonal().sum(dtype=torch.float64)
                centred = (kind.centre or double_centred)(gram)
                floor = rounding(spread, level, x.shape[1], look.error_of(output))
                measured[number, :, row] = torch.stack(
                    [centred.double().square().sum(), spread, level, floor]).to(home)
                if kind.centre:
                    held[row] = centred
                elif not _reason(*measured[number, :, row]):
                    held[row] = kind.factor(centred)

            look.show(part, visit)
        if kind.centre:
            terms[number] = _products(held.view(total, -1)) / _degrees(kind, n)
        else:
            for i, j in _layer_pairs(looks, wanted):
                if held[i] is not None and held[j] is not None:
                    terms[number, i, j] = terms[number, j, i] = kind.of_factors(held[i], held[j].to(held[i].device))
        bar.step(1)
    # A ratio over all minibatches needs a layer that differs between images in one of them, values by minibatch in all.
    cases = measured.mean(0, keepdim=True) if kind.centre else measured
    return terms, [next((why for case in cases.cpu() if (why := _reason(*case[:, row]))), "") for row in range(total)]


def _products(rows: Tensor) -> Tensor:
    """All inner products of rows [R, m], fp64 [R, R] on the CPU."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for piece in rows.split(_COLUMNS, 1):
        piece = piece.double()
        total.addmm_(piece, piece.T)
    return ((total + total.T) / 2).cpu()


def _degrees(kind: Measure, n: int) -> int:
    """The divisor that turns an inner product of centred Gram matrices of n images into a mean over pairs of images."""
    return (n - 1) ** 2 if kind.centre is double_centred else n * (n - 3)


def _layer_pairs(looks: list[_Resolved], wanted) -> list[tuple[int, int]]:
    """(row, column) of all pairs of layers of the wanted pairs of views, each once."""
    rows = {look.name: range(first, first + len(look.heard))
            for look, first in zip(looks, _offsets(looks), strict=True)}
    return sorted({(min(i, j), max(i, j)) for a, b in wanted for i in rows[a] for j in rows[b]})


# ------------------------------------------------------------------------------------------- all images at once, pooled


def _exact(kind: Measure, looks: list[_Resolved], parts: list[slice], wanted, rows, bar) -> tuple[Tensor, list[str]]:
    """(values fp64 [1, R, R], reasons [R]): a first pass finds the means, a second one the moments about them. Only one
    minibatch of pooled features is held at a time.
    """
    offsets, total, count = _offsets(looks), sum(len(look.heard) for look in looks), parts[-1].stop
    means, errors = [0.0] * total, [0.0] * total
    for part in parts:
        for look, first in zip(looks, offsets, strict=True):

            def add(position: int, output: Tensor, look=look, first=first):
                x = rows(output)
                check_features(kind, x.shape[1], count, f" of {look.heard[position].label} in view {look.name}")
                means[first + position] = means[first + position] + x.sum(0, dtype=torch.float64) / count
                errors[first + position] = look.error_of(output)

            look.show(part, add)
        bar.step(1)
    scatters, norms, crossed = [0.0] * total, [[] for _ in range(total)], {pair: 0.0 for pair in wanted}
    for part in parts:
        centred = {look.name: [None] * len(look.heard) for look in looks}
        for look, first in zip(looks, offsets, strict=True):

            def collect(position: int, output: Tensor, look=look, first=first, centred=centred):
                row = first + position
                x = rows(output).double() - means[row]
                scatters[row] = scatters[row] + x.T @ x
                norms[row].append(x.square().sum(1))
                centred[look.name][position] = x

            look.show(part, collect)
        both = {name: torch.cat(features, 1) for name, features in centred.items()}
        for a, b in wanted:
            crossed[a, b] = crossed[a, b] + both[a].T @ both[b].to(both[a].device)
        bar.step(1)
    sides = [Scatter(scatter.cpu(), torch.cat(own).cpu()) for scatter, own in zip(scatters, norms, strict=True)]
    reasons = []
    for side, mean, error in zip(sides, means, errors, strict=True):
        spread, level = side.norms.sum(), count * mean.cpu().square().sum()
        floor = rounding(spread, level, len(mean), error)
        reasons.append(_reason(kind.strength(side) ** 2, spread, level, floor))
    values = torch.full((1, total, total), float("nan"), dtype=torch.float64)
    starts = dict(zip((look.name for look in looks), offsets, strict=True))
    for (a, b), products in crossed.items():
        widths = [[len(mean) for mean in means[starts[look.name]:][:len(look.heard)]]
                  for name in (a, b) for look in looks if look.name == name]
        for i, band in enumerate(products.cpu().split(widths[0])):
            for j, block in enumerate(band.split(widths[1], 1)):
                row, column = starts[a] + i, starts[b] + j
                if not reasons[row] and not reasons[column] and (a != b or i <= j):
                    value = kind.of_scatter(sides[row], sides[column], block)
                    values[0, row, column] = values[0, column, row] = value
    return values, reasons
