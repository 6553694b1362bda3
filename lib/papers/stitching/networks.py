"""The networks that the stitching paper needs (Balogh & Jelasity, ICML 2023): fronts and ends from the pool, connected
after a stage by a trained joint (the stitching layer).

Names of pairs: N normal, R robust, U untrained. `N->R` is the front of a normal network with the end of a robust one.
`R->R2` and `N->N2` connect two networks of one type, of this repetition and of the next; neighbouring repetitions of
these pairs therefore share a network. What C2 and C3 compare has the section's `seeds` repetitions, all else `fewer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from lib.papers.stitching.settings import STEM, Section
from lib.profiles import networks as profiles
from lib.profiles.networks import Networks
from lib.values.architectures import LEAST_SQUARES, Probe, Stitch
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.objectives import TRADES, Transferred
from lib.values.recipe import Recipe

MIXED = ("N->R", "R->N")
PAIRS = (*MIXED, "R->R2", "N->N2")
CORE = ("pair", "endpoint", "untrained front", "untrained end", "new end", "linear probe", "BN only", "frozen BN",
        "twice the epochs")
OTHER, EXTERNAL, DIRECT, STARTED = "other task", "external", "direct matching", "least-squares start"
NOTHING = ("(nothing)",)  # a prefix that no parameter has: only BatchNorm's statistics adapt


@dataclass(frozen=True)
class Condition:
    """What the stitched networks of all repetitions have in common.

    role: `pair`, `endpoint` (a network by itself), or a control: `untrained front`, `untrained end`, `new end` (the end
    trained anew on the frozen front, on clean images or adversarially: the ceiling), `linear probe`, `BN only`
    (identity joint), `frozen BN`, `twice the epochs` (has the joint converged?). Beyond the core: `other task` (the end
    was trained on another task, `R->mnist_rgb32`), `external` (a network that others trained, by its name) and their
    endpoints, `TRADES`, `trained on images against <whom>`, `rank <r>` (a trained joint truncated to rank r), `direct
    matching`, `least-squares start`. alpha: the share of adversarial images in the joint's training, in [0, 1]. where:
    the name of another setting (C7), else empty.
    """

    role: str
    pair: str
    joint: str = ""
    alpha: float = 0.0
    where: str = ""

    def job(self, repetition: int) -> str:
        """The batch job that makes the condition's network of a repetition."""
        of_core = self.pair.replace("->", "-") if self.pair in PAIRS else "controls"
        what = of_core if self.role in CORE else "beyond"
        return f"{self.where} {what}-{repetition}".strip().replace(" ", "-")


class Repetition(profiles.Repetition):
    """The networks of one repetition by name, and how networks stitched from them are trained."""

    section: Section

    def network(self, name: str) -> Recipe:
        """The network named N, R or U; N2 or R2 of the next repetition; `new`, an untrained one; else a network trained
        on another task, by the name of its data, or an external one.
        """
        for other in self.section.others:
            if other.data.name == name:
                return other.recipe(self.networks, self.number, self.seed)
        for one in self.section.external:
            if one.name == name:
                return one.recipe(self.networks.data, self.networks.precision)
        kind = "U" if name == "new" else name[0]
        return self.networks.member(kind, self.number + name.endswith("2"), self.seed)

    def endpoint(self, name: str, *attacks: Attack) -> Cell:
        """The cell of a network by itself."""
        return Cell(Condition("endpoint", name), self.number, self.network(name), self._under(attacks))

    def stitched(self, role: str, pair: str, joint: str, alpha: float, **changes) -> Cell:
        """The cell of a front connected to an end after stage `joint`, or of a probe of the front alone. changes:
        fields of the recipe.
        """
        s, n = self.section, self.networks
        blend = changes.get("batchnorm") != "frozen"  # running statistics also see clean images
        given = {"arch": Stitch(joint), "parents": tuple(self.network(name) for name in pair.split("->")),
                 "objective": n.objective(s.attack, alpha, clean_statistics=blend), "trainable": ("joint",),
                 "epochs": s.epochs, "optimiser": s.optimiser, "schedule": s.schedule, **changes}
        recipe = Recipe(n.data, batch_size=n.batch_size, augment=s.augment or n.augment, precision=n.precision,
                        seed=self.seed(self.number), **given)
        attacks = (s.search, s.verify) if _judged(s, role, pair, joint, alpha) else (s.search,)
        return Cell(Condition(role, pair, joint, alpha), self.number, recipe, self._under(attacks))

    def _under(self, attacks: tuple[Attack, ...]) -> tuple:
        return tuple((self.networks.threat, attack) for attack in attacks)


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """All networks of all repetitions, then those that C7 compares in other settings."""
    repetitions = [Repetition(networks, section, number, seed) for number in range(section.seeds)]
    found = [cell for one in repetitions for part in (_core, _beyond) for cell in part(one)
             if one.number < section.fewer or _often(section, cell.condition)]
    for place in section.elsewhere:
        there = section.core_at(place)
        own = place.networks.resolved(there.pool)
        for number in range(there.seeds):
            for cell in _core(Repetition(own, there, number, seed)):
                if _claimed(there, cell.condition):
                    under = cell.measures if cell.condition.alpha or not cell.condition.joint else cell.measures[:1]
                    found.append(replace(cell, condition=replace(cell.condition, where=place.name), measures=under))
    return found


