"""Published l2-robust ImageNet networks (C8): the gradient of the predicted class's logit at 224 pixels, resized to 64,
compared with the score of the same crop at 64 pixels (Srinivas et al. 2023, the ImageNet panel of their fourth figure).
The networks are from Salman et al. 2020, one for each eps, in files that the user provides.

Two things differ from the paper: the short side is resized to 255 pixels, not 256, before the centre is cut out
(lib/data/folders.py), and the images are balanced by class.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.claims.preconditions import Preconditions
from lib.data.images import ImageSet
from lib.errors import need
from lib.files import resolve_path, sha256, write_atomic
from lib.gradients import inputs, lpips, scores
from lib.manifold import sensitivity
from lib.models import Denoiser, memory_format
from lib.models.edm import load_diffusers, load_edm
from lib.models.external import load_resnet
from lib.papers.off_manifold_robustness.networks import SweepNetworks
from lib.papers.off_manifold_robustness.settings import Published, Section
from lib.profiles.networks import Networks
from lib.runtime import derangement
from lib.training.zoo import Zoo
from lib.values.keys import digest, plain

SIDE = 64  # side, in pixels, of the images whose scores are taken
BATCH = 64  # images of 224 pixels at a time: a few GB
# How gradients are resized: from the four nearest pixels as in the paper's code, which ignores two of three pixels, or
# with antialiasing, where all count, as the paper's code resizes images.
BILINEAR, ANTIALIASED = "bilinear", "antialiased"
# Accuracy of the published ResNet-18 for each eps, from the model card.
CARD = {0.0: 0.6979, 0.01: 0.6990, 0.03: 0.6924, 0.05: 0.6915, 0.1: 0.6877, 0.25: 0.6743, 0.5: 0.6549, 1.0: 0.6232,
        3.0: 0.5312, 5.0: 0.4559}
VERSION = 1  # raised when the same files and settings give other numbers


@dataclass(frozen=True)
class PublishedResults:
    """What was measured of published networks.

    rows: for each eps, image (index, label; right: whether it is classified correctly) and way of resizing the gradient
    (resize: BILINEAR or ANTIALIASED) four rows, one for each `what` of `lib.gradients.inputs.alignment`, with the
    cosine with the image's score, its absolute value and, with AlexNet's weights, lpips (1 - LPIPS). errors: mean
    squared errors of pixels at the score's noise level, of the `denoiser` and of a linear `filter`; `told`: whether the
    denoiser was given the class.
    """

    how: Published
    rows: pd.DataFrame
    errors: dict

    def means(self, column: str, what: str = "gradient", resize: str = BILINEAR) -> pd.Series:
        """The mean of a column over images, a Series by eps."""
        rows = self.rows[(self.rows["what"] == what) & (self.rows["resize"] == resize)]
        return rows.groupby("eps")[column].mean()

    def trends(self) -> dict[str, np.ndarray]:
        """Kendall's tau, in [-1, 1], of the mean cosine and of the accuracy with eps, as parts of C8. Each is one
        number, [1], from which the judge cannot decide. A constant has tau 0.
        """
        from scipy.stats import kendalltau

        found = {"rises": self.means("cosine"), "falls": self.means("right")}
        return {part: np.nan_to_num([kendalltau(by_eps.index, by_eps).statistic]) for part, by_eps in found.items()}

    def checks(self) -> Preconditions:
        """What must hold before C8 is judged."""
        right, errors, checks = self.means("right"), self.errors, Preconditions()
        told = "told the class" if errors["told"] else "not told the class"
        checks.add("ImageNet: published networks know the images", right.max() >= self.how.clean,
                   f"accuracy {right.max():.1%} at eps {right.idxmax():g}, the best; {self.how.clean:.0%} needed")
        checks.add("ImageNet: the denoiser beats a linear filter", errors["denoiser"] < errors["filter"],
                   f"squared error {errors['denoiser']:.2e} at noise {self.how.sigma:g}, {told}; "
                   f"filter {errors['filter']:.2e}")
        return checks


def measure(zoo: Zoo, networks: Networks, section: Section, seed: Callable[[int], int]) -> PublishedResults | None:
    """Measure the published networks that the settings name, image by image, each from the store where it has been
    measured; None where none are named.

    Networks, images and denoiser are read before anything is measured. Raises SettingsError for files of other networks
    or with more than tensors, and for a denoiser of another size or number of classes; DataError if ImageNet is
    missing.
    """
    if section.published is None:
        return None
    on = PublishedMaterial(zoo, networks, section, seed)
    how, keys = on.how, on.keys()
    for eps, key in keys.items():
        if not zoo.store.has("sensitivity", key):
            on.net(eps)
    errors = zoo.store.obtain("quality", digest([*on.source, "quality"]), lambda work: _errors(on)).meta
    tables = []
    for eps, key in keys.items():

        def made(work: Path, eps=eps) -> dict:
            write_atomic(work / "table.csv", _rows(on, on.net(eps)).to_csv(index=False))
            return {"networks": [], "what": f"alignment of the published network in {how.files[eps].name}"}

        table = zoo.store.obtain("sensitivity", key, made).table()
        table.insert(0, "eps", eps)
        tables.append(table)
    return PublishedResults(how, pd.concat(tables, ignore_index=True), errors)


class PublishedMaterial:
    """What published networks are measured on and with; read when it is first asked for.

    test: the images. small: the same images at 64 pixels, [N, 3, 64, 64]. score: their scores, of the same shape.
    partners: the index of another image for each, [N]. noise: white noise [1, N, 12288]. told: whether the denoiser is
    given the class.
    """

    def __init__(self, zoo: Zoo, networks: Networks, section: Section, seed: Callable[[int], int]):
        self.zoo, self.how, self.recipe = zoo, section.published, None
        if self.how.denoiser is None:
            self.recipe = SweepNetworks(networks, self.how.source(section.sweeps), seed).denoiser()
        self._nets: dict[float, nn.Module] = {}

    @functools.cached_property
    def source(self) -> list:
        """Images and score as they enter keys; the denoiser is given by its recipe or the digests of its files."""
        of_images = [VERSION, plain(self.how.data), self.how.images, self.how.sigma]
        if self.recipe is not None:
            return [*of_images, self.recipe.key]
        path = resolve_path(self.how.denoiser)
        files = sorted([*path.rglob("*.json"), *path.rglob("*.safetensors")]) if path.is_dir() else [path]
        return [*of_images, [sha256(file) for file in files]]

    def keys(self) -> dict[float, str]:
        """The key of each network's table."""
        shared = [*self.source, plain(self.how.arch), not lpips.why_no_lpips()]
        return {eps: digest([*shared, sha256(path)]) for eps, path in self.how.files.items()}

    def net(self, eps: float) -> nn.Module:
        """A published network, on the CPU."""
        if eps not in self._nets:
            data = self.how.data
            self._nets[eps] = load_resnet(self.how.files[eps], self.how.arch, data.info.classes, data.shape)
        return self._nets[eps]

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        if self.recipe is not None:
            return self.zoo.obtain(self.recipe).net
        path, known = resolve_path(self.how.denoiser), self.how.data.info.classes
        net = load_diffusers(path) if path.is_dir() else load_edm(path)
        channels, (classes, side) = net.normalise.mean.shape[1], _made_for(net)
        need(channels == 3, "published.denoiser", path, f"one for images of 3 channels; this one has {channels}")
        need(side in (None, SIDE), "published.denoiser", path,
             f"one for images of {SIDE} pixels; this one is for {side}")
        # a denoiser may embed one more class, for no class
        need(classes in (0, known, known + 1), "published.denoiser", path,
             f"one of no class or of the {known} classes of the images; this one knows {classes}")
        return net.to(self.zoo.device)

    @property
    def told(self) -> bool:
        return self.denoiser.classes > 0

    @property
    def labels(self) -> Tensor | None:
        """The labels that the denoiser is given: the true classes, or None."""
        return self.test.labels if self.told else None

    @functools.cached_property
    def test(self) -> ImageSet:
        return self.zoo.images(self.how.data, "test").take(slice(0, self.how.images))

    @property
    def parts(self) -> list[slice]:
        return [slice(k, k + BATCH) for k in range(0, len(self.test), BATCH)]

    @functools.cached_property
    def small(self) -> Tensor:
        return torch.cat([resized(self.test.pixels(part), True) for part in self.parts])

    @functools.cached_property
    def score(self) -> Tensor:
        return scores.score(self.denoiser, self.small, self.how.sigma, self.labels, batch=BATCH)

    @functools.cached_property
    def partners(self) -> Tensor:
        return derangement(len(self.test), "derangement", "published").to(self.small.device)

    @functools.cached_property
    def noise(self) -> Tensor:
        return sensitivity.normal_draws(self.small, self.test.indices, 1, "published")


