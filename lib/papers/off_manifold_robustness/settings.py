"""Settings of the notebook on off-manifold robustness (Srinivas et al., NeurIPS 2023)."""

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
    Gates,
    Networks,
    Training,
    Unattacked,
    fewer_targets,
)
from lib.values.architectures import AutoEncoder, FromScratch, ImageNetResNet
from lib.values.attacks import PGD, Attack
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
LETTERED = ("_letter_a", "_letters")  # endings of the names of data sets with digits next to a letter
TANGENTS = ("closed form", "auto-encoder", "PCA", "local PCA")
CONTROLS = ("per batch", "accumulated", "reduced lr")
OF_THE_LR = REDUCED, FULL = "reduced lr", "full lr"


Strength = Annotated[tuple[Positive, ...], growing()]


@dataclass(frozen=True)
class Strengths(Declared):
    """The strengths at which networks are trained with each regulariser, in units of the data's own space (images:
    pixels in [0, 1]). Networks of strength 0 are trained once for all regularisers.
    """

    # weights of the mean squared norm of the input gradient (the paper's lambda at batches of 128, times 6.1)
    gradient_norm: Strength = ()
    smoothness: Strength = ()  # weights of the mean squared change of the logits by noise of standard deviation 0.1
    noise: Strength = ()  # standard deviations of the noise on training images
    pgd: Strength = ()  # l2 radii (eps) of PGD in training, separate for each image

    where = "strengths"

    @property
    def of(self) -> dict[str, tuple[float, ...]]:
        """{regulariser, named as in tables: its strengths}, without regularisers that have none."""
        named = {"gradient norm": self.gradient_norm, "smoothness": self.smoothness, "noise": self.noise,
                 "PGD": self.pgd}
        return {name: values for name, values in named.items() if values}


SOME = Bound(lambda strengths: bool(strengths.of), "those of one regulariser or more")


@dataclass(frozen=True)
class AutoEncoding(Training):
    """The auto-encoder whose decoder gives tangent spaces; its latent size is their dimension."""

    arch: AutoEncoder = field(kw_only=True)
    data: Data | None = None  # the auto-encoder's own training data; null: the classifiers' data
    batch_size: BatchSize = 64  # images per update

    where = "autoencoder"


@dataclass(frozen=True)
class Sweep(Declared):
    """Networks on one data set, trained with each regulariser at growing strengths, and how they are measured."""

    name: FileName  # the sweep's name in tables and files
    training: Unattacked  # how networks are trained; adversarial images come from `strengths.pgd`
    strengths: Annotated[Strengths, SOME]
    # tangent spaces along which perturbations are split, the first for the claims: closed form (for data that have
    # one), auto-encoder, PCA of the training images, or local PCA around each image
    tangents: Annotated[tuple[Annotated[str, OneOf(TANGENTS)], ...], length(1)]
    # l2 lengths of the perturbations in units of the data's space, the first for the claims
    sizes: Annotated[tuple[Positive, ...], different(1)]
    clean: Share  # the least clean accuracy required of networks without a regulariser
    data: Data | None = None  # the data that the networks learn; null: the pool's
    arch: FromScratch | None = None  # the architecture of the networks; null: the pool's
    batch_size: BatchSize | None = None  # images per update; null: as in the pool
    augment: Augmentation | None = None  # the augmentation of training images; null: as in the pool
    attack_steps: Count = 5  # PGD steps in training, each of size 2 eps / steps
    autoencoder: Annotated[AutoEncoding, NO_ATTACK] | None = None  # the auto-encoder, given where `tangents` names it
    pca: Count | None = None  # the dimension of PCA and local PCA, given where `tangents` names one
    neighbours: Annotated[int, whole(2)] = 200  # the number of nearest training images that local PCA uses
    images: Annotated[int, whole(2)] = 200  # how many test images sensitivity and alignment are measured on
    draws: Count = 4  # random perturbations per image
    denoiser: Denoiser | None = None  # the denoiser that gives scores, where the data are not the pool's
    # further networks: per batch (PGD with one eps for the whole batch) and accumulated (gradients of all attack steps
    # add to the update), both as in the paper's code and at the middle strength; reduced lr (the strongest gradient
    # norm, with the learning rate reduced as in the paper) or, where `reduced` is true, full lr (not reduced)
    controls: tuple[Annotated[str, OneOf((*CONTROLS, FULL))], ...] = ()
    # whether strong regularisation lowers the learning rate, as in the paper (above weights of 0.061 and 10, and radii
    # of 8.84: in proportion)
    reduced: bool = False

    where = "sweeps"

    def check_together(self):
        where = f"sweeps[{self.name}]"
        need(("auto-encoder" in self.tangents) == (self.autoencoder is not None), f"{where}.autoencoder",
             self.autoencoder, "given exactly where its tangents are wanted")
        flat = any("PCA" in name for name in self.tangents)
        need(flat == (self.pca is not None), f"{where}.pca", self.pca, "given exactly where PCA is wanted")
        same = not (flat and self.autoencoder) or self.pca == self.autoencoder.arch.latent
        need(same, f"{where}.pca", self.pca, "the auto-encoder's latent size, so that shares inside can be compared")
        enough = "local PCA" not in self.tangents or self.neighbours > self.pca
        need(enough, f"{where}.neighbours", self.neighbours, f"more than pca = {self.pca}")
        for name in self.controls:
            wanted = "gradient norm" if name in OF_THE_LR else "PGD"
            need(wanted in self.strengths.of, f"{where}.controls", name, f"possible where {wanted} has strengths")
        same, other = (REDUCED, FULL) if self.reduced else (FULL, REDUCED)
        need(same not in self.controls, f"{where}.controls", same, f"{other} where reduced is {self.reduced}".lower())

    @property
    def closed_form(self) -> bool:
        """Whether the tangent spaces and the Bayes classifier are known exactly."""
        return self.tangents[0] == "closed form"


