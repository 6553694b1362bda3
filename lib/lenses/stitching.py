"""The second lens: whether a network's front works with the end of a reference, and its end on a reference's front."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib.data import ImageSet
from lib.door import in_own_state
from lib.errors import is_int, need
from lib.files import save_tensors
from lib.lenses.lens import SUBJECT, Lens, Pool, bounded, mean, share_of, shared, value_of
from lib.lenses.subject import Subject
from lib.models import Normalise, Stitched, join
from lib.runtime import initialise_with
from lib.training.evaluation import evaluate
from lib.training.loop import TrainingDiverged, fit
from lib.training.zoo import MATCHED_AT_ONCE, SEED, Zoo, match
from lib.values.attacks import PGD
from lib.values.keys import digest, later, plain
from lib.values.recipe import Optimiser, Recipe, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from lib.values.data import Data
    from lib.values.threats import Threat

VERSION = 1  # raised when the same networks and settings give other joints
DEPTHS = (1 / 3, 2 / 3)  # shares of a reference's operations near which it is cut for a fitted joint
HOSTS, SECOND = {"R0": "robust", "N0": "normal"}, "R1"  # the networks to stitch with, and R'
TRAINED_WITH = "R0"  # a joint costs as much as everything else, and with a normal half hardly any robustness is left
HALVES = {"front": "end", "end": "front"}  # half of the network -> half of the reference
MATCHED, TRAINED = "matched", "trained"
VERDICTS = ("clean", "robust")
OPTIMISER, SCHEDULE = Optimiser("adam", lr=3e-2, weight_decay=1e-4), Schedule("cosine")  # as in the paper's notebook
MEASURE = "{verdict} accuracy of its {half} with a reference's {other}, {way} joint"
QUICK, QUICK_STEPS = 2000, 2  # images and steps of the attack in a quick training of a joint
SHARE, BEYOND = ", as a share", ", minus the twin's"
NO_CEILING = "undefined: a second robust network reaches no more than the untrained twin, as far as the images tell"


@dataclass(frozen=True)
class Cut:
    """A network that is cut after a layer."""

    network: Subject
    layer: str

    @functools.cached_property
    def halves(self) -> tuple[nn.Module, nn.Module]:
        """The front and the end."""
        return self.network.cut(self.layer)

    @property
    def channels(self) -> int:
        return self.network.shape(self.layer)[1]

    @property
    def size(self) -> tuple[int, int]:
        return self.network.shape(self.layer)[2:]


@dataclass(frozen=True, eq=False)
class Channels:
    """Of the channels of a layer: means and standard deviations [C] over images and pixels (1 for a constant channel),
    and whether no activation is negative.
    """

    mean: Tensor
    std: Tensor
    rectified: bool


Scales = Callable[[Cut], Channels]


class JointRecipe(Recipe):
    """How the joint of two networks is trained that may have no recipe; its arch is the references'."""

    def describe(self) -> str:
        return f"joint with references on {self.data.name}, {self.objective.describe()}"


