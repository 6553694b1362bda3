"""How well the gradients of a classifier's log-probabilities align with targets, and how well they could.

Images [N, C, H, W] hold pixels in [0, 1]. Gradients and targets have one picture for each image and class, [N, K, C, H,
W]. Gradients are per unit of pixels; only directions count, so targets may have any unit and precision. The targets of
Ganz et al. (2023) are vectors from the image to a representative of the class (one image, class mean, nearest
neighbour) or score-based, `lib.gradients.scores.class_score`. Cosines are computed in float64. A gradient or target
that is zero or not finite has no direction, and its cosine counts as 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.door import check_images, in_own_state
from lib.errors import is_int, need
from lib.gradients.inputs import cosine
from lib.models.fold import prepared

_IMAGES = 64  # how many images' targets are in float64 at a time
_STEPS = 200  # steps of Weiszfeld's iteration


@in_own_state
def class_gradients(net: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """The gradients of log p(class | x) with respect to the image x, for all K classes: fp32 [N, K, C, H, W]. The
    network is measured in eval mode and left as it is. Each batch of images takes one forward and K backward passes.

    The vector that is passed back from the logits for class t, e_t - p, is formed in float64 and scaled to unit size,
    because in fp32 1 - p_t rounds to 0 for a class that the network is sure of, and the gradient would point elsewhere.
    Its true size, which fp32 holds down to 1e-45, is restored at the end. Raises SettingsError for no images and for a
    batch below 1.
    """
    need(is_int(batch, 1), "batch", batch, "a whole number of at least 1")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    check_images(images, box=False)
    net, rows = prepared(net, images.float()), []
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
    """The cosines of gradients and targets, both [N, K, C, H, W], as in the loss of Ganz et al. (2023): float64 [N, K]
    in [-1, 1]. Raises SettingsError for different shapes.
    """
    need(gradients.shape == targets.shape, "shape of the gradients", tuple(gradients.shape),
         f"the shape of the targets, {tuple(targets.shape)}")
    rows = [cosine(one.flatten(0, 1), other.flatten(0, 1)).nan_to_num(0.0).unflatten(0, one.shape[:2])
            for one, other in zip(gradients.split(_IMAGES), targets.split(_IMAGES), strict=True)]
    return torch.cat(rows)


def own_and_others(gradients: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines for the class in `labels` (int64 [N]) and the mean cosine over all other classes: two float64 [N] in
    [-1, 1]. They are separate because gradients of log-probabilities are coupled: a bad cosine of one class can allow
    good cosines of the others (see `attainable`). Raises SettingsError for one class and for different shapes.
    """
    classes = gradients.shape[1]
    need(classes > 1, "number of classes", classes, "at least 2")
    found = cosines(gradients, targets)
    own = found.gather(1, labels[:, None]).squeeze(1)
    return own, (found.sum(1) - own) / (classes - 1)


def between_classes(targets: Tensor) -> float:
    """The mean cosine, in [-1, 1], between the targets of two different classes of an image, over all pairs and images.
    The higher it is, the less of a target is specific to its class; for centred targets of equal length it is
    -1 / (K - 1). Raises SettingsError for one class.
    """
    classes = targets.shape[1]
    need(classes > 1, "number of classes", classes, "at least 2")
    pairs = [units @ units.mT for units, _ in _directions(targets)]
    off = [(gram.sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)) / (classes * (classes - 1)) for gram in pairs]
    return float(torch.cat(off).mean())


def attainable(targets: Tensor, chances: Tensor | None = None) -> float:
    """The largest mean cosine over classes and images that gradients h_t of log-probabilities can have with targets g_t
    [N, K, C, H, W], if the lengths of the gradients are in the targets' proportions.

    The gradients are coupled by sum_t p_t h_t = 0, the gradient of sum_t p_t = 1, so they cannot follow what all
    targets share. At uniform p and for targets of equal length and mutual cosine c, the bound is sqrt((1 - c) (1 -
    1/K)); for class-centred targets it is 1. chances: the p_t, [K] or [N, K], uniform if left out. A target whose p_t
    |g_t| exceeds the sum over the other classes is shortened to that sum, because the others cannot cancel a longer
    gradient.

    With directions u_t and w_t = p_t |g_t|, this maximises the mean of u_t . g_t / |g_t| under sum_t w_t u_t = 0 and
    |u_t| <= 1. By duality it equals the smallest mean of |g_t / |g_t| - w_t v| over all v, which Weiszfeld's iteration
    finds. Every v gives an upper bound; the smallest is reached unless one w_t is nearly as large as the sum of the
    others.

    The bound does not hold for gradients of other lengths. If the gradients of two classes are long and opposite and
    all others are short, the others are free, and the mean cosine comes near 1 - (2 - |g_1 / |g_1| - g_2 / |g_2||) / K.
    Whether a network does so is seen from `own_and_others`. Raises SettingsError for one class and for chances of
    another shape or that are not positive.
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
    """For one part of the images at a time: unit vectors [B, K, D] (0 for a target without a direction) and lengths
    [B, K], float64.
    """
    for part in targets.split(_IMAGES):
        flat = part.flatten(2).double()
        lengths = flat.norm(dim=2)
        good = lengths.isfinite() & (lengths > 0)
        units = (flat / lengths.where(good, 1)[..., None]).where(good[..., None], 0.0)
        yield units, lengths.where(good, 0)


def _least_mean_distance(gram: Tensor, weights: Tensor) -> Tensor:
    """min over v of the mean over t of |u_t - w_t v|, [B], for vectors u_t with Gram matrix `gram` [B, K, K] (1 on the
    diagonal, 0 for a zero vector) and weights w_t [B, K]. The search is over v = sum_s a_s u_s.
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