LETTERS = Bound(lambda names: all(name.endswith(LETTERED) for name in names),
                f"sets whose names end with {' or '.join(LETTERED)}", of="name")


@dataclass(frozen=True)
class Distractor(Declared):
    """Digits next to an uninformative letter: do robust and standard networks look at the digit or at the letter?"""

    data: Annotated[tuple[Data, ...], different(1, of="name"), LETTERS]  # data sets that networks learn, one at a time
    arch: FromScratch  # the architecture of the networks
    training: Unattacked  # how networks are trained; adversarial images come from `per_image` and `per_batch`
    per_image: Positive  # the l2 eps of adversarial training, separate for each image
    per_batch: Positive  # the l2 eps of adversarial training that a whole batch shares
    clean: Share  # the least clean accuracy required of trained networks
    seeds: Repetitions | None = None  # repetitions of these networks; null: the section's
    batch_size: BatchSize = 128  # images per update
    attack_steps: Count = 5  # PGD steps in training, each of size 2 eps / steps
    # standard deviations of the noise on one half of the image
    noise: Annotated[tuple[Positive, ...], growing(2)] = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 3.0)
    draws: Count = 2  # draws of the noise at each standard deviation
    images: Count = 1000  # how many test images are measured
    least: Share = 0.01  # the change of the output, by noise on either half, that makes a noise level count

    where = "distractor"

    def check_together(self):
        most = min(data.n_test for data in self.data)
        need(self.images <= most, "distractor.images", self.images, f"at most the {most} test images")


@dataclass(frozen=True)
class Theory(Declared):
    """The numerical check of the theory on data in closed form."""

    # standard deviations of the noise in units of the data's space
    sigmas: Annotated[tuple[Positive, ...], growing(2)] = (0.0005, 0.001, 0.002, 0.004)
    points: Annotated[int, whole(2)] = 50  # test points per repetition

    where = "theory"


NAMES_EPS = Bound(lambda path: "{eps}" in path, "a path with {eps} where each file has its eps")


