"""Linear bounds: a margin of logits bounded, over all images of an linf ball, by a linear function of the image (CROWN,
Zhang et al. 2018; within training Zhang et al. 2020).

A linear function of the logits is propagated back through the network, layer by layer. An affine layer turns it into a
linear function of the layer's inputs; so does a ReLU whose input lies on one side of 0. An unstable ReLU, whose input
may have either sign, lies between two lines: above, the chord from (l, 0) to (u, u) over its input's bounds l < 0 < u;
below, a line through 0 whose slope is chosen by `slope`

- "adaptive": 1 if u > -l, else 0 (CROWN);
- "parallel": the slope of the chord, u / (u - l) (Fast-Lin, Weng et al. 2018; the symbolic linear relaxation of
  Neurify, Wang et al. 2018, which MixTrain uses).

The bounds l and u are chosen by `inner`

- "interval": interval propagation alone (CROWN-IBP);
- "linear": for ReLUs that are unstable by intervals, the tighter of interval and linear bounds, from which intervals
  are propagated further. Inputs that depend on the image through a single mixing layer are skipped: their interval
  bounds are exact.

Networks must be chains of modules that have a rule here. The remarks on interval bounds (float rounding, train mode,
rules and subclasses) apply here too, but linear bounds are always computed in the precision of the weights, never in
that of autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib.certify import intervals
from lib.certify.intervals import Interval, Rules, ball, centred, interval, standardisation
from lib.door import correct, in_own_state
from lib.errors import need, unknown
from lib.models.staged import Normalise

SLOPES = ("adaptive", "parallel")
INNER = ("interval", "linear")
AT_ONCE = {"cpu": 2**22}  # coefficients to process at once: on CPUs about what caches hold (16 MB in fp32),
AT_ONCE_ELSEWHERE = 2**26  # on other devices enough to keep them busy (256 MB)
KEPT = 2**27  # up to this many coefficients, training keeps intermediate results; beyond, it computes them twice

# Maps coefficients of a module's outputs [P, R, *outputs], R rows for each of P images, and the positions [P] of these
# images in the batch to coefficients of its inputs [P, R, *inputs] and the constant added to each row, [P, R].
Back = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]]

_rule = Rules("linear")  # a function makes the Back of (module, bounds of its inputs, slope)
_MIXING = {module.forward for module in (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)}


def margins(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction, slope: str = "adaptive",
            inner: str = "interval") -> Tensor:
    """Lower bounds [B, K] of z_y - z_k, the logits of the label and of each class k (0 for k = y), over all images in
    [0, 1] within linf `eps` of `images` [B, C, H, W]; labels [B]. Differentiable in the weights, the inner bounds
    included.

    A linear bound may be lower than the interval bound, since a lower line of slope 1 goes below 0; `verified` uses
    both. Raises SettingsError for an unknown slope or inner, for a network that is not a chain ending in a linear
    layer, and for a module without a rule.
    """
    chain = _Chain(net, images, eps, slope, inner)
    return chain.margins(labels)


def crown_ibp(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction, beta: float) -> Tensor:
    """beta * linear + (1 - beta) * interval bounds of the margins, [B, K], from a single propagation of intervals and
    with adaptive slopes (Zhang et al. 2020, eq. 12). beta in [0, 1]; other arguments and errors as for `margins`.
    """
    chain = _Chain(net, images, eps, "adaptive", "interval")
    return beta * chain.margins(labels) + (1 - beta) * chain.interval_margins(labels)


def worst_margins(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction, slope: str = "adaptive",
                  inner: str = "interval") -> Tensor:
    """A lower bound [B] of z_y - max_{k != y} z_k over the ball; a positive one proves that no image of the ball is
    misclassified. Arguments and errors as for `margins`.
    """
    return intervals.worst(margins(net, images, labels, eps, slope, inner), labels)


@in_own_state
@torch.no_grad()
def verified(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction, slope: str = "adaptive",
             inner: str = "linear") -> Tensor:
    """Whether each of the images [B, C, H, W] in [0, 1] is provably classified correctly, as are all images in [0, 1]
    within linf `eps`: bool [B]. Linear bounds are computed only for images that interval bounds do not decide. Raises
    SettingsError for a network in train mode, and what `margins` raises.
    """
    _known(slope, inner)
    proven = intervals.verified(net, images, labels, eps)
    still = (~proven & correct(net(images), labels)).nonzero().squeeze(1)
    if len(still):
        proven[still] = worst_margins(net, images[still], labels[still], eps, slope, inner) > 0
    return proven


def _known(slope: str, inner: str) -> None:
    if slope not in SLOPES:
        raise unknown("slope", slope, SLOPES)
    if inner not in INNER:
        raise unknown("inner", inner, INNER)


class _Chain:
    """A network with, for every module in order, its `Back` over the ball around each of the images [B, C, H, W]."""

    def __init__(self, net: nn.Module, images: Tensor, eps: float | Fraction, slope: str, inner: str):
        _known(slope, inner)
        *front, self.head = intervals.parts(net)
        self.ball = bounds = ball(images, eps)
        self.backs: list[Back] = []
        self.widest, mixing = 0, 0
        with _full_precision(images):
            for part in front:
                if type(part).forward is nn.ReLU.forward and inner == "linear" and mixing > 1:
                    bounds = self._tightened(bounds)
                self._add(part, bounds, slope)
                bounds = interval(part, *bounds)
                mixing += type(part).forward in _MIXING
            self._add(self.head, bounds, slope)
        self.features = bounds

    def _add(self, part: nn.Module, bounds: Interval, slope: str) -> None:
        self.backs.append(_rule.of(part)(part, bounds, slope))
        self.widest = max(self.widest, bounds[0][0].numel())

    def margins(self, labels: Tensor) -> Tensor:
        """Linear bounds of the margins, [B, K]."""
        signs = torch.eye(self.head.out_features, device=labels.device, dtype=self.head.weight.dtype)
        positions = torch.arange(len(labels), device=labels.device)
        with _full_precision(labels):
            return self._lower(positions, len(signs), lambda part: signs[labels[part]][:, None] - signs)

    def interval_margins(self, labels: Tensor) -> Tensor:
        """Interval bounds of the margins, [B, K]."""
        with _full_precision(labels):
            return intervals.head_margins(self.head, self.features, labels)

    def _tightened(self, bounds: Interval) -> Interval:
        """Tighter bounds of the outputs of the modules so far that may have either sign."""
        shape, (lower, upper) = bounds[0].shape, (bound.flatten(1) for bound in bounds)
        images, places = where = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
        if not len(images):
            return bounds
        signs = torch.tensor([1.0, -1.0], device=lower.device, dtype=lower.dtype)

        def rows(part):  # of an input x: x, and -x whose lower bound is minus the upper one of x
            coefs = torch.zeros(len(part), 2, lower.shape[1], device=lower.device, dtype=lower.dtype)
            coefs[torch.arange(len(part), device=part.device), :, places[part]] = signs
            return coefs.view(len(part), 2, *shape[1:])

        found = self._lower(images, 2, rows)
        lower = lower.index_put(where, torch.maximum(lower[where], found[:, 0]))
        upper = upper.index_put(where, torch.minimum(upper[where], -found[:, 1]))
        return lower.view(shape), upper.view(shape)

    def _lower(self, images: Tensor, rows: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Lower bounds [P, rows] of linear functions of the outputs of the modules so far, for each of the images at
        the positions `images` [P]. make: gives the coefficients [Q, rows, *outputs] for Q of the numbers 0 to P - 1.
        """
        an_image, numbers = rows * self.widest, torch.arange(len(images), device=images.device)
        chunks = numbers.split(max(1, AT_ONCE.get(images.device.type, AT_ONCE_ELSEWHERE) // an_image))

        backs = self.backs[::-1]  # a copy: by the time a result is computed again, the list has grown

        def bound(part):
            return self._backward(backs, make(part), images[part])

        if torch.is_grad_enabled() and an_image * len(images) > KEPT:
            found = [checkpoint(bound, part, use_reentrant=False, preserve_rng_state=False) for part in chunks]
        else:
            found = [bound(part) for part in chunks]
        return torch.cat(found)

    def _backward(self, backs: list[Back], coefs: Tensor, images: Tensor) -> Tensor:
        value = 0.0
        for back in backs:
            coefs, constant = back(coefs, images)
            value = value + constant
        middle, radius = centred(*(pixels.index_select(0, images) for pixels in self.ball))
        return value + _dot(coefs, middle) - _dot(coefs.abs(), radius)


def _full_precision(like: Tensor):
    return torch.autocast(like.device.type, enabled=False)


def _dot(coefs: Tensor, values: Tensor) -> Tensor:
    """The sums [P, R] over features of coefs [P, R, *features] times values, which broadcast to [P or 1, *features]."""
    values = values.expand(-1, *coefs.shape[2:]).flatten(1)
    return (coefs.flatten(2) @ values[:, :, None]).squeeze(2)


@_rule(nn.ReLU)
def _relu(net, bounds, slope):
    lower, upper = bounds
    unstable, active = (lower < 0) & (upper > 0), (lower >= 0).to(lower.dtype)
    chord = torch.where(unstable, upper / torch.where(unstable, upper - lower, 1), active)
    under = chord if slope == "parallel" else torch.where(unstable, (upper > -lower).to(lower.dtype), active)
    over = torch.where(unstable, -lower * chord, 0)  # the chord's value at 0

    def back(coefs, images):
        above, below, added = (line.index_select(0, images) for line in (chord, under, over))
        constant = _dot(coefs.clamp_max(0), added)
        if slope == "parallel":
            return coefs * above[:, None], constant
        return coefs * torch.where(coefs > 0, below[:, None], above[:, None]), constant

    return back


@_rule(nn.Linear)
def _linear(net, bounds, slope):
    shape = tuple(bounds[0].shape)
    need(len(shape) == 2, "shape of the input of Linear", shape, "[B, features] for linear bounds")

    def back(coefs, images):
        return coefs @ net.weight, 0.0 if net.bias is None else _dot(coefs, net.bias[None])

    return back


@_rule(nn.Conv2d)
def _convolution(net, bounds, slope):
    need(net.padding_mode == "zeros", "padding_mode of Conv2d", net.padding_mode, "zeros for linear bounds")
    need(not isinstance(net.padding, str), "padding of Conv2d", net.padding, "numbers for linear bounds")
    size = bounds[0].shape[2:]

    def back(coefs, images):
        constant = 0.0 if net.bias is None else _dot(coefs, net.bias.view(1, -1, 1, 1))
        # pixels at the far edge that the strided kernel does not reach
        missed = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, s, p, d, k in zip(
            size, coefs.shape[3:], net.stride, net.padding, net.dilation, net.kernel_size, strict=True)]
        before = F.conv_transpose2d(coefs.flatten(0, 1), net.weight, None, net.stride, net.padding, missed,
                                    net.groups, net.dilation)
        return before.unflatten(0, coefs.shape[:2]), constant

    return back


@_rule(nn.BatchNorm2d)
def _batchnorm(net, bounds, slope):
    mean, scale, bias = standardisation(net, centred(*bounds)[0])
    return _elementwise(scale, bias - mean * scale)


@_rule(Normalise)
def _normalise(net, bounds, slope):
    return _elementwise(1 / net.std, -net.mean / net.std)


def _elementwise(scale: Tensor, shift: Tensor) -> Back:
    """Back through x -> x * scale + shift, each [1, C, 1, 1]."""
    return lambda coefs, images: (coefs * scale, _dot(coefs, shift))


@_rule(nn.AvgPool2d)
def _mean_pool(net, bounds, slope):
    need(net.divisor_override is None, "divisor_override of AvgPool2d", net.divisor_override, "None for linear bounds")

    def pool(x, axis):
        size, stride, padding = (v if isinstance(v, int) else v[axis]
                                 for v in (net.kernel_size, net.stride, net.padding))
        return F.avg_pool1d(x, size, stride, padding, net.ceil_mode, net.count_include_pad)

    return _separable(pool, bounds)


@_rule(nn.AdaptiveAvgPool2d)
def _adaptive_mean_pool(net, bounds, slope):
    def pool(x, axis):
        size = net.output_size if isinstance(net.output_size, int) else net.output_size[axis]
        return F.adaptive_avg_pool1d(x, x.shape[-1] if size is None else size)

    return _separable(pool, bounds)


def _separable(pool: Callable[[Tensor, int], Tensor], bounds: Interval) -> Back:
    """Back through a mean over rectangles: applied to the identity, `pool` gives the matrix for each of the two axes.
    """
    like = bounds[0]
    down, across = (pool(torch.eye(n, device=like.device, dtype=like.dtype)[None], axis)[0]  # [before, after]
                    for axis, n in enumerate(like.shape[2:]))
    return lambda coefs, images: (down @ coefs @ across.T, 0.0)


@_rule(nn.Flatten)
def _flatten(net, bounds, slope):
    shape = bounds[0].shape[1:]
    return lambda coefs, images: (coefs.reshape(*coefs.shape[:2], *shape), 0.0)


@_rule(nn.Identity, nn.Dropout)
def _nothing(net, bounds, slope):
    return lambda coefs, images: (coefs, 0.0)
