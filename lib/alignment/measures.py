"""How far the gradients of a classifier's log-probabilities align with targets, and what could be reached.

Images [N, C, H, W] hold pixels in [0, 1]. Gradients and targets have one picture for each image and class, [N, K, C, H,
W]; only directions count, so targets may be in any unit and precision, but gradients are per unit of pixels. The
targets of Ganz et al. (2023) are vectors from the image to a representative of the class (one image, class mean,
nearest neighbour) or `lib.gradients.scores.class_score`. Cosines are worked out in float64; a gradient or target that
is zero or not finite has no direction, and its cosine counts as 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.errors import is_int, need
from lib.gradients.inputs import cosine
from lib.models import folded

_IMAGES = 64  # whose targets are looked at at once, in float64
_STEPS = 200  # of Weiszfeld's iteration


def class_gradients(net: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """The gradients of log p(class | x) by the image for all K classes, fp32 [N, K, C, H, W], in eval mode; `net` stays
    as it is. One forward and K backward passes for each batch of images.

    What is passed back from the logits for class t, e_t - p, is formed in float64 and at unit size: in fp32 1 - p_t
    rounds to 0 for a class that the network is sure of, and the gradient would point elsewhere. Its true size, which
    fp32 can hold down to 1e-45, is put back in the end.
    """
    need(is_int(batch, 1), "batch", batch, "a whole number of at least 1")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    net, rows = folded(net), []
    for part in images.split(batch):
        x = part.detach().float().requires_grad_()
        with torch.enable_grad():
            logits = net(x)
        chances, found = logits.detach().double().softmax(1), []
        classes = logits.shape[1]
        for t in range(classes):
            others = chances.clone()
            others[:, t] = 0
            back = -others
            back[:, t] = others.sum(1)
            size = back.abs().amax(1, keepdim=True)
            unit = (back / size.where(size > 0, 1)).to(logits)
            grad, = torch.autograd.grad(logits, x, unit, retain_graph=t + 1 < classes)
            found.append((grad.double() * size[:, :, None, None]).float())
        rows.append(torch.stack(found, 1))
    return torch.cat(rows)


def cosines(gradients: Tensor, targets: Tensor) -> Tensor:
    """The cosine of each pair, float64 [N, K] in [-1, 1], of gradients and targets [N, K, C, H, W]."""
    need(gradients.shape == targets.shape, "shape of the gradients", tuple(gradients.shape),
         f"that of the targets, {tuple(targets.shape)}")
    rows = [cosine(one.flatten(0, 1), other.flatten(0, 1)).nan_to_num(0.0).unflatten(0, one.shape[:2])
            for one, other in zip(gradients.split(_IMAGES), targets.split(_IMAGES), strict=True)]
    return torch.cat(rows)


def own_and_others(gradients: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of the class in `labels` (int64 [N]) and their mean over all other classes: two float64 [N]. They are
    told apart because gradients of log-probabilities are tied: one class can pay for what the others gain (see
    `attainable`).
    """
    classes = gradients.shape[1]
    need(classes > 1, "number of classes", classes, "at least 2")
    found = cosines(gradients, targets)
    own = found.gather(1, labels[:, None]).squeeze(1)
    return own, (found.sum(1) - own) / (classes - 1)


def between_classes(targets: Tensor) -> float:
    """The mean cosine between the targets of two different classes, over all pairs and images: how much of a target
    says nothing of its class (-1 / (K - 1) where they are centred and equally long).
    """
    classes = targets.shape[1]
    need(classes > 1, "number of classes", classes, "at least 2")
    pairs = [units @ units.mT for units, _ in _directions(targets)]
    off = [(gram.sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)) / (classes * (classes - 1)) for gram in pairs]
    return float(torch.cat(off).mean())


def attainable(targets: Tensor, chances: Tensor | None = None) -> float:
    """The largest mean cosine over classes and images that gradients h_t of log-probabilities can have with targets g_t
    [N, K, C, H, W] if their lengths are in the targets' proportions.

    They are tied by sum_t p_t h_t = 0, the gradient of sum_t p_t = 1, so what all targets share cannot be followed:
    at uniform p and targets of equal length and mutual cosine c, the bound is sqrt((1 - c) (1 - 1/K)), and it is 1 for
    class-centred targets. chances: the p_t, [K] or [N, K], uniform if left out. A target whose p_t |g_t| exceeds the
    sum of the others' is taken as long as that sum, for no longer gradient can be cancelled by the others.

    With directions u_t and w_t = p_t |g_t| the mean of u_t . g_t / |g_t| is to be largest where sum_t w_t u_t = 0 and
    |u_t| <= 1; by duality that is the least mean of |g_t / |g_t| - w_t v| over all v, which Weiszfeld's iteration
    finds. Every v gives an upper bound; the least is reached unless one w_t is nearly as large as the others together.

    It is no bound for gradients of other lengths: if those of two classes are long and opposite and all others short,
    the others are free, and the mean cosine comes near 1 - (2 - |g_1 / |g_1| - g_2 / |g_2||) / K. Look at the classes
    apart (`own_and_others`) to see whether a network does so.
    """
    count, classes = targets.shape[:2]
    need(classes > 1, "number of classes", classes, "at least 2")
    if chances is None:
        chances = torch.ones(classes)
    fits = chances.shape in ((classes,), (count, classes)) and bool((chances > 0).all())
    need(fits, "chances", f"{tuple(chances.shape)}, at least {float(chances.min()):g}",
         f"positive and of shape [{classes}] or [{count}, {classes}]")
    chances = chances.to(targets.device, torch.float64).expand(count, classes)
    least = [_least_mean_distance(units @ units.mT, p * lengths)
             for (units, lengths), p in zip(_directions(targets), chances.split(_IMAGES), strict=True)]
    return float(torch.cat(least).mean())


def _directions(targets: Tensor):
    """Unit vectors [B, K, D] (0 where a target has no direction) and lengths [B, K], float64, a part of the images at a
    time.
    """
    for part in targets.split(_IMAGES):
        flat = part.flatten(2).double()
        lengths = flat.norm(dim=2)
        good = lengths.isfinite() & (lengths > 0)
        units = (flat / lengths.where(good, 1)[..., None]).where(good[..., None], 0.0)
        yield units, lengths.where(good, 0)


def _least_mean_distance(gram: Tensor, weights: Tensor) -> Tensor:
    """min over v of the mean over t of |u_t - w_t v|, [B], for vectors of `gram` [B, K, K] (its diagonal 1, or 0 for
    those that are 0) and weights [B, K]; v = sum_s a_s u_s.
    """
    weights = torch.minimum(weights, weights.sum(1, keepdim=True) - weights)
    weights = weights / weights.mean(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    squares = gram.diagonal(dim1=1, dim2=2)
    distances, least = squares.sqrt(), squares.sqrt().mean(1)
    for _ in range(_STEPS):
        pull = weights / distances.clamp(min=1e-9)
        a = pull / (weights * pull).sum(1, keepdim=True).clamp(min=1e-300)
        along = (gram @ a[..., None]).squeeze(2)
        length = (a * along).sum(1, keepdim=True)
        distances = (squares - 2 * weights * along + weights.square() * length).clamp(min=0).sqrt()
        least = torch.minimum(least, distances.mean(1))
    return least