def _made_for(net: Denoiser) -> tuple[int, int | None]:
    """The number of classes that a denoiser from a file embeds, and the side of its images in pixels (None: unknown).
    """
    config = getattr(net.network, "config", None)
    if config is None:  # EDM's, whose first layer is named as 64x64_conv is
        return net.classes, int(next(iter(net.network.enc)).partition("x")[0])
    side = config.sample_size
    return config.num_class_embeds or 0, max(side) if isinstance(side, (tuple, list)) else side


def resized(images: Tensor, antialias: bool) -> Tensor:
    """Images or gradients [N, C, H, W] resized bilinearly to 64 pixels a side: from the four nearest pixels of each,
    or, with `antialias`, from all pixels under a triangle as wide as the reduction. Sides of 64 pixels stay as they
    are.
    """
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=antialias)


def _rows(on: PublishedMaterial, net: nn.Module) -> pd.DataFrame:
    """The rows of one network (see PublishedResults) without their eps."""
    net = copy.deepcopy(net).to(device=on.zoo.device, memory_format=memory_format(net))
    right, gradients = [], {BILINEAR: [], ANTIALIASED: []}
    for part in on.parts:
        images = on.test.pixels(part)
        with torch.no_grad():
            right.append(net(images).argmax(1) == on.test.labels[part])
        gradient = inputs.input_gradient(net, images, "predicted logit")
        for name in gradients:
            gradients[name].append(resized(gradient, name == ANTIALIASED))
    of_image = {"index": on.test.indices, "label": on.test.labels, "right": torch.cat(right)}
    tables = []
    for name, parts in gradients.items():
        seen = torch.cat(parts), on.score, on.small, on.partners, on.noise
        table = inputs.alignment(*seen, perceptual=not lpips.why_no_lpips())
        image = table.pop("image")
        columns = {column: values.cpu().numpy()[image] for column, values in of_image.items()}
        tables.append(pd.concat([pd.DataFrame({**columns, "resize": name}), table], axis=1))
    return pd.concat(tables, ignore_index=True)


def _errors(on: PublishedMaterial) -> dict:
    """`PublishedResults.errors`, for the store."""
    noise = sensitivity.normal_draws(on.small, on.test.indices, 1, "quality")
    mine = scores.denoising_error(on.denoiser, on.small, on.how.sigma, noise, on.labels, BATCH).mean().item()
    return {"denoiser": mine, "filter": filtering_error(on.small, on.how.sigma), "told": on.told, "networks": [],
            "what": "quality of the score on ImageNet at 64 pixels"}


def filtering_error(images: Tensor, sigma: float) -> float:
    """The mean squared error, per pixel, of the Wiener filter for these images [N, C, H, W] at noise of standard
    deviation `sigma`. It is the best filter that is linear, the same at every place (borders wrap around) and separate
    for each channel.
    """
    power = torch.fft.fft2(images - images.mean(0), norm="ortho").abs().square().mean(0)
    return (power * sigma**2 / (power + sigma**2)).mean().item()
