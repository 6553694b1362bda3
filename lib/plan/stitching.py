"""The cells of the stitching notebook (Balogh & Jelasity, ICML 2023): which front into which end, where, trained how.

Names of pairs: N normal, R robust, U untrained; `N->R` is the front of a normal network stitched into a robust one,
`R->R2` and `N->N2` join two networks of one type: those of this repetition and of the next, so that neighbouring
repetitions of these pairs share a network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.architectures import Probe, Stitch
from lib.plan.pool import member, one_more_restart
from lib.recipe import Recipe
from lib.settings import Settings, objective
from lib.threats import Attack, Threat

PAIRS = {"N->R": ("N", "R", 0), "R->N": ("R", "N", 0), "R->R2": ("R", "R", 1), "N->N2": ("N", "N", 1)}
NOTHING = ("(nothing)",)  # a prefix that no parameter has: only BatchNorm's statistics adapt


@dataclass(frozen=True)
class Cell:
    """One stitched (or probed) network of the experiment.

    role: `pair`, `endpoint` (a network of the pool itself), or the control it is: `untrained front`, `untrained end`,
    `new end` (the end trained anew and adversarially on the frozen front: the ceiling), `linear probe`, `BN only`
    (identity joint), `frozen BN`, `twice the epochs` (has the joint converged?).
    """

    role: str
    pair: str
    joint: str
    alpha: float
    seed: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack], ...]

    @property
    def group(self) -> str:
        what = self.pair.replace("->", "-") if self.pair in PAIRS else "controls"
        return f"{what}-{self.seed}"

    @property
    def bundle(self) -> str:
        return f"{'pairs' if self.pair in PAIRS else 'controls'}-{self.seed}"


def cells(settings: Settings) -> list[Cell]:
    """Every cell of every repetition, pairs first."""
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
        aims = objective(n, s.attack, alpha, clean_statistics=changes.get("batchnorm") != "frozen")
        arch = changes.pop("arch", Stitch(joint))
        recipe = replace(
            base,
            **{
                "arch": arch,
                "objective": aims,
                "parents": (front, end),
                "trainable": ("joint",),
                "seed": seed,
                **changes,
            },
        )
        verify = alpha == 1 and pair != "N->N2"
        under = against((s.search, s.verify) if verify else (s.search,))
        out.append(Cell(role, pair, joint, alpha, seed, recipe, under))

    for seed in range(s.seeds):
        net = {kind: member(settings, kind, seed).recipe for kind in "NRU"}
        for kind in "NRU":
            attacks = (s.search, s.verify) if kind == "R" else (s.search,)
            if kind == "R" and seed == 0:
                attacks += (one_more_restart(s.search),)
            out.append(Cell("endpoint", kind, "", 0.0, seed, net[kind], against(attacks)))
        for pair, (front, end, shift) in PAIRS.items():
            other = member(settings, end, seed + shift).recipe
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
    return out
