"""The sixth lens: how much of its accuracy a network keeps when most of its weights are removed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib.data import ImageSet
from lib.door import in_own_state
from lib.errors import NetworkFailed, fraction, is_int, need
from lib.files import save_tensors
from lib.lenses.lens import (
    NORMAL,
    ROBUST,
    SUBJECT,
    TWIN,
    Lens,
    Pool,
    bounded,
    share_of,
    shared,
    spread,
    value_of,
)
from lib.lenses.subject import Subject
from lib.models import Undrawn, build, folded, memory_format, network, rates
from lib.models.links import layers
from lib.models.masked import masked_layers
from lib.models.prune import prune
from lib.modes import copied
from lib.profiles.networks import Training, continued
from lib.runtime import initialise_with
from lib.training import price
from lib.training.evaluation import evaluate
from lib.training.loop import fit
from lib.training.zoo import SEED
from lib.values.architectures import FromScratch, Pruned
from lib.values.attacks import PGD
from lib.values.keys import digest, plain
from lib.values.objectives import Adversarial, Prune
from lib.values.recipe import Optimiser, Recipe, Schedule

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1  # raised when the same networks and settings give other pruned networks
FINETUNE = Training(3, Optimiser(lr=0.05, weight_decay=5e-4), Schedule("cosine"))  # as the papers' notebooks at laptop
SEARCH = Training(10, Optimiser(nesterov=False, weight_decay=5e-4), Schedule("cosine"))
RULES = {"magnitude": "the largest of each layer (LWM)", "learned": "those with the largest learned scores (HYDRA)",
         "random": "random ones of each layer"}
DENSE = Fraction(1)
FLOOR = 0.1  # what guessing among ten classes reaches
TRIED = 4  # images on which a network is tried before its training
ALIKE = 1e-3  # of the largest logit: two ways to compute the same differ by less
MOST = 0.9  # a network with a smaller share of its parameters in convolutions and linear layers is pruned only in part
VERDICTS = ("clean", "robust")
WAYS = SHARE, NUMBER = "the references' share of weights", "the references' number of weights"
WHOLE = "{verdict} accuracy, unpruned and fine-tuned"
PRUNED = "{verdict} accuracy, pruned to {way} and fine-tuned"
KEPT = "kept {verdict} accuracy, pruned to {way}"
WEIGHTS, LEFT = "weights that can be pruned", "weights left, pruned to {way}"


class Further(Recipe):
    """How a network is trained further that may have no recipe; its arch is the references'."""

    def describe(self) -> str:
        left = _percent(self.arch.keep) if self.arch.pruned else "all"
        return f"{left} of a network's weights on {self.data.name}, {self.objective.describe()}"