def _claimed(s: Section, c: Condition) -> bool:
    """Whether C1a, C2a, C3a or C4a, which C7 repeats, compares the networks of a condition."""
    if c.role != "pair":
        return c.role == "endpoint" and c.pair in ("N", "R")
    if c.alpha != 1:
        return c.alpha == 0 and c.pair in MIXED
    return c.pair != "N->N2" and c.joint in s.middle or (c.pair, c.joint) in (("N->R", s.first), ("R->N", s.last))


def _often(s: Section, c: Condition) -> bool:
    """Whether C2a or C3 compares the networks of a condition, so that they have all repetitions."""
    if c.role == "endpoint":
        return c.pair in ("N", "R")
    if c.joint == s.first:
        return c.pair == "N->R" and c.role in ("pair", DIRECT) or (c.role, c.alpha) == ("untrained front", 1)
    return c.role == "pair" and c.alpha == 1 and c.pair != "N->N2" and c.joint in s.middle


def _judged(s: Section, role: str, pair: str, joint: str, alpha: float) -> bool:
    """Whether a claim rests on the robust accuracy of a network, which is then measured under the stronger attack."""
    if role == EXTERNAL:
        return alpha == 1
    if joint == s.first:
        return pair == "N->R" and role in ("pair", DIRECT) or (role, pair, alpha) == ("untrained front", "U->R", 1)
    if role == "new end" or alpha == 1 and joint in (*s.middle, s.last):
        return alpha == 1 and pair != "N->N2" and role in ("pair", "untrained end", "new end", OTHER)
    return alpha == 0 and joint in (s.late, s.last) and pair[0] == "R" and role in ("pair", "untrained end", OTHER)


def _drawn(s: Section, pair: str, joint: str, alpha: float) -> bool:
    """Whether a pair is stitched after a joint. Two normal networks are a control only, and the stem, a joint of ours,
    is asked about the clean accuracy of mixed pairs.
    """
    if joint == STEM:
        return alpha == 0 and pair in MIXED
    return pair != "N->N2" or alpha == 0 or (joint, alpha) == (s.middle[0], 1) and s.more_controls


