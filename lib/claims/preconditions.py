"""What must hold before a claim is judged, including the checks of the common pool that every notebook makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lib.profiles.networks import Gates
from lib.statistics import accuracy, without_missing
from lib.training.zoo import Zoo
from lib.values.attacks import PGD, Attack
from lib.values.cell import Cell
from lib.values.threats import Threat


def lower_bound(correct) -> float:
    """The lower 95 % bound of the accuracy, in [0, 1], of outcomes [S, m] (seeds, images; 1 for correct). A single seed
    gives no bound; then it is the accuracy itself. Raises SettingsError for no seed and for NaN.
    """
    found = accuracy(correct)
    return found.low if np.isfinite(found.low) else found.value


class Preconditions(list):
    """A list of {name, ok, detail}, as `claims.judge` takes its preconditions."""

    def add(self, name: str, ok: bool, detail: str) -> None:
        """Add a check. name: what must hold. ok: whether it does. detail: the numbers, in words."""
        self.append({"name": name, "ok": bool(ok), "detail": detail})

    def about(self, name: str, correct, holds: Callable[[np.ndarray], tuple[bool, str]], failed: Sequence[str]) -> None:
        """Add a check of values `correct` [S] or [S, m], a row per seed. holds: from the rows of networks that did not
        fail to whether the check holds, and the numbers. If no row is left, the check does not hold; failed: why.
        """
        rows = without_missing(correct)
        self.add(name, *(holds(rows) if len(rows) else (False, f"no network is left; {'; '.join(failed)}")))

    def trained(self, networks: str, correct, least: float, failed: Sequence[str] = ()) -> None:
        """Check that networks have learned: the lower bound of the accuracy of outcomes `correct` [S, m] is at least
        `least`. failed: the networks whose rows are NaN, and why.
        """
        def holds(rows) -> tuple[bool, str]:
            low = lower_bound(rows)
            return low >= least, f"lower bound of the accuracy {low:.1%}, at least {least:.0%} needed"

        self.about(f"{networks} are trained", correct, holds, failed)

    def pool(self, gates: Gates, verify: Attack, normal_clean, normal_robust, robust_clean, robust_robust,
             failed: Sequence[str] = (), where: str = "") -> None:
        """Check that the pool's networks are trained, and that exactly the robust ones are robust.

        The outcomes of normal and robust networks, clean and under attack, are [S, m] (seeds, test images; 1 for
        correct, NaN for networks that `failed`); `robust_robust` is under the attack `verify`. where: whose networks
        they are, a prefix of the name of each check.
        """
        of = f"{where}: " if where else ""

        def at_least(least: float):
            return lambda rows: ((value := accuracy(rows).value) >= least,
                                 f"clean accuracy {value:.1%}, at least {least:.0%} needed")

        def broken(rows) -> tuple[bool, str]:
            value = accuracy(rows).value
            return value <= gates.normal_robust, (f"robust accuracy {value:.1%}, at most {gates.normal_robust:.0%} "
                                                  "allowed")

        def robust(rows) -> tuple[bool, str]:
            low = lower_bound(rows)
            return low >= gates.robust_robust, (f"lower bound of robust accuracy under {verify.title} {low:.1%}, "
                                                f"at least {gates.robust_robust:.0%} needed")

        for name, correct, holds in (("normal networks are trained", normal_clean, at_least(gates.normal_clean)),
                                     ("normal networks are not robust", normal_robust, broken),
                                     ("robust networks are trained", robust_clean, at_least(gates.robust_clean)),
                                     ("robust networks are robust", robust_robust, robust)):
            self.about(f"{of}{name}", correct, holds, failed)

    def attack(self, warnings: list[str], where: str = "") -> None:
        """Check that the attack works, that is, that there are no `warnings` (see `attack_warnings`). where: on whose
        networks, a prefix of the check's name.
        """
        of = f"{where}: " if where else ""
        said = "; ".join(warnings) or "no sanity check raised a doubt"
        self.add(f"{of}the attack can be trusted", not warnings, said)

    def table(self):
        """A DataFrame with one row per check: check, holds ('yes' or 'NO'), detail (the numbers)."""
        import pandas as pd

        return pd.DataFrame([{"check": c["name"], "holds": "yes" if c["ok"] else "NO", "detail": c["detail"]}
                             for c in self])


def attack_warnings(zoo: Zoo, robust: Sequence[Cell], threat: Threat, attack: PGD) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on the first robust network: failed sanity checks
    of lib.training.sanity, or one more restart that lowers robust accuracy by at least one percentage point. Without a
    network that says so.
    """
    if not robust:
        return ["there is no robust network to try the attack on"]
    recipe = robust[0].recipe
    first, again = (zoo.outcomes(recipe, threat, a) for a in (attack, attack.with_one_more_restart()))
    found, once, twice = list(first.warnings), first.accuracy("robust"), again.accuracy("robust")
    if once - twice >= 0.01:
        found.append(f"one more restart of {attack.title} lowers robust accuracy from {once:.1%} to {twice:.1%}")
    return found


def preconditions_by_claim(own: Mapping[str, Preconditions]):
    """A DataFrame with columns claim, check, holds, detail: the preconditions of single claims. own: {claim: its
    preconditions}, at least one.
    """
    import pandas as pd

    found = pd.concat([checks.table().assign(claim=claim) for claim, checks in sorted(own.items())], ignore_index=True)
    return found[["claim", "check", "holds", "detail"]]