@dataclass(frozen=True)
class Prunability(Lens):
    """Clean and robust accuracy after most weights of convolutions and linear layers are removed and the others are
    fine-tuned, over those of the unpruned network after the same fine-tuning. Each network is pruned to the share
    `keep` of its weights, and to as many weights as the references keep then, so that large networks are not favoured.
    All are fine-tuned on the objective of the robust references, with fixed masks and BatchNorm in training mode:
    references by the recipes of the notebook on compact networks, whose stored networks serve; the subject and its twin
    in the same way, on the same images in the same order as R0.

    What is kept of an accuracy is undefined unless this accuracy, unpruned, is above FLOOR beyond the noise of images
    (the lower bound of its 95 % interval counts): below, a network that answers one class would keep everything.

    keep: the share of weights that each layer keeps, in (0, 1]; 1 prunes nothing. scores: which ones it keeps, by
    `magnitude` (LWM), `learned` (HYDRA: on the same objective, as `search` says, with frozen weights) or `random`.
    attack: in search and fine-tuning; None: two steps of 5/8 of the pool's eps. steps: of PGD on the test images.
    """

    keep: Fraction = Fraction(1, 10)
    scores: str = "magnitude"
    finetune: Training = FINETUNE
    search: Training = SEARCH
    attack: PGD | None = None
    steps: int = 20

    name: ClassVar[str] = "prunability"
    title: ClassVar[str] = "Prunability"
    searches: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "keep", fraction(self.keep, "keep"))
        need(0 < self.keep <= 1, "keep", self.keep, "a share above 0 and at most 1")
        need(self.scores in RULES, "scores", self.scores, f"one of {', '.join(RULES)}")
        for name in ("finetune", "search"):
            training = getattr(self, name)
            good = isinstance(training, Training) and training.epochs > 0 and training.attack is None
            need(good, name, training, "a Training of at least 1 epoch, without an attack")
        good = self.attack is None or isinstance(self.attack, PGD) and not self.attack.targeted
        need(good, "attack", self.attack, "an untargeted PGD, or None")
        need(is_int(self.steps, 1), "steps", self.steps, "a whole number of at least 1")

    @classmethod
    def as_planned(cls, planned: Iterable[Recipe], robust: Recipe) -> Prunability:
        """The lens that trains as the recipes of a plan train the network of `robust` when it is pruned, so that they
        share networks; with its own trainings where the plan has none.
        """
        trainings, keep = {}, cls().keep
        pruned = [recipe for recipe in planned if recipe.arch.pruned and recipe.choice is None
                  and [parent.key for parent in recipe.parents] == [robust.key]]
        for recipe in sorted(pruned, key=lambda recipe: recipe.epochs):  # searches are also made half as long
            how = Training(recipe.epochs, recipe.optimiser, recipe.schedule)
            if recipe.arch == Pruned(robust.arch, keep) and isinstance(recipe.objective, Adversarial):
                trainings |= {"finetune": how, "attack": recipe.objective.attack}
            elif recipe.arch == Pruned(robust.arch, keep, scores="learned"):
                trainings |= {"search": how}
        return cls(**trainings)

    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        own, theirs = self.forward(subject, pool)
        attacked = len(images) * self.test(pool).passes(0.5, pool.data.info.classes)
        base, every = pool.recipes["R0"], _shares(self.keeps(sizes(subject.net), pool))
        trainings = {one for keep in every for one in _trainings(self.recipe(pool, base, keep), base)}
        training = sum(map(price.training, trainings)) / theirs
        references = 0 if pool.measured(self, images) else len(pool.recipes)
        return 2 * own * (training + len(every) * attacked) + references * 2 * theirs * attacked

    def recipes(self, pool: Pool) -> dict[str, Recipe]:
        told = {DENSE: "fine-tuned", self.keep: f"pruned to {_percent(self.keep)}"}
        return {f"{name}, {what}": self.recipe(pool, base, keep)
                for name, base in pool.recipes.items() for keep, what in told.items()}

    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        found = []
        for role, one in pool.roles(subject):
            keeps, base = self.keeps(sizes(one.net), pool), pool.recipes.get(one.name, pool.recipes["R0"])
            recipes = {keep: self.recipe(pool, base, keep) for keep in _shares(keeps)}
            key = [[[str(keep), recipe.key] for keep, recipe in recipes.items()], plain(self.test(pool)),
                   plain(pool.threat)]
            make = functools.partial(self._verdicts, one, recipes, pool, images)
            found += self._of(role, one, keeps, pool.stored(self, [one], images, key, make), pool, images)
        return self.rows(found)

    def sentence(self, rows: pd.DataFrame) -> str:
        own, same = (value_of(rows, SUBJECT, KEPT.format(verdict="robust", way=way)) for way in (SHARE, NUMBER))
        if not np.isfinite(own["value"]):
            return f"How much of its robustness {own['network']} keeps when it is pruned is {own['note']}."
        whole = value_of(rows, SUBJECT, WHOLE.format(verdict="robust"))
        robust, normal, twin = (_spread(rows, role, own["measure"]) for role in (ROBUST, NORMAL, TWIN))
        number = bounded(same) if np.isfinite(same["value"]) else same["note"]
        return (f"With {own['at']} of its weights {own['network']} keeps {bounded(own)} of the robust accuracy, "
                f"{whole['value']:.0%}, that it has unpruned after the same fine-tuning, where robust references keep "
                f"{robust}, normal ones {normal} and its untrained twin {twin}; with as many weights as the references "
                f"then have: {number}.")

    def test(self, pool: Pool) -> PGD:
        """The attack on the test images."""
        return PGD(self.steps, pool.threat.usual_step)

    def trained_on(self, pool: Pool) -> PGD:
        """The attack in search and fine-tuning."""
        return self.attack or PGD(2, pool.threat.usual_step * 5 / 2)

    def recipe(self, pool: Pool, base: Recipe, keep: Fraction) -> Recipe:
        """How the network of `base` is pruned to a share of its weights and fine-tuned; at 1, only fine-tuned."""
        objective = pool.networks.objective(self.trained_on(pool))
        if keep == DENSE:
            return continued(base, base.arch, objective, self.finetune)
        arch = Pruned(base.arch, keep, scores=self.scores)
        parent = continued(base, arch, Prune(objective), self.search) if arch.searched else base
        return continued(parent, arch, objective, self.finetune)

    def keeps(self, weights: Sequence[int], pool: Pool) -> dict[str, Fraction]:
        """{way: the share to which a network with so many weights in each layer is pruned}; it has no NUMBER if it has
        fewer weights than the references keep.
        """
        number, own = self.keep * sum(_sizes_of_references(pool)), sum(weights)
        return {SHARE: self.keep, **({NUMBER: number / own} if 0 < number <= own else {})}

    @in_own_state
    def _verdicts(self, one: Subject, recipes: dict[Fraction, Recipe], pool: Pool, images: ImageSet) -> pd.DataFrame:
        """Whether each image is classified correctly, clean and under attack, by the network with each share of its
        weights. What cannot be made has no such columns, and a note says why.
        """
        found, note, make = {}, "", lambda recipe: pool.zoo.obtain(recipe).net
        if one.name not in pool.recipes:
            root, why = trainable(one, images.take(slice(0, TRIED)).pixels(), pool.recipes["R0"].arch)
            note = f"undefined: {one.name} cannot be pruned and fine-tuned: {why}" if why else ""
            make = functools.partial(_further, root, one, pool)
        for keep, recipe in recipes.items() if not note else ():
            try:
                table = evaluate(make(recipe), images, pool.threat, self.test(pool), seed_parts=SEED,
                                 checked=False, search_precision=pool.precision).table
            except NetworkFailed as error:
                found[_column(keep, "failed")] = [f"undefined: {error.reason}"] * len(images)
                continue
            found |= {_column(keep, verdict): table[verdict] for verdict in VERDICTS}
        return pd.DataFrame({"note": [note] * len(images), **found})

    def _of(self, role: str, one: Subject, keeps: dict[str, Fraction], table: pd.DataFrame, pool: Pool,
            images: ImageSet) -> Iterator[dict]:
        """The rows of one network."""
        weights = sizes(one.net)
        tuned = f"fine-tuned for {self.finetune.epochs} epochs on images changed by {self.trained_on(pool).title}"
        pruned = f"kept weights: {RULES[self.scores]}; {tuned}"
        gone = {way: _failure(table, keeps[way]) if way in keeps else self._too_few(one, pool) for way in WAYS}
        where = {way: {"at": _percent(keep), "place": float(keep)} for way, keep in keeps.items()}
        yield self.row(role, one, WEIGHTS, sum(weights), images, "", note=_in_part(one))
        for way, why in gone.items():
            left = np.nan if why else _left(weights, keeps[way])
            yield self.row(role, one, LEFT.format(way=way), left, images, pruned, note=why, **where.get(way, {}))
        for verdict in VERDICTS:
            how = "" if verdict == "clean" else f"{pool.told(self.test(pool))}; "
            lost = _failure(table, DENSE)
            whole = np.nan if lost else shared(table[_column(DENSE, verdict)])
            yield self.row(role, one, WHOLE.format(verdict=verdict), whole, images, how + tuned, note=lost,
                           at=_percent(DENSE), place=1.0)
            if not lost and not whole.low > FLOOR:
                lost = (f"undefined: unpruned, after the same fine-tuning, its {verdict} accuracy is {whole.value:.0%} "
                        f"({whole.low:.0%} to {whole.high:.0%}), not surely above {FLOOR:.0%}")
            for way, why in gone.items():
                told = {"images": images, "protocol": how + pruned, **where.get(way, {})}
                own = None if why else table[_column(keeps[way], verdict)]
                yield self.row(role, one, PRUNED.format(verdict=verdict, way=way), np.nan if why else shared(own),
                               note=why, **told)
                kept = np.nan if why or lost else share_of(own, table[_column(DENSE, verdict)])
                note = why or lost
                if not note and not shared(own).low > FLOOR:
                    note = f"the accuracy that is left, {np.mean(own):.0%}, is not surely above {FLOOR:.0%}"
                yield self.row(role, one, KEPT.format(verdict=verdict, way=way), kept, note=note, **told)

    def _too_few(self, one: Subject, pool: Pool) -> str:
        """Why a network has no NUMBER."""
        return (f"undefined: {one.name} has {sum(sizes(one.net)):,} weights that can be pruned, fewer than the "
                f"{_left(_sizes_of_references(pool), self.keep):,} that references keep")