@dataclass(frozen=True)
class Published(Declared):
    """Networks that others trained on ImageNet by l2 adversarial training at growing eps, and how the alignment of
    their gradients with a score at 64 pixels is measured (C8). Paths: see `lib.files.resolve_path`.
    """

    # the path of the network files, with {eps} in place of the eps of each (0, 0.01, ..., 5)
    weights: Annotated[str, NAMES_EPS]
    # a denoiser for 64 pixels, as a file with EDM's tensors or a diffusers folder; null: the denoiser trained here for
    # the sweep on ImageNet at 64 pixels
    denoiser: str | None = None
    # l2 radii of adversarial training, one per network, for pixels in [0, 1]
    eps: Annotated[tuple[NotNegative, ...], growing(3)] = (0.0, 0.01, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0)
    # the standard deviation of the noise at which the score is taken, for pixels in [0, 1] (the paper's 1.2 is for
    # [-1, 1])
    sigma: Positive = 0.6
    images: Annotated[int, whole(2)] = 1000  # how many test images are measured
    size: Count | None = None  # the side of the images in pixels; null: 224
    arch: ImageNetResNet = ImageNetResNet(18)  # the architecture of the networks
    clean: Share = 0.6  # the least clean accuracy required of the most accurate network

    where = "published"

    def check_together(self):
        most = Data("imagenet").info.test
        need(self.images <= most, "published.images", self.images, f"at most the {most} test images")
        self.arch.check(*self.data.shape[1:])

    @property
    def data(self) -> Data:
        """The test images whose first `images` are measured; every class is among them."""
        return Data("imagenet", test=max(self.images, Data("imagenet").info.classes), size=self.size)

    @property
    def files(self) -> dict[float, Path]:
        """The file of each eps."""
        return {eps: resolve_path(self.weights.replace("{eps}", f"{eps:g}")) for eps in self.eps}

    def source(self, sweeps: tuple[Sweep, ...]) -> Sweep | None:
        """The sweep on ImageNet at 64 pixels, whose denoiser gives the score if no other is named; None without one."""
        return next((s for s in sweeps if s.data and s.denoiser and s.data.name == "imagenet" and s.data.side == 64),
                    None)

    def check(self, sweeps: tuple[Sweep, ...]) -> None:
        """Raise SettingsError unless all files exist and there is a denoiser for this noise."""
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
    """Settings of the notebook on off-manifold robustness."""

    seeds: Repetitions  # repetitions, each with networks of every kind and strength
    sweeps: Annotated[tuple[Sweep, ...], different(1, of="name")]
    distractor: Distractor | None = None
    theory: Theory = Theory()
    published: Published | None = None  # published networks in files that the user has; null: none
    # what the pool's networks must be before claims about them are judged, under the attacks `search` (normal networks)
    # and `verify` (robust ones), all three given together; null: only normal networks are checked, on clean images
    gates: Gates | None = None
    search: Annotated[PGD | None, Bound(lambda one: one is None or not one.targeted, "untargeted")] = None
    verify: Attack | None = None
    chance: Share = 0.05  # the accuracy above chance that a network must exceed to count in the excessive regime (C6)
    on: Share = 0.01  # the on-manifold change (0 to 1) that a network must exceed to count in the excessive regime (C6)

    where = "off_manifold_robustness"

    def check_together(self):
        given = [one is not None for one in (self.gates, self.search, self.verify)]
        need(all(given) or not any(given), "gates, search and verify", "some of them", "all or none")
        taken = {data.name for data in self.distractor.data} if self.distractor else set()
        for sweep in self.sweeps:
            need(sweep.name not in taken, "name of a sweep", sweep.name, "another than that of a set of the distractor")

    @property
    def letters(self) -> int:
        """How many repetitions the networks for digits next to a letter have."""
        return (self.distractor and self.distractor.seeds) or self.seeds

    @property
    def pool(self) -> int:
        """How many networks of each type of the common pool are needed: one per repetition if a sweep uses the pool's
        data, otherwise one.
        """
        return self.seeds if any(sweep.data is None for sweep in self.sweeps) else 1

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks and the files that it names exist."""
        if self.published:
            self.published.check(self.sweeps)
        if self.verify:
            fewer_targets("off_manifold_robustness.verify", self.verify, networks.data)
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
            most = data.n_test
            need(sweep.images <= most, f"{where}.images", sweep.images, f"at most the {most} test images")
            enough = not closed or self.seeds * self.theory.points <= most
            need(enough, "theory.points", self.theory.points, f"at most {most // self.seeds}: {self.seeds} repetitions "
                 f"share the {most} test images of {where}")
