"""Networks that others trained, in files that the user has: how profiles name them, and what is known of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lib import files
from lib.errors import need
from lib.values.architectures import FromScratch, ResNet
from lib.values.data import Data
from lib.values.declared import Declared, OneOf
from lib.values.recipe import Digest, Recipe, Weights


@dataclass(frozen=True)
class Known:
    """What is known of a network that others trained on pixels in [0, 1] without a normaliser.

    kind: `N` (normal) or `R` (robust in l_inf at 8/255). data: the set that it was trained on. file: its path (see
    `files.resolve_path`), or its path in an installed `package`. sha256: the digest of the file; None if none could be
    found: then any file that fits `arch` is accepted, and only its accuracy shows whether it is the right one. clean,
    robust: accuracies in [0, 1] on all test images, the latter under AutoAttack (RobustBench's records).
    """

    kind: str
    data: str
    file: str
    clean: float
    robust: float
    arch: FromScratch = ResNet()
    package: str | None = None
    sha256: str | None = None


# RobustBench's names of linf networks (it also has a Sehwag2021Proxy_R18 for l2).
KNOWN = {
    "Sehwag2021Proxy_R18":
        Known("R", "cifar10", "robustbench/cifar10/Linf/Sehwag2021Proxy_R18.pt", 0.8459, 0.5554),
    "Addepalli2021Towards_RN18":
        Known("R", "cifar10", "robustbench/cifar10/Linf/Addepalli2021Towards_RN18.pt", 0.8024, 0.5106),
    # no published record: counted here, 9,422 of 10,000 clean, almost none under PGD-20 (tests/models/test_external.py)
    "pyautoattack":
        Known("N", "cifar10", "examples/model_test.pt", 0.9422, 0.0, package="pyautoattack",
              sha256="399f52da9f914c323fa5a6096d60f460a3449a59b64a6405200c1e629f8425a7"),
}


@dataclass(frozen=True)
class External(Declared):
    """A network that others trained, as a profile names it."""

    name: Annotated[str, OneOf(KNOWN)]  # the name of a known network
    file: str | None = None  # the path of the file (see `files.resolve_path`); null: the usual path
    sha256: Digest | None = None  # the digest that the file must have; null: the known one, if any

    where = "external"

    @property
    def known(self) -> Known:
        return KNOWN[self.name]

    @property
    def path(self) -> Path:
        """The path of the file, which need not exist. Raises SettingsError for a package that is not installed."""
        if self.file is not None or self.known.package is None:
            return files.resolve_path(self.file or self.known.file)
        found = importlib.util.find_spec(self.known.package)
        need(found is not None, "package", self.known.package, "installed")
        return Path(found.origin).parent / self.known.file

    @property
    def weights(self) -> Weights:
        """The file as a value in recipes. Raises SettingsError if it is missing or has another digest than it must."""
        path, wanted = self.path, self.sha256 or self.known.sha256
        need(path.is_file(), f"file of {self.name}", path,
             "a file that is there; data/README.md says where it comes from")
        found = files.sha256_once(path)
        need(wanted in (None, found), f"file of {self.name}", path,
             f"the file with SHA-256 {wanted}; this one has {found}")
        return Weights(str(path), found)

    def recipe(self, data: Data, precision: str = "fp32") -> Recipe:
        """The network, measured on `data` in `precision`. Raises SettingsError as `weights` does, and for data
        other than its training set.
        """
        same = data.name == self.known.data
        need(same, f"data of {self.name}", data.name, f"{self.known.data}, which it was trained on")
        batch = min(128, data.n_train)  # unused, but must be valid
        return Recipe(data, self.known.arch, epochs=0, batch_size=batch, precision=precision, weights=self.weights)
