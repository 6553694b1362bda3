"""One call, one table: networks measured under attacks and by certificates, one row for each pair with its whole
protocol.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib.runtime import ProgressBar
from lib.training.zoo import Zoo
from lib.values.attacks import Attack, tiers
from lib.values.certificates import Certificate
from lib.values.recipe import Recipe
from lib.values.threats import Threat

if TYPE_CHECKING:
    import pandas as pd


def table(zoo: Zoo, members: Sequence, threat: Threat, attacks: Sequence[str | Attack | Certificate]) -> pd.DataFrame:
    """A tidy DataFrame, one row per network and attack, measured or taken from the store.

    members: recipes, or dataclasses with a field `recipe`, whose texts and numbers become columns.
    attacks: attacks, certificates, or names of tiers and of lists of tiers (lib.values.attacks.TIERS, TIER_LISTS).

    Columns: network (key), seed or the members' own columns, the accuracies clean, robust and verified in [0, 1], the
    same as balanced_..., the protocol (data, split, images, threat, eps, attack, steps, restarts, precision,
    search_precision, batchnorm, attack_seed and the other numbers of attack or certificate), warnings. Raises
    SettingsError for an unknown tier before any work.
    """
    import pandas as pd

    attacks = [one for attack in attacks for one in (tiers(attack, threat) if isinstance(attack, str) else [attack])]
    rows = []
    with ProgressBar(len(members) * len(attacks), "evaluations", "evaluation") as bar:
        for member in members:
            recipe, names = _named(member)
            for attack in attacks:
                found = zoo.outcomes(recipe, threat if attack else None, attack)
                rows.append({"network": recipe.key, **names, **found.row()})
                bar.step()
    frame = pd.DataFrame(rows)
    return frame[[*frame.columns.drop("warnings"), "warnings"]]


def _named(member) -> tuple[Recipe, dict]:
    if isinstance(member, Recipe):
        return member, {"seed": member.seed}
    fields = {field.name: getattr(member, field.name) for field in dataclasses.fields(member)}
    return member.recipe, {name: value for name, value in fields.items() if isinstance(value, (str, int, float))}