def _further(root: nn.Module, one: Subject, pool: Pool, recipe: Recipe) -> nn.Module:
    """What the zoo gives for a recipe if `root`, made from the network `one`, stood in the place of R0."""
    if recipe == pool.recipes["R0"]:
        return root
    net, zoo = build(recipe, [_further(root, one, pool, recipe.parents[0])]), pool.zoo

    def made(work: Path) -> dict:
        how = Further(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})
        log = fit(net, how, zoo.images(recipe.data, "train"), zoo.device, work)
        save_tensors(work / "data.safetensors", {name: tensor.clone() for name, tensor in net.state_dict().items()})
        return {"log": log, "networks": [base.key for base in pool.recipes.values()],
                "what": f"{how.describe()}, of {one.name}"}

    entry = zoo.store.obtain("lens-network", digest([VERSION, recipe.key, one.key]), made)
    net.load_state_dict(entry.tensors())
    return net.to(device=zoo.device, memory_format=memory_format(net)).eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------ what can be pruned


def sizes(net: nn.Module) -> list[int]:
    """The number of weights of each convolution and linear layer, in order: all that is pruned."""
    return [layer.weight.numel() for layer in layers(net).values()]


def _sizes_of_references(pool: Pool) -> list[int]:
    return _sizes_of(pool.recipes["R0"].arch, pool.data.shape, pool.data.info.classes)


