"""Randomised smoothing: what the votes of noisy copies prove about an l2 ball around an image (Cohen et al. 2019).

The proof is about the smoothed classifier, whose answer is the class that the network gives most often to copies with
Gaussian noise. It holds with a probability of at least 1 - alpha over the noise drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.attacks.notes import fingerprint
from lib.certify.proof import Proof, proofs
from lib.door import check_images, in_own_state
from lib.errors import need
from lib.files import load_state, save_state
from lib.runtime import ProgressBar, generator
from lib.values.certificates import Smoothing
from lib.values.keys import digest
from lib.values.threats import Threat

if TYPE_CHECKING:
    from lib.data.images import ImageSet

ABSTAINED = -1
AT_ONCE = 16  # images between two notes on disk
DRAWN = 512  # copies drawn at once: noise must not depend on the size of batches, and generators draw in blocks


@proofs.register(Smoothing)
def prove(net: nn.Module, images: ImageSet, threat: Threat, smoothing: Smoothing, seed_parts: tuple, batch_size: int,
          work: Path | None) -> Proof:
    """Both verdicts are about the smoothed classifier. clean: its answer is correct (an abstention is not). verified:
    its answer is correct and the radius, an additional column, is at least eps. Noise is drawn on the images' device;
    results so far are noted in `work`.
    """
    answers, radii = _answers(net, images, smoothing, seed_parts, batch_size, work)
    clean = answers == images.labels
    protocol = {"classifier": "smoothed", "seed": " ".join(str(part) for part in seed_parts)}
    return Proof(clean, clean & (radii >= float(threat.eps)), {"radius": radii}, protocol)


def _answers(net: nn.Module, images: ImageSet, smoothing: Smoothing, seed_parts: tuple, batch_size: int,
             work: Path | None) -> tuple[Tensor, Tensor]:
    """Answers (int64 [N]) and radii (float64 [N]) of the smoothed classifier, noted in `work` as they are found."""
    device, found = images.labels.device, []
    given = [*net.state_dict().values(), images.images, images.indices]
    path = work and work / f"checkpoint-{digest([smoothing, list(map(str, seed_parts)), fingerprint(given)])}.pt"
    if path:
        load_state(path, lambda noted: found.extend(noted.view(-1, 2).split(AT_ONCE)), device)
    left = torch.arange(len(images), device=device).split(AT_ONCE)[len(found):]
    with ProgressBar(sum(map(len, left)), smoothing.title, "image") as bar:
        for part in left:
            own = [generator(*seed_parts, "smoothing", index, device=device) for index in images.indices[part].tolist()]
            answers, radii = certify(net, images.pixels(part), smoothing, own, batch_size=batch_size)
            found.append(torch.stack([answers.double(), radii], 1))
            if path:
                save_state(path, torch.cat(found).cpu())
            bar.step(len(part))
    answers, radii = torch.cat(found).unbind(1)
    return answers.long(), radii


@in_own_state
def certify(net: nn.Module, images: Tensor, smoothing: Smoothing, generators: Sequence[torch.Generator], *,
            batch_size: int = 128) -> tuple[Tensor, Tensor]:
    """The smoothed classifier's answers [B], int64, ABSTAINED (-1) where nothing is proven, and radii [B], float64:
    within this l2 distance (pixels in [0, 1]) of the image it gives no other answer; 0 where it abstains.

    CERTIFY of Cohen et al. (2019, section 3.2): the class is guessed from `few` copies; the share of this class among
    `many` other copies gives a lower confidence bound p of its probability; the radius is sigma * Phi^-1(p) if p > 1/2.
    For each image, the probability of a wrong answer or a too large radius is at most alpha.

    images [B, C, H, W] in [0, 1]; noisy copies are not clipped. `net` in eval mode gives logits [n, K]. `generators`:
    one for each image, on the images' device, from which all its noise is drawn. Noise depends on nothing else, so
    neither batches nor order change a verdict (up to float rounding of logits). Raises SettingsError for a network in
    train mode or another number of generators.
    """
    need(not net.training, "net.training", True, "false: the votes of a network in train mode depend on the batch")
    check_images(images, box=False)
    need(len(generators) == len(images), "number of generators", len(generators), f"{len(images)}, one for each image")
    answers = torch.full((len(images),), ABSTAINED, device=images.device)
    radii = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    for position, own in enumerate(generators):
        image = images[position]
        guess = int(votes(net, image, smoothing.sigma, smoothing.few, own, batch_size).argmax())
        agreeing = votes(net, image, smoothing.sigma, smoothing.many, own, batch_size)[guess]
        radius = proven_radius(int(agreeing), smoothing)
        if radius > 0:
            answers[position], radii[position] = guess, radius
    return answers, radii


@torch.no_grad()
def votes(net: nn.Module, image: Tensor, sigma: float, copies: int, own: torch.Generator, batch_size: int) -> Tensor:
    """How many of `copies` noisy copies of an image [C, H, W] the network assigns to each class: int64 [K]."""
    counts = 0
    for drawn in range(0, copies, DRAWN):
        shape = (min(DRAWN, copies - drawn), *image.shape)
        noise = torch.randn(shape, generator=own, device=image.device, dtype=image.dtype)
        for part in noise.split(batch_size):
            logits = net((image + sigma * part).contiguous(memory_format=torch.channels_last))
            answers = logits.argmax(1)[logits.isfinite().all(1)]  # a copy without a finite answer has no vote
            counts = counts + torch.bincount(answers, minlength=logits.shape[1])
    return counts


def proven_radius(agreeing: int, smoothing: Smoothing) -> float:
    """The l2 radius (pixels in [0, 1]) that is proven if `agreeing` of the `many` copies agree; 0 if none is. The bound
    on the probability is Clopper and Pearson's, one-sided at level 1 - alpha.
    """
    from scipy.special import ndtri

    from lib.statistics import clopper_pearson

    bound = clopper_pearson(agreeing, smoothing.many, 1 - 2 * smoothing.alpha).low  # two-sided: alpha on each side
    return smoothing.sigma * float(ndtri(bound)) if bound > 0.5 else 0.0
