"""Evidence and preconditions of the notebook on compact and robust networks; its claims are in
claims/compact_robust_pruning.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import numpy as np

from lib import claims
from lib.claims.evidence import Contrast, Evidence, above_chance
from lib.claims.preconditions import Preconditions, attack_warnings, lower_bound
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, learned, setup_named, threat_of
from lib.papers.compact_robust_pruning.results import Results, reference_condition
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST, RULES, NetworkSetup
from lib.pruning.convergence import check_search
from lib.training.zoo import Zoo
from lib.values.cell import Cell

ABOVE_CHANCE = 0.05  # a condition whose clean accuracy is less than this above guessing is broken and not compared
KEEPS = 0.8  # share of the reference's accuracy that a network keeps at least, for C1, C2 and C3
MOST = 3  # the number of such rules that C1 needs to speak of "most"
# rules that see the training objective
AWARE = tuple(rule for rule, how in RULES.items() if how["scores"] in ("gradient", "learned"))
# What is kept: claim -> part -> (which accuracy, compared with which network)
RETAINED = {"C2a": {"clean": ("clean", "unpruned"), "robust": ("robust", "unpruned")},
            "C2b": {"clean": ("clean", DENSE), "robust": ("robust", DENSE)},
            "C3a": {"verified": ("verified", "unpruned")}, "C3b": {"verified": ("verified", DENSE)}}
BOUNDED = {"C6a": "unpruned", "C6b": DENSE}  # claim -> over which network both shares are
CONTROLS = {("C4b", "equal_epochs"), ("C5a", "above_random")}  # parts that compare with a control


def contrasts(f: Results) -> dict[str, dict[str, dict[str, Contrast]]]:
    """{claim: {part: {instance: contrast}}} of every claim about differences, for the networks that were trained."""
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

    found = {"C1": dict.fromkeys(("clean", "robust"), _finetuned_benignly(f)),
             "C4a": {"benign_finetuning": mismatched(f.empirical, ROBUST, BENIGN),
                     "benign_pretraining": mismatched(f.empirical, BENIGN, ROBUST),
                     "verified_benign_finetuning": mismatched(f.verifiable, ROBUST, BENIGN),
                     "verified_benign_pretraining": mismatched(f.verifiable, BENIGN, ROBUST)},
             "C4b": {"equal_epochs": mismatched(f.empirical, BENIGN, ROBUST, longer=True)},
             "C5a": {"suffices": against(AWARE, s.keep), "above_random": against(["random"], s.keep)}}
    if len(s.keeps) > 1:
        found["C5b"] = {"suffices": against(AWARE, s.keeps[-1])}
    return found


def _finetuned_benignly(f: Results) -> dict[str, Contrast]:
    """Accuracy after benign fine-tuning minus four fifths of the unpruned network's, for each rule that keeps the clean
    accuracy. If no rule does, all are returned and `claim_preconditions` says so.
    """
    base = reference_condition(setup_named(f.section, f.section.rules_on), "unpruned")
    every = {rule: Contrast((one,), (base,), (1.0, KEEPS)) for rule, one in f.benign_rules.items()}
    share = f.benign_kept
    return {rule: one for rule, one in every.items() if share[rule] >= KEEPS} or every


def bounded(f: Results, over: str) -> list[NetworkSetup]:
    """The networks for which C6 has both retained shares: their certificate holds for the attacked network itself
    (smoothing certifies another classifier), and neither accuracy of the reference is 0.
    """
    return [net for net in f.verifiable if net.certificate.of_network
            and all(f.accuracy(reference_condition(net, over), which).all() for which in ("verified", "robust"))]


def _measure(part: str) -> str:
    return "clean" if part == "clean" else "verified" if part.startswith("verified") else "robust"


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; for C2 and C3 outcomes minus
    four fifths of the reference's, [K, S, m] of K networks (a tuple of such arrays if their test images differ); for C6
    shares' first-order values [S, m].

    Robust accuracy is accuracy under the stronger attack. Of conditions near guessing see `Evidence.add_contrasts`.
    """
    found = Evidence()
    found.add_contrasts(f, contrasts(f), f.at_chance(ABOVE_CHANCE), _measure, CONTROLS)
    for claim, parts in RETAINED.items():
        nets = retaining(f, claim)
        name = nets[0].name if len(nets) == 1 else f"mean of {', '.join(net.name for net in nets)}"
        for part, (measure, over) in parts.items() if nets else ():
            pairs = f.pairs(nets, measure, over)
            kept = tuple(pruned - KEEPS * whole for pruned, whole in pairs)
            found.add(claim, part, name, kept, f.failures(_of_shares(f, nets, over)))
    for claim, over in BOUNDED.items():
        for net in bounded(f, over):
            found.add(claim, "verified_minus_empirical", net.name, f.verified_minus_empirical(net, over),
                      f.failures(_of_shares(f, [net], over)))
    return found


