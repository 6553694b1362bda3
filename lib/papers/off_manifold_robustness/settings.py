"""The section of the notebook on off-manifold robustness."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from lib.errors import need
from lib.files import resolve_path
from lib.profiles.networks import (
    NO_ATTACK,
    Augmentation,
    BatchSize,
    Denoiser,
    FileName,
    Networks,
    Training,
    Unattacked,
)
from lib.values.architectures import AutoEncoder, FromScratch, ImageNetResNet
from lib.values.data import Data
from lib.values.declared import (
    Bound,
    Count,
    Declared,
    NotNegative,
    OneOf,
    Positive,
    Repetitions,
    Share,
    different,
    growing,
    length,
    whole,
)

MANIFOLDS = ("gaussian_subspace", "curved_torus")  # data whose tangent spaces are known in closed form
LETTERED = ("_letter_a", "_letters")  # how sets of digits next to a letter are named
TANGENTS = ("closed form", "auto-encoder", "PCA", "local PCA")
CONTROLS = ("per batch", "accumulated", "reduced lr")


Strength = Annotated[tuple[Positive, ...], growing()]


@dataclass(frozen=True)
class Strengths(Declared):
    """The strengths of each regulariser that networks are trained with, in units of the data's own space (images:
    pixels in [0, 1]); 0 is trained once for all.
    """

    # weights of the mean squared norm of an image's gradient (the paper's lambda at batches of 128 times 6.1)
    gradient_norm: Strength = ()
    smoothness: Strength = ()  # weights of the mean squared change of the logits by noise of standard deviation 0.1
    noise: Strength = ()  # standard deviations of the noise
    pgd: Strength = ()  # eps in l2, each image for itself

    where = "strengths"

    @property
    def of(self) -> dict[str, tuple[float, ...]]:
        """{regulariser as tables name it: its strengths}, those without any left out."""
        named = {"gradient norm": self.gradient_norm, "smoothness": self.smoothness, "noise": self.noise,
                 "PGD": self.pgd}
        return {name: values for name, values in named.items() if values}


SOME = Bound(lambda strengths: bool(strengths.of), "those of one regulariser or more")


@dataclass(frozen=True)
class AutoEncoding(Training):
    """The auto-encoder whose decoder gives tangent spaces; its latent size is their dimension."""

    arch: AutoEncoder = field(kw_only=True)
    batch_size: BatchSize = 64  # images an update

    where = "autoencoder"


@dataclass(frozen=True)
class Sweep(Declared):
    """Networks of one data set under each regulariser at growing strengths, and what is measured of them."""

    name: FileName  # for tables and files
    training: Unattacked  # adversarial images: see pgd
    strengths: Annotated[Strengths, SOME]
    # the manifolds that perturbations are split by, the first for the claims: closed form for data that have one,
    # auto-encoder, PCA of the training images or, around each image, local PCA
    tangents: Annotated[tuple[Annotated[str, OneOf(TANGENTS)], ...], length(1)]
    # l2 lengths of the perturbations in units of the data's space, the first for the claims
    sizes: Annotated[tuple[Positive, ...], different(1)]
    clean: Share  # the accuracy that networks without a regulariser must have
    data: Data | None = None  # what networks learn; null: as the pool's
    arch: FromScratch | None = None  # what networks look like; null: as the pool's
    batch_size: BatchSize | None = None  # images an update; null: as the pool's
    augment: Augmentation | None = None  # how training images are varied; null: as the pool's
    attack_steps: Count = 5  # of PGD in training, in steps of 2 eps / steps
    autoencoder: Annotated[AutoEncoding, NO_ATTACK] | None = None  # given where its tangents are wanted
    pca: Count | None = None  # directions of PCA and local PCA, given where these are wanted
    neighbours: Annotated[int, whole(2)] = 200  # nearest training images that local PCA is taken of
    images: Annotated[int, whole(2)] = 200  # how many of the test images sensitivity and alignment are measured on
    draws: Count = 4  # directions of perturbation an image
    denoiser: Denoiser | None = None  # the network that gives the score, where the data are not the pool's
    # further networks: per batch, PGD whose eps is shared by the batch, and accumulated, where gradients of the
    # attack's steps add to the update (both as in the paper's code, at the middle strength); reduced lr, the strongest
    # gradient norm with the learning rate cut as the paper cuts it
    controls: tuple[Annotated[str, OneOf(CONTROLS)], ...] = ()

    where = "sweeps"

    def check_together(self):
        where = f"sweeps[{self.name}]"
        need(("auto-encoder" in self.tangents) == (self.autoencoder is not None), f"{where}.autoencoder",
             self.autoencoder, "given exactly where its tangents are wanted")
        flat = any("PCA" in name for name in self.tangents)
        need(flat == (self.pca is not None), f"{where}.pca", self.pca, "given exactly where PCA is wanted")
        enough = "local PCA" not in self.tangents or self.neighbours > self.pca
        need(enough, f"{where}.neighbours", self.neighbours, f"more than pca = {self.pca}")
        for name in self.controls:
            wanted = "gradient norm" if name == "reduced lr" else "PGD"
            need(wanted in self.strengths.of, f"{where}.controls", name, f"possible where {wanted} has strengths")

    @property
    def closed_form(self) -> bool:
        """Whether tangent spaces, and the Bayes classifier with them, are known exactly."""
        return self.tangents[0] == "closed form"


LETTERS = Bound(lambda names: all(name.endswith(LETTERED) for name in names),
                f"sets whose names end with {' or '.join(LETTERED)}", of="name")


@dataclass(frozen=True)
class Distractor(Declared):
    """Digits next to a letter that says nothing: what robust networks and standard ones look at."""

    data: Annotated[tuple[Data, ...], different(1, of="name"), LETTERS]  # what networks learn, one set at a time
    arch: FromScratch  # what networks look like
    training: Unattacked  # adversarial images: see per_image, per_batch
    per_image: Positive  # eps in l2 of adversarial training, each image for itself
    per_batch: Positive  # eps in l2 of adversarial training that a batch shares
    clean: Share  # the accuracy that trained networks must have
    batch_size: BatchSize = 128  # images an update
    attack_steps: Count = 5  # of PGD in training, in steps of 2 eps / steps
    # standard deviations of the noise on one half of the image
    noise: Annotated[tuple[Positive, ...], growing(2)] = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 3.0)
    draws: Count = 2  # of noise of each standard deviation
    images: Count = 1000  # how many of the test images
    least: Share = 0.01  # levels at which both changes are smaller are left out

    where = "distractor"

    def check_together(self):
        most = min(data.test or data.info.test for data in self.data)
        need(self.images <= most, "distractor.images", self.images, f"at most the {most} test images")


@dataclass(frozen=True)
class Theory(Declared):
    """The numerical proof on closed forms."""

    # standard deviations of the noise in units of the space
    sigmas: Annotated[tuple[Positive, ...], growing(2)] = (0.0005, 0.001, 0.002, 0.004)
    points: Annotated[int, whole(2)] = 50  # points of each repetition at which it is done

    where = "theory"


NAMES_EPS = Bound(lambda path: "{eps}" in path, "a path with {eps} where each file has its eps")


@dataclass(frozen=True)
class Published(Declared):
    """Networks that others trained on ImageNet by l2 adversarial training at growing eps, and how the alignment of
    their gradients with a score at 64 pixels is measured (C8). Paths: see `lib.files.resolve_path`.
    """

    # the path of the networks' files, with {eps} where each has its eps (0, 0.01, ..., 5)
    weights: Annotated[str, NAMES_EPS]
    # a file with EDM's tensors or a folder of diffusers, for 64 pixels; null: the one that is trained here for the
    # sweep on ImageNet at 64 pixels
    denoiser: str | None = None
    # of the networks, in l2 of an image with pixels in [0, 1]
    eps: Annotated[tuple[NotNegative, ...], growing(3)] = (0.0, 0.01, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0)
    # the noise at which the score is taken, for pixels in [0, 1] (the paper's 1.2 is for [-1, 1])
    sigma: Positive = 0.6
    images: Annotated[int, whole(2)] = 1000  # how many of the test images
    size: Count | None = None  # the side of the images in pixels; null: 224
    arch: ImageNetResNet = ImageNetResNet(18)  # of the networks
    clean: Share = 0.6  # the accuracy that the most accurate of them must have

    where = "published"

    def check_together(self):
        most = Data("imagenet").info.test
        need(self.images <= most, "published.images", self.images, f"at most the {most} test images")
        self.arch.check(*self.data.shape[1:])

    @property
    def data(self) -> Data:
        """The test images that the first `images` are taken of: some of each class."""
        return Data("imagenet", test=max(self.images, Data("imagenet").info.classes), size=self.size)

    @property
    def files(self) -> dict[float, Path]:
        """The file of each eps."""
        return {eps: resolve_path(self.weights.replace("{eps}", f"{eps:g}")) for eps in self.eps}

    def source(self, sweeps: tuple[Sweep, ...]) -> Sweep | None:
        """The sweep whose denoiser gives the score if no other is named; None where there is none."""
        return next((s for s in sweeps if s.data and s.denoiser and s.data.name == "imagenet" and s.data.side == 64),
                    None)

    def check(self, sweeps: tuple[Sweep, ...]) -> None:
        """Raise SettingsError unless all files are there, and a denoiser for this noise."""
        missing = [path for path in self.files.values() if not path.is_file()]
        rest = f" (of the {len(self.eps)} files {len(missing)} are missing)" if len(missing) > 1 else ""
        need(not missing, "published.weights", missing[0] if missing else None,
             f"a file that is there{rest}; data/README.md says where they come from")
        if self.denoiser is not None:
            path = resolve_path(self.denoiser)
            need(path.exists(), "published.denoiser", path, "a file or folder that is there, or null for our own")
            return
        sweep = self.source(sweeps)
        need(sweep is not None, "published.denoiser", None,
             "given where no sweep trains a denoiser on ImageNet at 64 pixels")
        low, high = sweep.denoiser.low, sweep.denoiser.high
        need(low <= self.sigma <= high, "published.sigma", self.sigma,
             f"from {low:g} to {high:g}, the noise that the denoiser of sweep {sweep.name} is trained on")


@dataclass(frozen=True)
class Section(Declared):
    """The notebook on off-manifold robustness."""

    seeds: Repetitions  # networks of every kind and strength
    sweeps: Annotated[tuple[Sweep, ...], different(1, of="name")]
    distractor: Distractor | None = None
    theory: Theory = Theory()
    published: Published | None = None  # networks in files that the user has; null: there are none
    chance: Share = 0.05  # accuracies this near to guessing say nothing about the excessive regime (C6)
    on: Share = 0.01  # on-manifold changes (total variation) this small say nothing about it either

    where = "off_manifold_robustness"

    def check_together(self):
        taken = {data.name for data in self.distractor.data} if self.distractor else set()
        for sweep in self.sweeps:
            need(sweep.name not in taken, "name of a sweep", sweep.name, "another than that of a set of the distractor")

    @property
    def pool(self) -> int:
        """Networks of each type of the pool that it needs: those on the pool's data are compared with its own."""
        return self.seeds if any(sweep.data is None for sweep in self.sweeps) else 1

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks and the files that it names are there."""
        if self.published:
            self.published.check(self.sweeps)
        for sweep in self.sweeps:
            data = sweep.data or networks.data
            closed, where = data.info.closed, f"sweeps[{sweep.name}]"
            need(closed or "closed form" not in sweep.tangents, f"{where}.tangents", "closed form",
                 f"of another kind for {data.name}")
            known = data.name in MANIFOLDS
            need(not closed or known and sweep.closed_form, f"{where}.tangents", list(sweep.tangents),
                 f"closed form first, and data {' or '.join(MANIFOLDS)}")
            augment, pixels = sweep.augment or networks.augment, math.prod(data.shape)
            need(not closed or augment == "none", f"{where}.augment", augment, f"none for {data.name}")
            need((sweep.pca or 1) < pixels, f"{where}.pca", sweep.pca, f"below the {pixels} pixels of an image")
            latent = sweep.autoencoder.arch.latent if sweep.autoencoder else 1
            need(latent < pixels, f"{where}.autoencoder.arch.latent", latent, f"below the {pixels} pixels of an image")
            given = sweep.denoiser or (networks.denoiser if sweep.data is None else None)
            need(closed or given is not None, f"{where}.denoiser", None, f"given for {data.name}, or for the pool")
            most = data.test or data.info.test
            need(sweep.images <= most, f"{where}.images", sweep.images, f"at most the {most} test images")
            enough = not closed or self.seeds * self.theory.points <= most
            need(enough, "theory.points", self.theory.points, f"at most {most // self.seeds}: {self.seeds} repetitions "
                 f"share the {most} test images of {where}")
