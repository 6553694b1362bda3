"""The notebook on compact and robust networks (Sehwag et al. 2019): measure the networks of the plan and hand the judge
its evidence.

Which networks stands in lib/papers/compact_robust_pruning/networks.py; claims are worded in
claims/compact_robust_pruning.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from lib.claims.preconditions import Checks, at_least, attack_warnings
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, setup_named, threat_of
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST, RULES, NetworkSetup, Section
from lib.profiles.networks import Networks
from lib.pruning import results as shared
from lib.pruning.results import Contrast, sound
from lib.runtime import ProgressBar
from lib.training.zoo import Zoo
from lib.values.cell import Cell
from lib.values.certificates import Bounds

ABOVE_CHANCE = 0.05  # conditions whose clean accuracy is not this far above guessing are broken, and not compared
KEPT = 0.9  # of the clean accuracy: what a way of pruning must keep for C1 to ask what it does to robustness
MOST = 3  # so many such ways make the "most" of C1
AWARE = tuple(rule for rule, how in RULES.items() if how["scores"] in ("gradient", "learned"))  # see the objective
# claim -> part -> which accuracy, and over which network's: the retained shares
RETAINED = {"C2a": {"clean": ("clean", "unpruned"), "robust": ("robust", "unpruned")},
            "C2b": {"clean": ("clean", DENSE), "robust": ("robust", DENSE)},
            "C3": {"verified": ("verified", "unpruned"), "verified_of_dense": ("verified", DENSE)}}


class Found(shared.Found):
    """All that was measured: outcomes `robust` (under `verify`), `verified` (by a network's certificate) and `search`
    (of the unpruned networks).
    """

    @property
    def empirical(self) -> list[NetworkSetup]:
        """The networks whose robust objective is adversarial training."""
        return [net for net in self.section.nets if not net.verifiable]

    @property
    def verifiable(self) -> list[NetworkSetup]:
        return [net for net in self.section.nets if net.verifiable]

    def pruned(self, net: NetworkSetup, pre: str = ROBUST, fine: str = ROBUST, longer: bool = False) -> Condition:
        """A network that LWM has made compact, by the objectives of its first and its last step."""
        return Condition(net.name, pre, "LWM", self.section.keep, fine, longer)

    def accuracy(self, condition: Condition, which: str) -> np.ndarray:
        """[S], one a repetition."""
        return self.right(condition, which).mean(1)


def whole(net: NetworkSetup, over: str) -> Condition:
    """What a pruned network is held against: the `unpruned` one, or the `dense` one with the same fine-tuning."""
    return Condition(net.name, ROBUST, fine=ROBUST if over == DENSE else None)


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Found:
    """Train (or load) every network, measure it and count what it keeps; everything from the store if it is there."""
    found = Found(networks, section, seed, cells)
    names = {section.verify: "robust", section.search: "search"}
    names |= {net.certificate: "verified" for net in found.verifiable}
    with ProgressBar(len(cells), "compact networks", "network") as bar:
        for cell in cells:
            found.take(zoo, cell, names)
            if isinstance(setup_named(section, cell.condition.net).certificate, Bounds):
                found.outcomes[cell]["robust"].beside(found.outcomes[cell]["verified"])  # an error if proof is broken
            bar.step(1, network=f"{label(cell.condition)} {cell.repetition}")
    return found


def label(c: Condition) -> str:
    """A condition in a few words: `VGG16 robust > LWM 0.1 > robust`."""
    if c.fine is None:
        return f"{c.net} {c.pre}, unpruned"
    pruned = DENSE if c.rule == DENSE else f"{c.rule} {float(c.keep):g}"
    return f"{c.net} {c.pre} > {pruned} > {c.fine}{', longer' * c.longer}"


# -------------------------------------------------------------------------------------------------- for the judge


def contrasts(f: Found) -> dict[str, dict[str, dict[str, Contrast]]]:
    """{claim: {part: {instance: contrast}}} of every claim about differences, as far as its networks were trained."""
    s, trained = f.section, {*f.conditions}

    def minus(over: Condition, under: Condition) -> Contrast:
        return Contrast((over,), (under,))

    def mismatched(nets: list[NetworkSetup], pre: str, fine: str, longer: bool = False) -> dict[str, Contrast]:
        return {net.name: minus(f.pruned(net), f.pruned(net, pre, fine, longer))
                for net in nets if f.pruned(net, pre, fine, longer) in trained}

    def against(rules: Sequence[str], keep: Fraction) -> dict[str, Contrast]:
        made = {rule: Condition(s.rules_on, ROBUST, rule, keep, ROBUST) for rule in ("LWM", *rules)}
        return {f"LWM minus {rule} at {float(keep):g}": minus(made["LWM"], made[rule])
                for rule in rules if {made["LWM"], made[rule]} <= trained}

    found = {"C1": {"lost": _lost(f)},
             "C4a": {"benign_finetuning": mismatched(f.empirical, ROBUST, BENIGN),
                     "benign_pretraining": mismatched(f.empirical, BENIGN, ROBUST),
                     "verified_benign_finetuning": mismatched(f.verifiable, ROBUST, BENIGN),
                     "verified_benign_pretraining": mismatched(f.verifiable, BENIGN, ROBUST)},
             "C4b": {"equal_epochs": mismatched(f.empirical, BENIGN, ROBUST, longer=True)},
             "C5a": {"suffices": against(AWARE, s.keep), "above_random": against(["random"], s.keep)}}
    if len(s.keeps) > 1:
        found["C5b"] = {"suffices": against(AWARE, s.keeps[-1])}
    return found


def benign_rules(f: Found) -> dict[str, Condition]:
    """The ways of pruning that are followed by benign fine-tuning."""
    s = f.section
    return {rule: Condition(s.rules_on, ROBUST, rule, s.keep, BENIGN)
            for rule in dict.fromkeys(("LWM", *s.benign_rules))}


def benign_kept(f: Found) -> dict[str, float]:
    """{rule: share of the clean accuracy that pruning and benign fine-tuning keep}, means over repetitions."""
    base = f.accuracy(whole(setup_named(f.section, f.section.rules_on), "unpruned"), "clean")
    return {rule: float((f.accuracy(one, "clean") / base).mean()) for rule, one in benign_rules(f).items()}


def _lost(f: Found) -> dict[str, Contrast]:
    """Robust accuracy after benign fine-tuning minus half of the unpruned network's, by the rules that keep the clean
    accuracy; by all rules where none does, and then `own_preconditions` says so.
    """
    base = whole(setup_named(f.section, f.section.rules_on), "unpruned")
    every = {rule: Contrast((one,), (base,), (1.0, 0.5)) for rule, one in benign_rules(f).items()}
    share = benign_kept(f)
    return {rule: one for rule, one in every.items() if share[rule] >= KEPT} or every


def retained(f: Found, nets: Sequence[NetworkSetup], which: str, over: str) -> np.ndarray:
    """[2, S]: an accuracy of the pruned networks and of those they are held against, geometric means over `nets`, whose
    ratio is the geometric mean of the networks' retained shares.
    """
    pairs = [(f.accuracy(f.pruned(net), which), f.accuracy(whole(net, over), which)) for net in nets]
    return np.prod(pairs, axis=0) ** (1 / len(pairs))


def _verified_minus_empirical(f: Found, net: NetworkSetup) -> np.ndarray:
    """[S]: the retained share of verified accuracy minus that of robust accuracy."""
    (verified, of_verified), (robust, of_robust) = (retained(f, [net], which, "unpruned")
                                                    for which in ("verified", "robust"))
    return verified / of_verified - robust / of_robust


def _bounded(f: Found) -> list[NetworkSetup]:
    """The networks with both retained shares of C6: the proof is about the network that is attacked (smoothing's is
    about another classifier), and neither accuracy is 0 before pruning.
    """
    unpruned = {net: whole(net, "unpruned") for net in f.verifiable if isinstance(net.certificate, Bounds)}
    return [net for net, condition in unpruned.items()
            if all(f.accuracy(condition, which).all() for which in ("verified", "robust"))]


def evidence(f: Found) -> dict:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; C2 and C3 ratios [2, S]; C6 one
    number a repetition.

    Robust accuracy is that under the stronger attack. Of several instances of a difference those with a condition at
    chance are left out.
    """
    broken = f.at_chance(ABOVE_CHANCE)
    found = {claim: {part: {name: one.values(f, "verified" if part.startswith("verified") else "robust")
                            for name, one in sound(broken, instances).items()}
                     for part, instances in parts.items()} for claim, parts in contrasts(f).items()}
    for claim, parts in RETAINED.items():
        nets = retaining(f, claim)
        name = nets[0].name if len(nets) == 1 else f"mean of {', '.join(net.name for net in nets)}"
        found[claim] = {part: {name: retained(f, nets, *what)} for part, what in parts.items()} if nets else {}
    found["C6"] = {"verified_minus_empirical": {net.name: _verified_minus_empirical(f, net) for net in _bounded(f)}}
    return found


def retaining(f: Found, claim: str) -> list[NetworkSetup]:
    """The networks whose retained shares a claim is about."""
    return f.empirical if claim in ("C2a", "C2b") else f.verifiable


def doubts(zoo: Zoo, f: Found) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, looked for on one robust network of each kind."""
    recipes = {net: f.of(whole(net, "unpruned"))[0].recipe for net in f.section.nets}
    return [f"{net.name}: {sentence}" for net, recipe in recipes.items()
            for sentence in attack_warnings(zoo, recipe, threat_of(f.networks, net), f.section.search)]


def preconditions(f: Found, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: for every network, benign pre-training that learns the task and is not
    robust, robust pre-training that is; a working attack (`warnings` of `doubts`); pruned networks that keep what they
    may keep.
    """
    s, checks = f.section, Checks()
    for net in s.nets:
        normal, robust = (Condition(net.name, pre) for pre in (BENIGN, ROBUST))
        checks.pool(net.gates, s.verify, f.right(normal, "clean"), f.right(normal, "search"),
                    f.right(robust, "clean"), f.right(robust, "robust"), where=net.name)
    checks.attack(warnings)
    off = [sentence for cell in f.layers for sentence in off_target(f, cell)]
    checks.add("pruned networks meet their targets", not off, "; ".join(off) or "counted mask by mask")
    return checks


def off_target(f: Found, cell: Cell) -> list[str]:
    """A sentence if a network does not keep the share that it should: of all weights, or of every layer's channels.
    Counts are whole, layer by layer, so that a layer may be one off.
    """
    counted, keep = f.layers[cell], float(cell.condition.keep)
    if "channels" in counted:
        masked = counted[counted.channels.notna()]
        off = masked[(masked.kept_channels - keep * masked.channels).abs() >= 1]
        return [f"{label(cell.condition)} keeps {row.kept_channels:.0f} of {row.channels:.0f} channels of {row.layer}"
                for row in off.itertuples()]
    left, every = f.weights(cell)
    meets = abs(left - keep * every) <= len(counted)
    return [] if meets else [f"{label(cell.condition)} keeps {left} of {every} weights"]


def own_preconditions(f: Found) -> dict[str, Checks]:
    """What must hold for single claims.

    Every claim: pruned networks that are not at chance. Of differences, instances with one that is are left out, and
    the check fails where a part has no other; retained shares are about all networks, so that one is enough. C1: three
    rules that keep the clean accuracy. C3, C4a and C6: unpruned networks that are verified on the least share.
    """
    broken, found = f.at_chance(ABOVE_CHANCE), {}
    for claim, parts in contrasts(f).items():
        found[claim] = Checks()
        found[claim].add("compared networks are above chance", *shared.above_chance(f, broken, parts, label))
    for claim in (*RETAINED, "C6"):
        pruned = [f.pruned(net) for net in retaining(f, claim)]
        said = [f"{label(one)} has a clean accuracy of {broken[one]:.1%}, guessing {f.chance(one):.1%}"
                for one in pruned if one in broken]
        found[claim] = Checks()
        found[claim].add("pruned networks are above chance", not said, "; ".join(said) or "no arm is near guessing")
    for claim in ("C3", "C4a", "C6"):
        for net in f.verifiable:
            low = at_least(f.right(whole(net, "unpruned"), "verified"))
            found[claim].add(f"{net.name}: unpruned networks are verified", low >= net.verified,
                             f"lower bound of verified accuracy {low:.1%}, at least {net.verified:.0%} needed")
    share = benign_kept(f)
    kept = sum(value >= KEPT for value in share.values())
    found["C1"].add("three rules keep clean accuracy", kept >= MOST,
                    f"{kept} keep {KEPT:.0%} of it: " + ", ".join(f"{r} {value:.1%}" for r, value in share.items()))
    return found