def _of_shares(f: Results, nets: Sequence[NetworkSetup], over: str) -> list[Condition]:
    """The conditions whose accuracies give the retained shares of networks."""
    return [condition for net in nets for condition in (f.pruned(net), reference_condition(net, over))]


def retaining(f: Results, claim: str) -> list[NetworkSetup]:
    """The networks of whose accuracy a claim asks how much is retained."""
    return f.empirical if claim in ("C2a", "C2b") else f.verifiable


def warnings(zoo: Zoo, f: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on one unpruned robust network per setup."""
    robust = {net: f.of(reference_condition(net, "unpruned")) for net in f.section.nets}
    return [f"{net.name}: {sentence}" for net, cells in robust.items()
            for sentence in attack_warnings(zoo, cells, threat_of(f.networks, net), f.section.search)]


def preconditions(f: Results, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: benign pre-training of every network learns the task and is not
    robust, robust pre-training is robust; the attack works (`warnings`); pruned networks meet their targets.
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
    """A sentence for each missed target: the share of all weights, or of the channels of a layer, that a network should
    keep. Counts are whole numbers, so each layer may be off by one.
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


def _verified(least: float, correct: np.ndarray) -> tuple[bool, str]:
    """Whether so large a share of images is verified by outcomes [S, m], and the numbers."""
    low = lower_bound(correct)
    return low >= least, f"lower bound of verified accuracy {low:.1%}, at least {least:.0%} needed"


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: what else must hold before it is judged}

    Differences: no collapsed network decides them. What is retained is a mean over all networks, so one collapsed
    network fails the check. C1: three rules keep the clean accuracy. C3, C4a and C6: unpruned networks are verified on
    the required share of test images. C5: half of HYDRA's search gives the same verdict on held-out images.
    """
    broken, made, s = f.at_chance(ABOVE_CHANCE), contrasts(f), f.section
    found = above_chance(f, made, broken, _measure, CONTROLS)
    for claim in (*RETAINED, *BOUNDED):
        pruned = [f.pruned(net) for net in retaining(f, claim)]
        said = [f.says_at_chance(one, broken[one]) for one in pruned if one in broken]
        found[claim] = Preconditions()
        found[claim].add("pruned networks are above chance", not said, "; ".join(said) or "no network is near guessing")
    for claim in ("C3a", "C3b", "C4a", *BOUNDED):
        for net in f.verifiable:
            unpruned = reference_condition(net, "unpruned")
            found[claim].about(f"{net.name}: unpruned networks are verified", f.correct(unpruned, "verified"),
                               partial(_verified, net.verified), f.failures((unpruned,)))
    share = f.benign_kept
    kept = sum(value >= KEEPS for value in share.values())
    found["C1"].add("three rules keep clean accuracy", kept >= MOST,
                    f"{kept} keep {KEEPS:.0%} of it: " + ", ".join(f"{r} {value:.1%}" for r, value in share.items()))
    for claim, keep in (("C5a", s.keep), ("C5b", s.keeps[-1])):
        whole, half = (learned(s, keep, half) for half in (False, True))
        if claim in made and (cells := f.of(whole, failed=True)):
            asked = {name: one for name, one in made[claim]["suffices"].items() if whole in one.under}
            check_search(found[claim], f, claims.load("compact_robust_pruning")[claim], {"suffices": asked},
                         {whole: half}, cells[0].recipe.parents[0], s.updates)
    return found
