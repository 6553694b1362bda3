"""The cells of the stitching notebook (Balogh & Jelasity, ICML 2023): which front into which end, where, trained how.

Names of pairs: N normal, R robust, U untrained; `N->R` is the front of a normal network stitched into a robust one,
`R->R2` and `N->N2` join two networks of one type: those of this repetition and of the next, so that neighbouring
repetitions of these pairs share a network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.papers.settings import Settings
from lib.papers.stitching.settings import Elsewhere, Other
from lib.profiles.networks import trained_as
from lib.values.architectures import LEAST_SQUARES, Probe, Stitch
from lib.values.attacks import Attack
from lib.values.objectives import TRADES, Transferred
from lib.values.recipe import Recipe
from lib.values.threats import Threat

PAIRS = {"N->R": ("N", "R", 0), "R->N": ("R", "N", 0), "R->R2": ("R", "R", 1), "N->N2": ("N", "N", 1)}
MIXED = ("N->R", "R->N")
CORE = ("pair", "endpoint", "untrained front", "untrained end", "new end", "linear probe", "BN only", "frozen BN",
        "twice the epochs")
OTHER, EXTERNAL, DIRECT, STARTED = "other task", "external", "direct matching", "least-squares start"
NOTHING = ("(nothing)",)  # a prefix that no parameter has: only BatchNorm's statistics adapt


@dataclass(frozen=True)
class Cell:
    """One stitched (or probed) network of the experiment.

    role: `pair`, `endpoint` (a network of the pool itself), or the control it is: `untrained front`, `untrained end`,
    `new end` (the end trained anew and adversarially on the frozen front: the ceiling), `linear probe`, `BN only`
    (identity joint), `frozen BN`, `twice the epochs` (has the joint converged?). Beyond the core: `other task` (the
    end has learned another task, `R->mnist_rgb32`), `external` (a network that others trained, by its name) and their
    endpoints, `TRADES`, `trained on images against <whom>`, `rank <r>` (a trained joint that was cut), `direct
    matching`, `least-squares start`.
    """

    role: str
    pair: str
    joint: str
    alpha: float
    seed: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack], ...]
    where: str = ""  # the name of the place elsewhere

    @property
    def group(self) -> str:
        core = self.role in CORE
        what = self.pair.replace("->", "-") if core and self.pair in PAIRS else "controls" if core else "beyond"
        return f"{self.place}{what}-{self.seed}"

    @property
    def place(self) -> str:
        return f"{self.where}-".replace(" ", "-") if self.where else ""


def trained_against(whom: tuple[str, ...]) -> str:
    """The role of joints trained on images that were made to fool others."""
    return f"trained on images against {' and '.join(whom)}"


def other_task(settings: Settings, other: Other, seed: int) -> Recipe:
    """A network that has learned another task, normally."""
    recipe = replace(settings.networks.member("N", seed, settings.seed), data=other.data, seed=settings.seed(seed))
    recipe = trained_as(recipe, other.training) if other.training else recipe
    return replace(recipe, augment=other.augment or recipe.augment)


def elsewhere(settings: Settings, place: Elsewhere) -> Settings:
    """The settings of the notebook's core at another place."""
    without = dict.fromkeys(name for name in settings.notebooks if name != "stitching")
    return replace(settings, networks=place.networks, stitching=settings.stitching.at(place), **without)


def cells(settings: Settings) -> list[Cell]:
    """Every cell of every repetition, pairs first, then the same elsewhere."""
    found = _cells(settings)
    for place in settings.stitching.elsewhere:
        found += [replace(cell, where=place.name) for cell in _cells(elsewhere(settings, place))]
    return found