@functools.lru_cache
def _sizes_of(arch: FromScratch, shape: tuple[int, int, int], classes: int) -> tuple[int, ...]:
    with Undrawn():
        return tuple(sizes(network(arch, shape, classes)))


def _left(weights: Sequence[int], keep: Fraction) -> int:
    """How many weights are left of layers with so many."""
    return sum(rates.uniform(weights, keep))


def trainable(one: Subject, images: Tensor, arch: FromScratch) -> tuple[nn.Module | None, str]:
    """A form of the network that can be pruned and trained on batches like `images`, and ""; or None and why there is
    none. Its graph, if it has the same layers, takes the place of a network that needs maps in another layout or gives
    something else in training mode. arch: any.
    """
    half, whys, forms = Pruned(arch, Fraction(1, 2)), [], [one.net]
    if one.graph and sizes(one.graph.whole) == sizes(one.net):
        forms.append(one.graph.whole)
    for net in forms:
        whys.append(_untrainable(net, half, images, one.data.info.classes))
        if not whys[-1]:
            return net, ""
    return None, whys[0]


def _untrainable(net: nn.Module, half: Pruned, images: Tensor, classes: int) -> str:
    """Why a network cannot be pruned and trained; "" if it can, as far as a few images show."""
    found = layers(net)
    if not found:
        return "it has no convolution or linear layer"
    for name, layer in found.items():
        if "weight" not in layer._parameters:
            return f"the weights of its layer {name} are computed from other numbers"
    try:
        with initialise_with("prunability"):  # dropout
            return _tried(net, half, images.contiguous(memory_format=memory_format(net)), classes)
    except Exception as error:  # somebody else's code
        return str(error).strip().split("\n")[0] or type(error).__name__


def _tried(net: nn.Module, half: Pruned, images: Tensor, classes: int) -> str:
    """Prune half of a copy's weights, compare it with a copy in which these are 0, and make an update's passes."""
    pruned, plainly = prune(net, half, tuple(images.shape[1:])), copied(net).eval()
    pruned.to(memory_format=memory_format(net))
    with torch.no_grad():
        for name, layer in masked_layers(pruned).items():
            plainly.get_submodule(name).weight.copy_(layer.weight)
        wanted = plainly(images.clone())
        found = folded(pruned)(images.clone())
    if not torch.allclose(found, wanted, rtol=0, atol=ALIKE * float(wanted.abs().max())):
        return "with masks its layers compute something else"
    logits = pruned.train()(images.clone())
    if not (torch.is_tensor(logits) and logits.shape == (len(images), classes)):
        return f"in training mode it gives {type(logits).__name__} instead of logits"
    logits.float().square().mean().backward()
    return ""


def _trainings(recipe: Recipe, base: Recipe) -> Iterator[Recipe]:
    """The recipes of all trainings that lead from `base` to a recipe."""
    while recipe != base:
        yield recipe
        recipe = recipe.parents[0]


def _shares(keeps: dict[str, Fraction]) -> list[Fraction]:
    """The shares of weights with which a network is trained, each once."""
    return list(dict.fromkeys((DENSE, *keeps.values())))


# -------------------------------------------------------------------------------------------------------------- words


def _column(keep: Fraction, what: str) -> str:
    return f"{keep}, {what}"


def _failure(table: pd.DataFrame, keep: Fraction) -> str:
    """Why there is no network with this share of its weights; "" if there is one."""
    failed = _column(keep, "failed")
    return str(table["note"].iloc[0]) or (str(table[failed].iloc[0]) if failed in table else "")


def _in_part(one: Subject) -> str:
    """A doubt about a network that is pruned only in part."""
    own, every = sum(sizes(one.net)), sum(p.numel() for p in one.net.parameters())
    return (f"only {own / every:.0%} of its {every:,} parameters are weights of convolutions and linear layers, and "
            "nothing else is pruned") if 0 < own < MOST * every else ""


def _percent(keep: Fraction) -> str:
    return f"{100 * float(keep):.3g}%"


def _spread(rows: pd.DataFrame, role: str, measure: str) -> str:
    known = rows[rows["value"].notna()]
    some = ((known["role"] == role) & (known["measure"] == measure)).any()
    return spread(known, role, measure) if some else "an undefined share"
