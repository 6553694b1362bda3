"""What the judge gets of the notebook on compact and robust networks; claims are worded in
claims/compact_robust_pruning.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lib.claims.evidence import Contrast, Evidence, above_chance
from lib.claims.preconditions import Preconditions, attack_warnings, lower_bound
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, setup_named, threat_of
from lib.papers.compact_robust_pruning.results import Results, reference_condition
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST, RULES, NetworkSetup
from lib.training.zoo import Zoo
from lib.values.cell import Cell

ABOVE_CHANCE = 0.05  # conditions whose clean accuracy is not this far above guessing are broken, and not compared
KEPT = 0.9  # of the clean accuracy: what a way of pruning must keep for C1 to ask what it does to robustness
MOST = 3  # so many such ways make the "most" of C1
AWARE = tuple(rule for rule, how in RULES.items() if how["scores"] in ("gradient", "learned"))  # see the objective
# claim -> part -> which accuracy, and over which network's: the retained shares
RETAINED = {"C2a": {"clean": ("clean", "unpruned"), "robust": ("robust", "unpruned")},
            "C2b": {"clean": ("clean", DENSE), "robust": ("robust", DENSE)},
            "C3": {"verified": ("verified", "unpruned"), "verified_of_dense": ("verified", DENSE)}}


def contrasts(f: Results) -> dict[str, dict[str, dict[str, Contrast]]]:
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


def _lost(f: Results) -> dict[str, Contrast]:
    """Robust accuracy after benign fine-tuning minus half of the unpruned network's, by the rules that keep the clean
    accuracy; by all rules where none does, and then `claim_preconditions` says so.
    """
    base = reference_condition(setup_named(f.section, f.section.rules_on), "unpruned")
    every = {rule: Contrast((one,), (base,), (1.0, 0.5)) for rule, one in f.benign_rules.items()}
    share = f.benign_kept
    return {rule: one for rule, one in every.items() if share[rule] >= KEPT} or every


def _verified_minus_empirical(f: Results, net: NetworkSetup) -> np.ndarray:
    """[S]: the retained share of verified accuracy minus that of robust accuracy."""
    (verified, of_verified), (robust, of_robust) = (f.retained([net], which, "unpruned")
                                                    for which in ("verified", "robust"))
    return verified / of_verified - robust / of_robust


def _bounded(f: Results) -> list[NetworkSetup]:
    """The networks with both retained shares of C6: the proof is about the network that is attacked (smoothing's is
    about another classifier), and neither accuracy is 0 before pruning.
    """
    return [net for net in f.verifiable if net.certificate.of_network
            and all(f.accuracy(reference_condition(net, "unpruned"), which).all() for which in ("verified", "robust"))]


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; C2 and C3 ratios [2, S]; C6 one
    number a repetition.

    Robust accuracy is accuracy under the stronger attack. Of several instances of a difference those with a condition
    at chance are left out.
    """
    found, broken = Evidence(), f.at_chance(ABOVE_CHANCE)
    found.add_contrasts(f, contrasts(f), broken, lambda part: "verified" if part.startswith("verified") else "robust")
    for claim, parts in RETAINED.items():
        nets = retaining(f, claim)
        name = nets[0].name if len(nets) == 1 else f"mean of {', '.join(net.name for net in nets)}"
        for part, (measure, over) in parts.items() if nets else ():
            found.add(claim, part, name, f.retained(nets, measure, over))
    for net in _bounded(f):
        found.add("C6", "verified_minus_empirical", net.name, _verified_minus_empirical(f, net))
    return found


def retaining(f: Results, claim: str) -> list[NetworkSetup]:
    """The networks whose retained shares a claim is about."""
    return f.empirical if claim in ("C2a", "C2b") else f.verifiable


def warnings(zoo: Zoo, f: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, looked for on one robust network of each kind."""
    recipes = {net: f.of(reference_condition(net, "unpruned"))[0].recipe for net in f.section.nets}
    return [f"{net.name}: {sentence}" for net, recipe in recipes.items()
            for sentence in attack_warnings(zoo, recipe, threat_of(f.networks, net), f.section.search)]


def preconditions(f: Results, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: for every network, benign pre-training that learns the task and is not
    robust, robust pre-training that is; a working attack (`warnings`); pruned networks that keep what they
    may keep.
    """
    s, checks = f.section, Preconditions()
    for net in s.nets:
        normal, robust = (Condition(net.name, pre) for pre in (BENIGN, ROBUST))
        checks.pool(net.gates, s.verify, *f.of_pool(normal, robust, "robust"), where=net.name)
    checks.attack(warnings)
    off = [sentence for cell in f.layers for sentence in off_target(f, cell)]
    checks.add("pruned networks meet their targets", not off, "; ".join(off) or "counted mask by mask")
    return checks


def off_target(f: Results, cell: Cell) -> list[str]:
    """A sentence if a network does not keep the share that it should: of all weights, or of every layer's channels.
    Counts are whole, layer by layer, so that a layer may be one off.
    """
    counted, keep = f.layers[cell], float(cell.condition.keep)
    if "channels" in counted:
        masked = counted[counted.channels.notna()]
        off = masked[(masked.kept_channels - keep * masked.channels).abs() >= 1]
        return [f"{f.label(cell.condition)} keeps {row.kept_channels:.0f} of {row.channels:.0f} channels of {row.layer}"
                for row in off.itertuples()]
    left, every = f.weights(cell)
    meets = abs(left - keep * every) <= len(counted)
    return [] if meets else [f"{f.label(cell.condition)} keeps {left} of {every} weights"]


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """What must hold for single claims.

    Every claim: pruned networks that are not at chance. Of differences, instances with one that is are left out, and
    the check fails where a part has no other; retained shares are about all networks, so that one is enough. C1: three
    rules that keep the clean accuracy. C3, C4a and C6: unpruned networks that are verified on the least share.
    """
    broken = f.at_chance(ABOVE_CHANCE)
    found = above_chance(f, contrasts(f), broken, "compared networks are above chance")
    for claim in (*RETAINED, "C6"):
        pruned = [f.pruned(net) for net in retaining(f, claim)]
        said = [f.says_at_chance(one, broken[one]) for one in pruned if one in broken]
        found[claim] = Preconditions()
        found[claim].add("pruned networks are above chance", not said, "; ".join(said) or "no arm is near guessing")
    for claim in ("C3", "C4a", "C6"):
        for net in f.verifiable:
            low = lower_bound(f.correct(reference_condition(net, "unpruned"), "verified"))
            found[claim].add(f"{net.name}: unpruned networks are verified", low >= net.verified,
                             f"lower bound of verified accuracy {low:.1%}, at least {net.verified:.0%} needed")
    share = f.benign_kept
    kept = sum(value >= KEPT for value in share.values())
    found["C1"].add("three rules keep clean accuracy", kept >= MOST,
                    f"{kept} keep {KEPT:.0%} of it: " + ", ".join(f"{r} {value:.1%}" for r, value in share.items()))
    return found