def _cells(settings: Settings) -> list[Cell]:
    s, n = settings.stitching, settings.networks
    last = s.joints[-1]
    base = Recipe(
        data=n.data,
        arch=n.arch,
        batch_size=n.batch_size,
        augment=s.augment or n.augment,
        precision=n.precision,
        optimiser=s.optimiser,
        schedule=s.schedule,
        epochs=s.epochs,
    )
    out: list[Cell] = []

    def against(attacks: tuple[Attack, ...]) -> tuple[tuple[Threat, Attack], ...]:
        return tuple((n.threat, attack) for attack in attacks)

    def add(role: str, pair: str, front: Recipe, end: Recipe, joint: str, alpha: float, seed: int, **changes):
        aims = n.objective(s.attack, alpha, clean_statistics=changes.get("batchnorm") != "frozen")
        arch = changes.pop("arch", Stitch(joint))
        recipe = replace(
            base,
            **{
                "arch": arch,
                "objective": aims,
                "parents": (front, end),
                "trainable": ("joint",),
                "seed": settings.seed(seed),
                **changes,
            },
        )
        verify = alpha == 1 and pair != "N->N2"
        under = against((s.search, s.verify) if verify else (s.search,))
        out.append(Cell(role, pair, joint, alpha, seed, recipe, under))

    for seed in range(s.seeds):
        net = {kind: settings.networks.member(kind, seed, settings.seed) for kind in "NRU"}
        for kind in "NRU":
            attacks = (s.search, s.verify) if kind == "R" else (s.search,)
            if kind == "R" and seed == 0:
                attacks += (s.search.with_one_more_restart(),)
            out.append(Cell("endpoint", kind, "", 0.0, seed, net[kind], against(attacks)))
        for pair, (front, end, shift) in PAIRS.items():
            other = settings.networks.member(end, seed + shift, settings.seed)
            for joint in s.joints:
                for alpha in s.alphas:
                    if pair != "N->N2" or alpha == 0 or joint == s.middle:  # two normal networks: a control, no more
                        add("pair", pair, net[front], other, joint, alpha, seed)
        for joint in s.joints:
            add("frozen BN", "N->R", net["N"], net["R"], joint, s.alphas[0], seed, batchnorm="frozen")
            add(
                "BN only",
                "N->R",
                net["N"],
                net["R"],
                joint,
                0.0,
                seed,
                arch=Stitch(joint, "identity"),
                epochs=1,
                trainable=NOTHING,
            )
            for end, alpha in ((e, a) for e in "RN" for a in s.alphas):
                if alpha == 0 or (end == "R" and joint in s.first):
                    add("untrained front", f"U->{end}", net["U"], net[end], joint, alpha, seed)
            for front in "NR":
                probe = {"arch": Probe(joint), "trainable": ("head",), "batchnorm": "frozen"}
                add("linear probe", front, net[front], net["U"], joint, 0.0, seed, parents=(net[front],), **probe)
        if 1 in s.alphas:
            add("twice the epochs", "N->R", net["N"], net["R"], s.middle, 1.0, seed, epochs=2 * s.epochs)
        for alpha in s.alphas:
            add("untrained end", "R->U", net["R"], net["U"], last, alpha, seed)
        for front in "NR":
            sizes = n.robust
            add(
                "new end",
                f"{front}->new",
                net[front],
                net["U"],
                s.middle,
                1.0,
                seed,
                trainable=("joint", "back"),
                optimiser=sizes.optimiser,
                schedule=sizes.schedule,
                epochs=s.end_epochs,
            )
        _beyond(settings, seed, net, add, out, against)
    return out


def _beyond(settings: Settings, seed: int, net: dict[str, Recipe], add, out: list[Cell], against) -> None:
    """What a repetition has beyond the core: see `Stitching`."""
    s, n = settings.stitching, settings.networks
    middle, last = s.middle, s.joints[-1]
    for other in s.others:
        end, name = other_task(settings, other, seed), other.data.name
        out.append(Cell("endpoint", name, "", 0.0, seed, end, against((s.search,))))
        for joint, alpha in ((middle, 1), (last, 1), (last, 0)):
            if alpha in s.alphas:
                add(OTHER, f"R->{name}", net["R"], end, joint, float(alpha), seed)
        for joint in (middle, last) if 0 in s.alphas else ():
            add(OTHER, f"N->{name}", net["N"], end, joint, 0.0, seed)
    for one in s.external:
        theirs = one.recipe(n.data, n.precision)
        if seed == 0:
            out.append(Cell("endpoint", one.name, "", 0.0, seed, theirs, against((s.search, s.verify))))
        mine = "R" if one.known.kind == "N" else "N"
        ways = {f"{one.name}->{mine}": (theirs, net[mine]), f"{mine}->{one.name}": (net[mine], theirs)}
        for pair, (front, end) in ways.items():
            for joint in s.joints:
                for alpha in s.alphas:
                    add(EXTERNAL, pair, front, end, joint, alpha, seed)
    for pair in MIXED:
        front, end = (net[kind] for kind in PAIRS[pair][:2])
        frozen = [(j, a) for j in s.joints for a in s.alphas if (pair, a) != ("N->R", s.alphas[0])]  # core has these
        for joint, alpha in frozen if s.frozen else ():
            add("frozen BN", pair, front, end, joint, alpha, seed, batchnorm="frozen")
        for joint in s.joints if s.direct else ():
            matched = Stitch(joint, LEAST_SQUARES, s.fit)
            add(DIRECT, pair, front, end, joint, 0.0, seed, arch=matched, epochs=0, trainable=())
            if joint == middle:
                add(STARTED, pair, front, end, joint, 0.0, seed, arch=matched)
        if s.trades is not None:
            add("TRADES", pair, front, end, middle, 1.0, seed, objective=TRADES(n.threat, s.attack, s.trades))
        whom = [(name,) for name in s.against]
        whom += [("front", "end")] * ({"front", "end"} <= {*s.against})
        for names in whom:
            aims = Transferred(n.threat, s.attack, names, clean_statistics=True)
            add(trained_against(names), pair, front, end, middle, 1.0, seed, objective=aims)
        for rank in s.ranks if 0 in s.alphas else ():
            whole = next(c.recipe for c in out if (c.role, c.pair, c.joint, c.alpha, c.seed) ==
                         ("pair", pair, middle, 0.0, seed))
            cut = replace(whole.arch, rank=rank)
            add(f"rank {rank}", pair, front, end, middle, 0.0, seed, arch=cut, parents=(whole,), epochs=0, trainable=())
