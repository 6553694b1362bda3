"""Training input gradients to align with given directions (Ganz et al. 2023)."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.errors import OneLineError
from lib.gradients.targets import TrainingTargets
from lib.modes import evaluating
from lib.training.losses.base import Wrapper, losses
from lib.values.objectives import Aligned

LEAST = 1e-30  # a gradient whose largest absolute value is below this has no direction: dividing by it would overflow


@losses.register(Aligned)
class AlignedLoss(Wrapper):
    """`inner` + weight * mean over images of the sum over classes t of 1 - cos(grad_x log p_t(x), g(x, t)) (the loss of
    Ganz et al. 2023; see lib.values.objectives.Aligned). The whole term is computed in fp32. A pair of image and class
    whose gradient or target has no direction has cosine 0 and no effect; such pairs are counted. Raises OneLineError
    when called before `prepare`.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.training_targets: TrainingTargets | None = None
        self.sums: Tensor | None = None  # over the epoch's pairs so far, float64 [5], see _count

    @property
    def second_order(self) -> bool:
        return self.spec.active or super().second_order

    def prepare(self, images, classes: int, scores: Tensor | None = None) -> None:
        """Make the targets for the training images; `scores`: the result of `Zoo.targets`, for targets of kind `score`.
        """
        super().prepare(images, classes, scores)
        if self.spec.active:
            self.training_targets = TrainingTargets.of(self.spec.targets, images, classes, scores)

    def __call__(self, net, batch, progress):
        weight = self.spec.weight_at(progress.share)
        if not weight:
            return self.inner(net, batch, progress)
        if self.training_targets is None:
            raise OneLineError("an objective with aligned gradients has no targets yet: call `prepare` before training")
        if self.spec.shared:
            logits, term = self._term(net, batch)
            return F.cross_entropy(logits, batch.labels) + weight * term, logits
        loss, logits = self.inner(net, batch, progress)
        with evaluating(net) if self.spec.batchnorm == "eval" else contextlib.nullcontext():
            return loss + weight * self._term(net, batch)[1], logits

    def _term(self, net, batch) -> tuple[Tensor, Tensor]:
        """The logits of the batch's images [B, C], and the mean over them of the sum over classes of 1 - cosine."""
        with torch.autocast(batch.images.device.type, enabled=False):
            images = batch.images.detach().requires_grad_()
            logits = net(images)
            chosen = drawn_classes(len(images), logits.shape[1], self.spec.classes, batch.generator)
            gradients = class_gradients(logits, images, chosen, self.spec.gradient, mixed=_mixes_images(net))
            targets, inside = self._in_frame(batch, chosen)
            cosines, without = cosine(gradients * inside, targets)
            self._count(cosines.detach(), without, chosen == batch.labels[:, None])
            return logits, logits.shape[1] / chosen.shape[1] * (1 - cosines).sum(1).mean()

    def _in_frame(self, batch, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The targets [B, K, C, H, W], moved like their images by the augmentation, and a mask [B, 1, 1, H, W], 1 for
        pixels from the image and 0 for padding. So where pixels are moved, the comparison is with the gradient with
        respect to the image before its augmentation, at those of its pixels that are still in the frame.
        """
        targets = self.training_targets.of_training(batch.indices, chosen)
        if batch.placement is None:
            return targets, torch.ones_like(targets[:, :1, :1])
        shape = targets.shape[2:]
        moved = batch.placement.apply(targets.flatten(1, 2)).unflatten(1, (-1, shape[0]))
        inside = batch.placement.apply(torch.ones_like(targets[:, 0, :1])) != 0
        return moved * inside[:, None], inside[:, None].float()

    @torch.no_grad()
    def _count(self, cosines: Tensor, without: Tensor, own: Tensor) -> None:
        """Add pairs [B, K] to the sums: the numbers of pairs of own class, other classes and without a direction, and
        the sums of cosines of own and of other classes.
        """
        found = torch.stack([own.double().sum(), (~own).double().sum(), without.double().sum(),
                             (cosines * own).double().sum(), (cosines * ~own).double().sum()])
        self.sums = found if self.sums is None else self.sums + found

    def end_epoch(self, net) -> dict:
        """Columns about the epoch's pairs of image and class: `clamped`, the share without a direction, and the mean
        cosines in [-1, 1] over all pairs (`cosine`), the image's own class (`own cosine`) and other classes (`other
        cosine`); nan if there was no such pair.
        """
        row = super().end_epoch(net)
        if self.sums is None:
            return row
        found, self.sums = self.sums, None
        own, others, without, of_own, of_others = found.tolist()
        return {**row, "clamped": _mean(without, own + others), "cosine": _mean(of_own + of_others, own + others),
                "own cosine": _mean(of_own, own), "other cosine": _mean(of_others, others)}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "sums": self.sums}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.sums = state["sums"]


def _mean(total: float, count: float) -> float:
    return total / count if count else float("nan")


def drawn_classes(images: int, classes: int, count: int | None, generator: torch.Generator) -> Tensor:
    """For each image `count` different random classes, all sets equally likely, or all classes in order: int64 [B, K].
    If all are taken, nothing is drawn.
    """
    if count in (None, classes):
        return torch.arange(classes, device=generator.device).expand(images, -1)
    return torch.rand(images, classes, generator=generator, device=generator.device).argsort(1)[:, :count]


def class_gradients(logits: Tensor, images: Tensor, chosen: Tensor, gradient: str, mixed: bool) -> Tensor:
    """The gradients, with respect to the images [B, C, H, W], of the logits of the chosen classes (int64 [B, K]) or, up
    to a positive factor for each image, of their log-probabilities: [B, K, C, H, W], differentiable. One backward pass
    through the same forward pass for each of the K.

    grad log p_t = (1 - p_t) grad m_t with the margin m_t = f_t - log sum_{k != t} exp f_k, a form that loses no digits
    where p_t rounds to 1. The factor does not change the direction and is omitted, so that a saturated class has a
    gradient too, unless images are `mixed`, as by BatchNorm's batch statistics: then an image's gradient has parts
    through the log-probabilities of other images, each with its own factor, as in the code of Ganz et al. (2023).
    """
    values = logits.gather(1, chosen)
    factors = torch.ones_like(values)
    if gradient == "log-probability":
        others = logits[:, None].expand(-1, chosen.shape[1], -1).scatter(2, chosen[:, :, None], -torch.inf)
        values = values - others.logsumexp(2)
        factors = torch.sigmoid(-values) if mixed else factors
    each = zip(values.unbind(1), factors.unbind(1), strict=True)
    return torch.stack([torch.autograd.grad(value, images, factor, create_graph=True)[0] for value, factor in each], 1)


def cosine(gradients: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines [B, K] between gradients and targets [B, K, ...], differentiable in the gradients, and which pairs
    have none, bool [B, K]: their cosine is set to 0 because one of the two is not finite, or below `LEAST` everywhere.

    Both are divided by their largest absolute value first: squares of small gradients would underflow.
    """
    (u, one), (v, other) = (_unit(t.flatten(2)) for t in (gradients, targets.to(gradients.dtype)))
    return (u * v).sum(2), ~(one & other)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors [B, K, D], and whether they exist, bool [B, K]; where they do not, a constant 0."""
    most = vectors.detach().abs().amax(2, keepdim=True)
    there = (most >= LEAST) & most.isfinite()
    scaled = vectors.where(there, 1.0) / most.where(there, 1.0)
    return (scaled / scaled.norm(dim=2, keepdim=True)).where(there, 0.0), there.squeeze(2)


def _mixes_images(net: nn.Module) -> bool:
    """Whether an image's logits depend on the other images of its batch."""
    return any(isinstance(module, _BatchNorm) and module.training for module in net.modules())
