"""The section of the notebook on off-manifold robustness."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from lib.errors import is_int, is_number, need, unknown
from lib.files import resolve_path
from lib.profiles.networks import Denoiser, Networks, Training, growing, repetitions
from lib.values.architectures import AutoEncoder, FromScratch, ImageNetResNet
from lib.values.data import Data

MANIFOLDS = ("gaussian_subspace", "curved_torus")  # data whose tangent spaces are known in closed form
LETTERED = ("_letter_a", "_letters")  # how sets of digits beside a letter are named
TANGENTS = ("closed form", "auto-encoder", "PCA", "local PCA")
CONTROLS = ("per batch", "accumulated", "reduced lr")


@dataclass(frozen=True)
class Strengths:
    """The strengths of each regulariser that networks are trained with, growing, in units of the data's own space
    (images: pixels in [0, 1]); 0 is trained once for all.

    gradient_norm: the weight of the mean squared norm of an image's gradient (the paper's lambda at batches of 128
    times 6.1); smoothness: the weight of the mean squared change of the logits by noise of standard deviation 0.1;
    noise: the standard deviation; pgd: eps in l2, each image for itself.
    """

    gradient_norm: tuple[float, ...] = ()
    smoothness: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    pgd: tuple[float, ...] = ()

    def __post_init__(self):
        for field in fields(self):
            growing(f"strengths.{field.name}", getattr(self, field.name))

    @property
    def of(self) -> dict[str, tuple[float, ...]]:
        """{regulariser as tables name it: its strengths}, those without any left out."""
        named = {"gradient norm": self.gradient_norm, "smoothness": self.smoothness, "noise": self.noise,
                 "PGD": self.pgd}
        return {name: values for name, values in named.items() if values}


@dataclass(frozen=True)
class AutoEncoding(Training):
    """The auto-encoder whose decoder gives tangent spaces; its latent size is their dimension."""

    arch: AutoEncoder | None = None
    batch_size: int = 64

    def __post_init__(self):
        need(self.arch is not None, "autoencoder.arch", None, "an AutoEncoder")
        need(self.attack is None, "autoencoder.attack", self.attack, "left out")


@dataclass(frozen=True)
class Sweep:
    """Networks of one data set under each regulariser at growing strengths, and what is measured of them.

    data, arch, batch_size, augment: of the pool where they are left out. attack_steps: of PGD in training, in steps of
    2 eps / steps. tangents: the manifolds that perturbations are split by, the first for the claims: `closed form` for
    data that have one, `auto-encoder` (`autoencoder` is given), `PCA` of the training images or, around each image,
    `local PCA`, of `pca` directions. images: how many of the test images sensitivity and alignment are measured on.
    sizes: l2 lengths of the perturbations in units of the data's space, the first for the claims; draws: directions an
    image. denoiser: the network that gives the score, where the data are not the pool's. clean: the accuracy that
    networks without a regulariser must have. controls: further networks: `per batch`, PGD whose eps is shared by the
    batch, and `accumulated`, where gradients of the attack's steps add to the update (both as in the paper's code, at
    the middle strength); `reduced lr`, the strongest gradient norm with the learning rate cut as the paper cuts it.
    """

    name: str
    training: Training
    strengths: Strengths
    tangents: tuple[str, ...]
    sizes: tuple[float, ...]
    clean: float
    data: Data | None = None
    arch: FromScratch | None = None
    batch_size: int | None = None
    augment: str | None = None
    attack_steps: int = 5
    autoencoder: AutoEncoding | None = None
    pca: int | None = None
    neighbours: int = 200
    images: int = 200
    draws: int = 4
    denoiser: Denoiser | None = None
    controls: tuple[str, ...] = ()

    def __post_init__(self):
        where = f"sweep {self.name}"
        need(self.training.attack is None, f"{where}, training.attack", self.training.attack, "left out: see pgd")
        need(bool(self.strengths.of), f"{where}, strengths", "none", "those of one regulariser or more")
        need(bool(self.tangents), f"{where}, tangents", [], "one or more")
        for name, given, known in (("tangents", self.tangents, TANGENTS), ("controls", self.controls, CONTROLS)):
            for one in given:
                if one not in known:
                    raise unknown(f"{where}, {name}", one, known)
        need(("auto-encoder" in self.tangents) == (self.autoencoder is not None), f"{where}, autoencoder",
             self.autoencoder, "given exactly where its tangents are wanted")
        flat = any("PCA" in name for name in self.tangents)
        need(flat == (self.pca is not None), f"{where}, pca", self.pca, "given exactly where PCA is wanted")
        growing(f"{where}, sizes", tuple(sorted(self.sizes)), 1)
        for name, least in (("attack_steps", 1), ("draws", 1), ("neighbours", 2), ("images", 2)):
            value = getattr(self, name)
            need(is_int(value, least), f"{where}, {name}", value, f"a whole number from {least} on")
        if flat:
            need(is_int(self.pca, 1), f"{where}, pca", self.pca, "a whole number from 1 on")
            enough = "local PCA" not in self.tangents or self.neighbours > self.pca
            need(enough, f"{where}, neighbours", self.neighbours, f"more than pca = {self.pca}")
        need(is_number(self.clean, 0, 1), f"{where}, clean", self.clean, "an accuracy in [0, 1]")
        plain = bool(self.name) and all(c.isalnum() or c in " -._" for c in self.name)
        need(plain, "name of a sweep", self.name, "of letters, digits, spaces, '-', '.' and '_': files are named by it")
        for name in self.controls:
            wanted = "gradient norm" if name == "reduced lr" else "PGD"
            need(wanted in self.strengths.of, f"{where}, controls", name, f"possible where {wanted} has strengths")

    @property
    def closed_form(self) -> bool:
        """Whether tangent spaces, and the Bayes classifier with them, are known exactly."""
        return self.tangents[0] == "closed form"


@dataclass(frozen=True)
class Distractor:
    """Digits beside a letter that says nothing: what robust networks and standard ones look at.

    data: the sets. per_image, per_batch: eps in l2 of the two kinds of adversarial training. noise: standard deviations
    of the noise on one half of the image, `draws` draws each, on `images` of the test images. least: levels at which
    both changes are smaller are left out. clean: the accuracy that trained networks must have.
    """

    data: tuple[Data, ...]
    arch: FromScratch
    training: Training
    per_image: float
    per_batch: float
    clean: float
    batch_size: int = 128
    attack_steps: int = 5
    noise: tuple[float, ...] = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 3.0)
    draws: int = 2
    images: int = 1000
    least: float = 0.01

    def __post_init__(self):
        names = [data.name for data in self.data]
        need(0 < len(names) == len({*names}), "distractor.data", names, "one or more different sets")
        for name in names:
            allowed = f"a set whose name ends with {' or '.join(LETTERED)}"
            need(name.endswith(LETTERED), "distractor.data", name, allowed)
        for name in ("clean", "least"):
            value = getattr(self, name)
            need(is_number(value, 0, 1), f"distractor.{name}", value, "a number in [0, 1]")
        for name in ("per_image", "per_batch"):
            value = getattr(self, name)
            need(is_number(value, 0) and value > 0, f"distractor.{name}", value, "greater than 0")
        need(self.training.attack is None, "distractor.training.attack", self.training.attack, "left out: see eps")
        growing("distractor.noise", self.noise, 2)
        for name in ("attack_steps", "draws", "images"):
            need(is_int(getattr(self, name), 1), f"distractor.{name}", getattr(self, name), "a whole number from 1 on")
        most = min(data.test or data.info.test for data in self.data)
        need(self.images <= most, "distractor.images", self.images, f"at most the {most} test images")


@dataclass(frozen=True)
class Theory:
    """The numerical proof on closed forms: standard deviations of the noise, growing, in units of the space, and the
    points of each repetition that it is done at.
    """

    sigmas: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.004)
    points: int = 50

    def __post_init__(self):
        growing("theory.sigmas", self.sigmas, 2)
        need(is_int(self.points, 2), "theory.points", self.points, "a whole number from 2 on")


@dataclass(frozen=True)
class Published:
    """Networks that others trained on ImageNet by l2 adversarial training at growing eps, and how the alignment of
    their gradients with a score at 64 pixels is measured (C8). Paths: see `place`.

    weights: the path of the networks' files, with `{eps}` where each has its eps (0, 0.01, ..., 5). eps: growing, in l2
    of an image with pixels in [0, 1]. denoiser: a file with EDM's tensors or a folder of diffusers, for 64 pixels;
    None: the one that is trained here for the sweep on ImageNet at 64 pixels. sigma: the noise at which the score is
    taken, for pixels in [0, 1] (the paper's 1.2 is for [-1, 1]). images: how many of the test images. size: their side
    in pixels (None: 224). arch: of the networks. clean: the accuracy that the most accurate of them must have.
    """

    weights: str
    denoiser: str | None = None
    eps: tuple[float, ...] = (0.0, 0.01, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0)
    sigma: float = 0.6
    images: int = 1000
    size: int | None = None
    arch: ImageNetResNet = ImageNetResNet(18)
    clean: float = 0.6

    def __post_init__(self):
        named = "a path with {eps} where each file has its eps"
        need("{eps}" in self.weights, "published.weights", self.weights, named)
        good = all(is_number(eps, 0) for eps in self.eps) and list(self.eps) == sorted({*self.eps})
        need(good and len(self.eps) > 2, "published.eps", list(self.eps), "3 or more growing numbers from 0 on")
        need(is_number(self.sigma, 0) and self.sigma > 0, "published.sigma", self.sigma, "greater than 0")
        most = Data("imagenet").info.test
        good = is_int(self.images, 2) and self.images <= most
        need(good, "published.images", self.images, f"a whole number from 2 to the {most} test images")
        self.arch.check(*self.data.shape[1:])
        need(is_number(self.clean, 0, 1), "published.clean", self.clean, "an accuracy in [0, 1]")

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
class Section:
    """The notebook on off-manifold robustness. `seeds`: networks of every kind and strength. published: networks in
    files that the user has, None where there are none.

    chance: accuracies this near to guessing, and on: on-manifold changes (total variation) this small, say nothing
    about the excessive regime (C6).
    """

    seeds: int
    sweeps: tuple[Sweep, ...]
    distractor: Distractor | None = None
    theory: Theory = Theory()
    published: Published | None = None
    chance: float = 0.05
    on: float = 0.01

    def __post_init__(self):
        repetitions("off_manifold_robustness.seeds", self.seeds)
        names = [sweep.name for sweep in self.sweeps]
        distinct = 0 < len(names) == len({*names})
        need(distinct, "off_manifold_robustness.sweeps", names, "one or more, of different names")
        taken = {data.name for data in self.distractor.data} if self.distractor else set()
        for name in names:
            need(name not in taken, "name of a sweep", name, "another than that of a set of the distractor")
        for name in ("chance", "on"):
            value = getattr(self, name)
            need(is_number(value, 0, 1), f"off_manifold_robustness.{name}", value, "a number in [0, 1]")

    @property
    def pool(self) -> int:
        """Networks of each type of the pool that it needs: those on the pool's data stand beside its own."""
        return self.seeds if any(sweep.data is None for sweep in self.sweeps) else 1

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks and the files that it names are there."""
        if self.published:
            self.published.check(self.sweeps)
        for sweep in self.sweeps:
            data = sweep.data or networks.data
            closed, where = data.info.closed, f"sweep {sweep.name}"
            need(closed or "closed form" not in sweep.tangents, f"{where}, tangents", "closed form",
                 f"of another kind for {data.name}")
            known = data.name in MANIFOLDS
            need(not closed or known and sweep.closed_form, f"{where}, tangents", list(sweep.tangents),
                 f"closed form first, and data {' or '.join(MANIFOLDS)}")
            augment, pixels = sweep.augment or networks.augment, math.prod(data.shape)
            need(not closed or augment == "none", f"{where}, augment", augment, f"none for {data.name}")
            need((sweep.pca or 1) < pixels, f"{where}, pca", sweep.pca, f"below the {pixels} pixels of an image")
            latent = sweep.autoencoder.arch.latent if sweep.autoencoder else 1
            need(latent < pixels, f"{where}, autoencoder.arch.latent", latent, f"below the {pixels} pixels of an image")
            given = sweep.denoiser or (networks.denoiser if sweep.data is None else None)
            need(closed or given is not None, f"{where}, denoiser", None, f"given for {data.name}, or for the pool")
            most = data.test or data.info.test
            need(sweep.images <= most, f"{where}, images", sweep.images, f"at most the {most} test images")
            enough = not closed or self.seeds * self.theory.points <= most
            need(enough, "theory.points", self.theory.points, f"at most {most // self.seeds}: {self.seeds} repetitions "
                 f"share the {most} test images of {where}")