@dataclass(frozen=True)
class Stitching(Lens):
    """Clean and robust accuracy of a network's front with the end of a normal and of a robust reference, and of its end
    on their fronts. The joint is an affine map of channels at every pixel: fitted to activations at two depths (direct
    matching) and, with the robust reference, trained on adversarial images in the middle, with frozen networks.

    Even an untrained front can reach much with a good end. So accuracies are also given as a share
    (S - twin) / (R' - twin): 0 is the subject's untrained twin in the same place, 1 a second robust network. The
    subject's own also come minus its twin's.

    Both networks are cut at their last layers with maps of one size: for the fitted joints, sizes whose last layers in
    the reference are nearest to a third and to two thirds of its operations, for the trained one the middle size. What
    has no such maps is undefined. Channels are standardised, so that the scales of foreign networks do not matter:
    least squares do it in closed form, and for the trained joint, which starts at random as in the paper unless it is
    quick, both halves are scaled. A ReLU follows the joint if the end's own activations there are never negative.

    fit: how many training images determine the fit and the channels' scales. epochs: of the trained joint. steps: of
    PGD on the stitched networks. quick: whether the training of the joint starts at the fitted one and takes QUICK
    images and QUICK_STEPS of PGD, instead of all images and the attack that robust references saw.
    """

    fit: int = 1000
    epochs: int = 4
    steps: int = 20
    quick: bool = later(False)

    name: ClassVar[str] = "stitching"
    title: ClassVar[str] = "Stitching with references"
    needs_layers: ClassVar[bool] = True
    searches: ClassVar[bool] = True

    def __post_init__(self):
        need(is_int(self.fit, 2), "fit", self.fit, "a whole number of at least 2")
        need(is_int(self.epochs, 1), "epochs", self.epochs, "a whole number of at least 1")
        need(is_int(self.steps, 1), "steps", self.steps, "a whole number of at least 1")
        need(self.quick in (True, False), "quick", self.quick, "True or False")

    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        how, classes = self.recipe(pool), pool.data.info.classes
        asked = how.objective.passes(classes, how.batch_size)
        training = how.epochs * how.data.n_train * (2.5 * asked.updates + asked.forwards + 2 * asked.attacks)
        a_joint = 2 * self.count(pool) + len(images) * self.attack(pool).passes(0.5, classes)
        own, theirs = self.forward(subject, pool)
        references = 0 if pool.measured(self, images) else len(pool.recipes) - 1
        pairs = 2 * (own + theirs) / 2 + references * theirs  # a front and an end are half of each
        return len(HALVES) * pairs * ((len(HOSTS) * len(DEPTHS) + 1) * a_joint + training)

    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        self.check(subject)
        networks, hosts, tables = list(pool.roles(subject)), [pool.references[name] for name in HOSTS], {}
        scales = functools.cache(lambda cut: channels(cut.halves[0], self._batches(pool)))
        key = [plain(self), self.recipe(pool).key, plain(pool.threat)]
        pairs = [(role, one, host) for role, one in networks for host in hosts if one is not host]
        for _, one, host in pairs:
            tables[one.key, host.name] = pool.stored(
                self, [one, host], images, key,
                lambda one=one, host=host: self._verdicts(one, host, pool, images, scales))
        return self.rows([row for role, one, host in pairs
                          for row in self._of(role, one, host, tables, subject.twin, pool, images)])

    def sentence(self, rows: pd.DataFrame) -> str:
        name, told, whys = rows.loc[rows["role"] == SUBJECT, "network"].iloc[0], [], []
        for half, other in HALVES.items():
            measure = MEASURE.format(verdict="robust", half=half, other=other, way=TRAINED) + SHARE
            own = value_of(rows[rows["against"] == TRAINED_WITH], SUBJECT, measure)
            if np.isfinite(own["value"]):
                below = ", less robust than the twin," if own["value"] < 0 else ""
                told.append(f"{bounded(own)}{below} with a robust {other}")
            else:
                told.append(f"an undefined share with a robust {other}")
                whys.append(own["note"].removeprefix("undefined: "))
        reasons = "; ".join(dict.fromkeys(whys))
        if len(whys) == len(HALVES):
            return f"Stitching with references says nothing of the robustness of {name}: {reasons}."
        return (f"On a scale of robust accuracy from its untrained twin, 0%, to a second robust network, 100%, the "
                f"front of {name} stands at {told[0]} after a joint was trained, its end {told[1]}"
                + (f"; undefined: {reasons}" if reasons else "") + ".")

    def attack(self, pool: Pool) -> PGD:
        return PGD(self.steps, pool.threat.usual_step)

    def count(self, pool: Pool) -> int:
        """How many training images determine fits and scales."""
        return min(self.fit, pool.data.n_train)

    def recipe(self, pool: Pool) -> JointRecipe:
        """How joints are trained: on what robust references are trained on, with the optimiser of the paper's notebook.
        One recipe for all, so that all see the same images in the same order.
        """
        same, of_pool = pool.recipes["R0"], pool.networks
        data, attack = same.data, of_pool.robust.attack
        if self.quick:
            data, attack = quick_data(data), quick_attack(pool.threat)
        return JointRecipe(data, same.arch, of_pool.objective(attack), self.epochs, OPTIMISER, SCHEDULE,
                           same.batch_size, same.augment, trainable=("joint",), batchnorm="frozen",
                           precision=pool.precision, seed=same.seed)

    def _batches(self, pool: Pool) -> Iterator[Tensor]:
        images = pool.zoo.images(pool.data, "train")
        positions = torch.arange(self.count(pool), device=images.labels.device)
        return (images.pixels(some) for some in positions.split(MATCHED_AT_ONCE))

    def middle_fronts(self, network: Subject, host: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        """Whether each image is classified correctly by the front of a network with the end of a host that has a layer
        of the same size in its middle: bool columns `trained clean`, `trained robust`, and `matched ...` for direct
        matching at this layer; from the store. What has no joint, or one whose training diverged, has no columns.
        """
        layer = middle(host)
        places, wanted = [(TRAINED, layer), (MATCHED, layer)], ("front",)
        scales = functools.cache(lambda cut: channels(cut.halves[0], self._batches(pool)))
        key = [plain(self), self.recipe(pool).key, plain(pool.threat), places, wanted]
        table = pool.stored(self, [network, host], images, key, lambda: self._verdicts(network, host, pool, images,
                                                                                       scales, places, wanted))
        names = {_column("front", *place, verdict): f"{place[0]} {verdict}" for place in places for verdict in VERDICTS}
        return table.rename(columns=names)[[name for column, name in names.items() if column in table]]

    @in_own_state
    def _verdicts(self, network: Subject, host: Subject, pool: Pool, images: ImageSet, scales: Scales,
                  places: Sequence[tuple[str, str]] | None = None, halves: Iterable[str] = tuple(HALVES)
                  ) -> pd.DataFrame:
        """Whether each image is classified correctly, clean and under attack, by networks stitched from the two. A
        joint whose training diverges has no columns, and the note says why. places: (way, layer) of each joint, None
        for `joints`. halves: of the network.
        """
        found, note = {}, ""
        for way, layer in places or joints(host):
            if obstacle(network, host, layer):
                continue
            theirs = Cut(host, layer)
            own = Cut(network, last_layers(network)[theirs.size])
            for half in halves:
                front, end = (own, theirs) if half == "front" else (theirs, own)
                try:
                    whole = (self._trained if way == TRAINED else self._matched)(front, end, pool, scales)
                except TrainingDiverged as error:
                    note = f"undefined: {error.reason}"
                    continue
                table = evaluate(whole, images, pool.threat, self.attack(pool), seed_parts=SEED, checked=False,
                                 search_precision=pool.precision).table
                found |= {_column(half, way, layer, verdict): table[verdict] for verdict in VERDICTS}
        return pd.DataFrame({"note": [note] * len(images), **found})

    def _matched(self, front: Cut, end: Cut, pool: Pool, scales: Scales) -> Stitched:
        """Direct matching, as in the paper's notebook."""
        whole = join(front.halves[0], end.halves[1], front.channels, end.channels, scales(end).rectified)
        match(whole, front.halves[0], end.halves[0], pool.zoo.images(pool.data, "train"), self.count(pool))
        return _ready(whole, pool.zoo)

    def _trained(self, front: Cut, end: Cut, pool: Pool, scales: Scales) -> Stitched:
        given, wanted = scales(front), scales(end)
        standard = nn.Sequential(front.halves[0], Normalise(front.channels, given.mean, given.std))
        scaled = nn.Sequential(Normalise(end.channels, 0.0, 1 / wanted.std), end.halves[1])
        with initialise_with(self.recipe(pool).key, "init"):
            whole = join(standard, scaled, front.channels, end.channels, wanted.rectified)
        start = []
        if self.quick:
            target = nn.Sequential(end.halves[0], Normalise(end.channels, 0.0, wanted.std))
            match(whole, standard, target, pool.zoo.images(pool.data, "train"), self.count(pool))
            start = [MATCHED]
        key = [self.count(pool), *([cut.network.key, cut.layer] for cut in (front, end)), *start]
        noted = {"networks": [recipe.key for recipe in pool.recipes.values()],
                 "what": f"joint of {front.network.name} and {end.network.name}"}
        return train_joint(whole, self.recipe(pool), pool.zoo, key, noted)

    def _of(self, role: str, network: Subject, host: Subject, tables: dict[tuple[str, str], pd.DataFrame],
            twin: Subject, pool: Pool, images: ImageSet) -> Iterator[dict]:
        """The rows of one network with one reference."""
        second = pool.references[SECOND]
        own, floor, ceiling = (tables[one.key, host.name] for one in (network, twin, second))
        for (way, layer), (half, other), verdict in itertools.product(joints(host), HALVES.items(), VERDICTS):
            column = _column(half, way, layer, verdict)
            measure = MEASURE.format(verdict=verdict, half=half, other=other, way=way)
            how = f"joint fitted to {self.count(pool)} training images"
            if way == TRAINED:
                recipe = self.recipe(pool)
                how = (f"joint trained for {self.epochs} epochs on {recipe.data.n_train} images, attacked by "
                       f"{recipe.objective.attack.title}" + ", from the fitted one" * self.quick)
            if verdict == "robust":
                how = f"{pool.told(self.attack(pool))}; {how}"
            where = {"against": host.name, "at": layer, "place": host.flops.get(layer, np.nan)}
            whys = [obstacle(one, host, layer) or str(table["note"].iloc[0]) if column not in table else ""
                    for one, table in ((network, own), (twin, floor), (second, ceiling))]
            value = np.nan if whys[0] else shared(own[column])
            yield self.row(role, network, measure, value, images, how, note=whys[0], **where)
            if role == SUBJECT:
                why = whys[0] or whys[1]
                beyond = np.nan if why else mean(own[column].to_numpy(float) - floor[column])
                yield self.row(role, network, measure + BEYOND, beyond, images, how, note=why, **where)
            why, share = next(filter(None, whys), ""), None
            if not why:
                below = floor[column].to_numpy(float)
                share = share_of(own[column] - below, ceiling[column] - below)
                why = "" if share else NO_CEILING
            yield self.row(role, network, measure + SHARE, share or np.nan, images, how, note=why, **where)


def train_joint(whole: Stitched, how: Recipe, zoo: Zoo, key: list, noted: dict) -> Stitched:
    """The stitched network after its joint was trained as the recipe says, or with the stored joint, if it was trained
    before. key: what decides the two halves. noted: what the store says about the joint.
    """
    def made(work: Path) -> dict:
        log = fit(whole, how, zoo.images(how.data, "train"), zoo.device, work)
        save_tensors(work / "data.safetensors", whole.joint.state_dict())
        return {"log": log, **noted}

    entry = zoo.store.obtain("lens-joint", digest([VERSION, how.key, key]), made)
    whole.joint.load_state_dict(entry.tensors())
    return _ready(whole, zoo)


def quick_data(data: Data) -> Data:
    """The images of a quick training of a joint."""
    return replace(data, train=min(QUICK, data.n_train))


def quick_attack(threat: Threat) -> PGD:
    """The attack of a quick training of a joint."""
    return PGD(QUICK_STEPS, Fraction(3, 2) * threat.eps / QUICK_STEPS)


def _ready(whole: Stitched, zoo: Zoo) -> Stitched:
    return whole.to(zoo.device).eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------- where to cut


def last_layers(network: Subject) -> dict[tuple[int, int], str]:
    """{(height, width): the last layer with maps of this size}, in order of depth, without layers before any operation
    and without maps of one pixel. If a network computes with tokens, or with channels in the last place, only later
    layers count: what is before is only how it cuts the image into patches.
    """
    (_, *image), found, before = network.data.shape, {}, 0.0
    for layer in network.layers:
        rows, *shape = network.shape(layer)
        size, computes = tuple(shape[1:]), network.flops[layer] > before
        before = network.flops[layer]
        if len(shape) < 2 or math.prod(size) == 1:
            continue
        if rows == 1 and len(size) == 2 and abs(size[0] * image[1] - size[1] * image[0]) < max(image):
            if before > 0:
                found.pop(size, None)
                found[size] = layer
        elif computes:
            found = {}
    return found


def middle(host: Subject) -> str:
    """The last layer of the middle one of a network's sizes of maps; "" if it has no maps."""
    layers = list(last_layers(host).values()) or [""]
    return layers[(len(layers) - 1) // 2]


def joints(host: Subject) -> list[tuple[str, str]]:
    """(way, layer) of each joint with a reference: fitted ones nearest to DEPTHS and, with TRAINED_WITH, a trained one
    in the middle. The layer is "" if the reference has no maps.
    """
    layers = list(last_layers(host).values()) or [""]
    near = [min(layers, key=lambda layer, depth=depth: abs(host.flops.get(layer, 0) - depth)) for depth in DEPTHS]
    trained = [(TRAINED, middle(host))] * (host.name == TRAINED_WITH)
    return [*((MATCHED, layer) for layer in dict.fromkeys(near)), *trained]


def obstacle(network: Subject, host: Subject, layer: str) -> str:
    """Why a network cannot be stitched with a reference that is cut after `layer`; "" if it can."""
    for one in (host, network):
        if not last_layers(one):
            return f"undefined: {one.name} has no layers that give maps of features"
    height, width = Cut(host, layer).size
    if (height, width) in last_layers(network):
        return ""
    return f"undefined: no layer of {network.name} gives maps of {height}x{width}, as {host.name} does at {layer}"


def _column(half: str, way: str, layer: str, verdict: str) -> str:
    return f"{half}, {way}, {layer}, {verdict}"


@torch.no_grad()
def channels(front: nn.Module, batches: Iterable[Tensor]) -> Channels:
    """What a front gives for batches of images [B, C, H, W]."""
    count, least, sums = 0, 0.0, 0.0
    for images in batches:
        x = front(images).double().transpose(0, 1).flatten(1)
        count, least = count + x.shape[1], min(least, float(x.min()))
        sums = sums + torch.stack([x.sum(1), x.square().sum(1)])
    mean, square = sums / count
    variance = square - mean.square()
    varies = variance > 1e-12 * square  # smaller variances are rounding errors of a constant
    return Channels(mean.float(), torch.where(varies, variance, 1.0).sqrt().float(), least >= 0)