def _core(r: Repetition) -> Iterator[Cell]:
    """Endpoints, pairs and their controls."""
    s = r.section
    yield r.endpoint("N", s.search)
    yield r.endpoint("R", s.search, s.verify, *[s.search.with_one_more_restart()] * (r.number == 0))
    yield r.endpoint("U", s.search)
    for pair, joint, alpha in product(PAIRS, s.joints, s.alphas):
        if _drawn(s, pair, joint, alpha):
            yield r.stitched("pair", pair, joint, alpha)
    for joint in s.blocks:
        yield r.stitched("frozen BN", "N->R", joint, s.alphas[0], batchnorm="frozen")
        identity = {"arch": Stitch(joint, "identity"), "epochs": 1, "trainable": NOTHING}
        yield r.stitched("BN only", "N->R", joint, 0.0, **identity)
    for joint in s.joints:
        for front in "NR":
            probe = {"arch": Probe(joint), "trainable": ("head",), "batchnorm": "frozen"}
            yield r.stitched("linear probe", front, joint, 0.0, **probe)
    for joint, alpha in product(s.joints, s.alphas):
        for pair in ("U->R", "U->N"):
            if alpha == 0 or (pair, joint) == ("U->R", s.first):
                yield r.stitched("untrained front", pair, joint, alpha)
        for pair in ("R->U", "N->U"):
            if alpha == 0 and s.more_controls or pair == "R->U" and joint in (*s.middle, s.last):
                yield r.stitched("untrained end", pair, joint, alpha)
    if 1 in s.alphas:  # where robust accuracy is not at its floor
        for pair, joint in (("N->R", s.first), ("R->N", s.late))[: 1 + s.more_controls]:
            yield r.stitched("twice the epochs", pair, joint, 1.0, epochs=2 * s.epochs)
    of_pool, both = r.networks, ("N", "R") if s.more_controls else ()
    for alpha, pool, fronts in ((0.0, of_pool.normal, both), (1.0, of_pool.robust, s.new_ends)):
        as_pool = {"optimiser": pool.optimiser, "schedule": pool.schedule, "epochs": s.end_epochs}
        for front in fronts if alpha in s.alphas else ():
            yield r.stitched("new end", f"{front}->new", s.middle[0], alpha, trainable=("joint", "back"), **as_pool)


def _beyond(r: Repetition) -> Iterator[Cell]:
    """Networks of other tasks, networks that others trained, and other ways to make a joint."""
    s = r.section
    for name in (other.data.name for other in s.others):
        yield r.endpoint(name, s.search)
        for front, joint, alpha in (*product("R", (s.late, s.last), (1.0, 0.0)), ("N", s.last, 0.0)):
            if alpha in s.alphas:
                yield r.stitched(OTHER, f"{front}->{name}", joint, alpha)
    for one in s.external:
        if r.number == 0:
            yield r.endpoint(one.name, s.search, s.verify)
        ours = "R" if one.known.kind == "N" else "N"
        for pair in (f"{one.name}->{ours}", f"{ours}->{one.name}"):
            for joint, alpha in product(s.blocks, s.alphas):
                yield r.stitched(EXTERNAL, pair, joint, alpha)
    for pair in MIXED:
        yield from _joints(r, pair)


def _joints(r: Repetition, pair: str) -> Iterator[Cell]:
    """Other ways to make the joint of a mixed pair."""
    s, middle, threat = r.section, r.section.middle[0], r.networks.threat
    for joint, alpha in product(s.blocks, s.alphas) if s.frozen else ():
        if (pair, alpha) != ("N->R", s.alphas[0]):  # the core has these
            yield r.stitched("frozen BN", pair, joint, alpha, batchnorm="frozen")
    for joint in s.joints if s.direct else ():
        matched = Stitch(joint, LEAST_SQUARES, s.fit)
        yield r.stitched(DIRECT, pair, joint, 0.0, arch=matched, epochs=0, trainable=())
        if joint == middle:
            yield r.stitched(STARTED, pair, joint, 0.0, arch=matched)
    if s.trades is not None:
        yield r.stitched("TRADES", pair, middle, 1.0, objective=TRADES(threat, s.attack, s.trades))
    both = [("front", "end")] * ({"front", "end"} <= {*s.against})
    for against in [*((name,) for name in s.against), *both]:
        role = f"trained on images against {' and '.join(against)}"
        transferred = Transferred(threat, s.attack, against, clean_statistics=True)
        yield r.stitched(role, pair, middle, 1.0, objective=transferred)
    for rank in s.ranks if 0 in s.alphas else ():
        whole = r.stitched("pair", pair, middle, 0.0).recipe
        cut = {"arch": replace(whole.arch, rank=rank), "parents": (whole,), "epochs": 0, "trainable": ()}
        yield r.stitched(f"rank {rank}", pair, middle, 0.0, **cut)
