"""Interval bounds: lower and upper bounds of a network's outputs over all images of an linf ball (Gowal et al. 2019).

They hold, up to float rounding, for the network in eval mode, and are differentiable in the weights. In train mode,
which only training uses, BatchNorm standardises intervals by the statistics of their middles, just as it standardises a
batch of images by its own statistics; running statistics lag behind the weights and made such trainings diverge.
Dropout does nothing in either mode.

A rule belongs to a `forward`, so a subclass that computes something else has no rule rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.door import check_labels, check_pixels, in_own_state
from lib.errors import need, unknown
from lib.models.resnet import BasicBlock, Bottleneck, EverySecond, PreActBlock
from lib.models.staged import Normalise
from lib.models.stitched import Probe, Stitched

Interval = tuple[Tensor, Tensor]  # lower and upper bounds, of the same shape


class Rules:
    """A table from classes of modules to the functions that bound them, for one kind of bounds (`what`, in words)."""

    def __init__(self, what: str):
        self.what = what
        self.functions: dict[Callable, Callable] = {}
        self.names: list[str] = []

    def __call__(self, *modules: type[nn.Module]):
        """Register the decorated function for modules of these classes."""

        def note(function):
            self.functions.update({module.forward: function for module in modules})
            self.names.extend(module.__name__ for module in modules)
            return function

        return note

    def of(self, net: nn.Module) -> Callable:
        """The function for a module; raises SettingsError if there is none."""
        rule = self.functions.get(type(net).forward)
        if rule is None:
            raise unknown(f"module for {self.what} bounds", type(net).__name__, self.names)
        return rule


_rule = Rules("interval")


def interval(net: nn.Module, lower: Tensor, upper: Tensor) -> Interval:
    """Bounds of the outputs of `net` for all inputs between `lower` and `upper` (both of the shape of its input, lower
    <= upper): two tensors of the shape of its output. Raises SettingsError for a module without a rule.
    """
    return _rule.of(net)(net, lower, upper)


def ball(images: Tensor, eps: float | Fraction) -> Interval:
    """The images in [0, 1] within linf `eps` of `images`, as bounds of every pixel. Raises SettingsError for images
    that leave [0, 1]: their lower bounds would exceed their upper ones, and any proof would succeed.
    """
    check_pixels(images)
    return (images - float(eps)).clamp_min(0), (images + float(eps)).clamp_max(1)


def margins(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction) -> Tensor:
    """Lower bounds [B, K] of z_y - z_k, the logits of the label and of each class k (0 for k = y), over all images in
    [0, 1] within linf `eps` of `images` [B, C, H, W]; labels [B].

    The last linear layer and the difference are bounded together, as (w_y - w_k) h, which is tighter than the
    difference of two bounds (Gowal et al. 2019, section 3). Raises SettingsError for a network that does not end in a
    linear layer or has a module without a rule.
    """
    *front, head = parts(net)
    return head_margins(head, _through(front, ball(images, eps)), labels)


def head_margins(head: nn.Linear, bounds: Interval, labels: Tensor) -> Tensor:
    """The `margins` [B, K] of the linear layer `head` for all its inputs between `bounds`, each [B, features]."""
    middle, radius = centred(*bounds)
    logits = head(middle)
    spread = (head.weight[labels][:, None] - head.weight).abs() @ radius[:, :, None]  # [B, K, 1]
    return logits.gather(1, labels[:, None]) - logits - spread.squeeze(2)


def parts(net: nn.Module) -> list[nn.Module]:
    """The modules of a chain in order, with nested chains flattened. Raises SettingsError unless the last module is a
    linear layer.
    """
    found = _parts(net)
    need(type(found[-1]).forward is nn.Linear.forward, "net",
         f"{type(net).__name__} with {type(found[-1]).__name__} at its end", "a network that ends in a linear layer")
    return found


def _parts(net: nn.Module) -> list[nn.Module]:
    if _rule.functions.get(type(net).forward) is not _chain:
        return [net]
    return [part for child in net.children() for part in _parts(child)]


def worst_margins(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction) -> Tensor:
    """A lower bound [B] of z_y - max_{k != y} z_k over the ball; a positive one proves that no image of the ball is
    misclassified. Arguments and errors as for `margins`.
    """
    return worst(margins(net, images, labels, eps), labels)


def worst(found: Tensor, labels: Tensor) -> Tensor:
    """The smallest [B] of margins [B, K] over the classes other than the labels [B]."""
    return found.scatter(1, labels[:, None], float("inf")).amin(1)


@in_own_state
@torch.no_grad()
def verified(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Fraction) -> Tensor:
    """Whether each of the images [B, C, H, W] in [0, 1] is provably classified correctly, as are all images in [0, 1]
    within linf `eps`: bool [B]. Raises SettingsError for a network in train mode, and what `margins` raises.
    """
    need(not net.training, "net.training", True, "false: bounds in train mode prove nothing about the network")
    check_labels(labels, len(images))
    return worst_margins(net, images, labels, eps) > 0


def centred(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """(middle, radius) of intervals, of their shape."""
    return (lower + upper) / 2, (upper - lower) / 2


def _around(middle: Tensor, radius: Tensor) -> Interval:
    return middle - radius, middle + radius


def _through(modules: Iterable[nn.Module], bounds: Interval) -> Interval:
    for module in modules:
        bounds = interval(module, *bounds)
    return bounds


def _sum(one: Interval, other: Interval) -> Interval:
    return one[0] + other[0], one[1] + other[1]


@_rule(nn.Conv2d)
def _convolution(net, lower, upper):
    """The middle m becomes W m + b and the radius r becomes |W| r: two convolutions instead of four."""
    middle, radius = centred(lower, upper)
    return _around(net._conv_forward(middle, net.weight, net.bias), net._conv_forward(radius, net.weight.abs(), None))


@_rule(nn.Linear)
def _linear(net, lower, upper):
    middle, radius = centred(lower, upper)
    return _around(F.linear(middle, net.weight, net.bias), F.linear(radius, net.weight.abs()))


@_rule(nn.BatchNorm2d)
def _batchnorm(net, lower, upper):
    middle, radius = centred(lower, upper)
    mean, scale, bias = standardisation(net, middle)
    return _around((middle - mean) * scale + bias, radius * scale.abs())


def standardisation(net: nn.BatchNorm2d, middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, scale, bias), each [1, C, 1, 1], of the map x -> (x - mean) * scale + bias that `net` applies to intervals
    around `middle` [B, C, H, W].
    """
    mean, var = net.running_mean, net.running_var
    if net.training:
        var, mean = torch.var_mean(middle, (0, 2, 3), correction=0)
    mean, var, weight, bias = (t.view(1, -1, 1, 1) for t in (mean, var, net.weight, net.bias))
    return mean, weight / (var + net.eps).sqrt(), bias


@_rule(Normalise, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, EverySecond)
def _rising(net, lower, upper):
    """Monotone modules: no output falls when an input rises."""
    return net(lower), net(upper)


@_rule(nn.Dropout)
def _nothing(net, lower, upper):
    return lower, upper


@_rule(nn.Sequential, Stitched, Probe)
def _chain(net, lower, upper):
    return _through(net.children(), (lower, upper))


@_rule(BasicBlock)
def _basic_block(net, *bounds):
    inner = _through((net.conv1, net.bn1, net.relu1, net.conv2, net.bn2), bounds)
    return interval(net.relu2, *_sum(inner, interval(net.shortcut, *bounds)))


@_rule(Bottleneck)
def _bottleneck(net, *bounds):
    inner = _through((net.conv1, net.bn1, net.relu1, net.conv2, net.bn2, net.relu2, net.conv3, net.bn3), bounds)
    return interval(net.relu3, *_sum(inner, interval(net.shortcut, *bounds)))


@_rule(PreActBlock)
def _preact_block(net, *bounds):
    active = _through((net.bn1, net.relu1), bounds)
    inner = _through((net.conv1, net.bn2, net.relu2, net.conv2), active)
    return _sum(inner, bounds if net.shortcut is None else interval(net.shortcut, *active))
