"""The notebook on compact and robust networks (Sehwag et al. 2019): measure the networks of the plan, count the weights
they keep and compute the share of each accuracy that they retain.

lib/papers/compact_robust_pruning/networks.py says which networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lib.papers.compact_robust_pruning.networks import DENSE, Condition, setup_named, threat_of
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST, NetworkSetup, Section
from lib.profiles.networks import Networks
from lib.pruning import results
from lib.results import mean
from lib.training.zoo import Zoo
from lib.values.cell import Cell


class Results(results.Results):
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
        """The condition of a network pruned by LWM. pre, fine: the objectives of its first and last step."""
        return Condition(net.name, pre, "LWM", self.section.keep, fine, longer)

    @property
    def benign_rules(self) -> dict[str, Condition]:
        """The ways of pruning that are followed by benign fine-tuning."""
        s = self.section
        return {rule: Condition(s.rules_on, ROBUST, rule, s.keep, BENIGN)
                for rule in dict.fromkeys(("LWM", *s.benign_rules))}

    @property
    def benign_kept(self) -> dict[str, float]:
        """{rule: share of the clean accuracy that pruning and benign fine-tuning keep}, means over repetitions."""
        base = self.accuracy(reference_condition(setup_named(self.section, self.section.rules_on), "unpruned"))
        return {rule: mean(self.accuracy(one) / base) for rule, one in self.benign_rules.items()}

    def pairs(self, nets: Sequence[NetworkSetup], measure: str, over: str) -> tuple[np.ndarray, ...]:
        """Outcomes of the pruned networks and of their references (see `reference_condition`), as `statistics.ratio`
        takes them: an array [2, K, S, m] for each set of test images, of K networks. Networks that began with the same
        training are not independent: their outcomes are averaged, and they count as one. NaN for a repetition in which
        one of the networks failed.
        """
        families, sets = {}, {}
        for net in nets:
            first = self.of(reference_condition(net, "unpruned"), failed=True)[0].recipe
            while first.parents:
                first, = first.parents
            both = (self.correct(c, measure) for c in (self.pruned(net), reference_condition(net, over)))
            families.setdefault(first, []).append(np.stack(np.broadcast_arrays(*both)))
        for first, of_family in families.items():
            images = first.data.name, first.data.test, first.data.size
            sets.setdefault(images, []).append(np.mean(np.broadcast_arrays(*of_family), 0))
        return tuple(np.stack(np.broadcast_arrays(*networks), 1) for networks in sets.values())

    def retained(self, nets: Sequence[NetworkSetup], measure: str, over: str) -> np.ndarray:
        """[2, S]: accuracies of the pruned networks and of their references, geometric means over the networks of
        `pairs`. Their ratio is the geometric mean of the retained shares of the networks.
        """
        accuracies = np.concatenate([pair.mean(3) for pair in self.pairs(nets, measure, over)], 1)
        return np.prod(accuracies, 1) ** (1 / accuracies.shape[1])

    def share_by_image(self, net: NetworkSetup, measure: str, over: str) -> np.ndarray:
        """[S, m]: a / b + (a_i - a) / b - a (b_i - b) / b^2 for the retained share a / b of each repetition, its
        first-order value by image i; their mean is a / b.
        """
        pruned, whole = self.pairs([net], measure, over)[0][:, 0]
        a, b = pruned.mean(1, keepdims=True), whole.mean(1, keepdims=True)
        return a / b + (pruned - a) / b - a * (whole - b) / b**2

    def verified_minus_empirical(self, net: NetworkSetup, over: str) -> np.ndarray:
        """[S, m]: the retained share of verified accuracy minus that of robust accuracy, each by image."""
        return self.share_by_image(net, "verified", over) - self.share_by_image(net, "robust", over)

    def label(self, c: Condition) -> str:
        """`VGG16 robust > LWM 0.1 > robust`"""
        if c.fine is None:
            return f"{c.net} {c.pre}, unpruned"
        pruned = DENSE if c.rule == DENSE else f"{c.rule} {float(c.keep):g}"
        return f"{c.net} {c.pre} > {pruned}{', half the search' * c.half} > {c.fine}{', longer' * c.longer}"

    def title(self, cell: Cell) -> str:
        return f"{cell.condition.net}, {cell.condition.pre} training"

    def named(self, cell: Cell) -> dict:
        """As in the base class; fine is NaN before any fine-tuning."""
        c = cell.condition
        return {"net": c.net, "pre": c.pre, "rule": c.rule, "keep": float(c.keep),
                "fine": np.nan if c.fine is None else c.fine, "longer": c.longer, "seed": cell.repetition}


def reference_condition(net: NetworkSetup, over: str) -> Condition:
    """What a pruned network is compared with. over: `unpruned`, or `dense`: unpruned with the same fine-tuning."""
    return Condition(net.name, ROBUST, fine=ROBUST if over == DENSE else None)


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network, measure it and count what it keeps; whatever the store holds is read from it."""
    halved = [cell for cell in cells if cell.condition.half]
    found = Results(networks, section, seed, [cell for cell in cells if not cell.condition.half], halved=halved)
    held_out = {replace(c, rule=rule, half=half) for c in (cell.condition for cell in halved)
                for rule, half in (("LWM", False), ("HYDRA", False), ("HYDRA", True))}
    names = {section.verify: "robust", section.search: "search"}
    names |= {net.certificate: "verified" for net in found.verifiable}

    def one(cell: Cell) -> None:
        if cell.condition in held_out:
            threat = threat_of(networks, setup_named(section, cell.condition.net))
            found.hold_out(zoo, cell, threat, section.search)
        if cell.condition.half:
            return
        found.take(zoo, cell, lambda _, how: names.get(how))
        if (proof := setup_named(section, cell.condition.net).certificate) and proof.of_network:
            found.outcomes[cell]["robust"].with_bounds(found.outcomes[cell]["verified"])  # an error if proof is broken

    found.each(cells, "compact networks", one)
    return found
