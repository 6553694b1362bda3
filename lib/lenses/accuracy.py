"""The first lens: how often a network is right, and how often it still is under attack."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lib.data import ImageSet
from lib.door import in_own_state
from lib.lenses.lens import FOUND, NORMAL, ROBUST, SUBJECT, TWIN, Lens, Pool, found_in, shared, spread, value_of
from lib.lenses.subject import NORMALISERS, Subject, normaliser_of
from lib.plots.titles import strength
from lib.training.evaluation import Outcomes, adversarial, attacked, evaluate, sweep, transferred
from lib.training.sanity import COUNT, PASSES, QUERY_PASSES, SURVIVORS
from lib.training.zoo import SEED
from lib.values.attacks import APGD, PGD, Attack, AutoAttack, Square
from lib.values.keys import plain
from lib.values.threats import Threat

EPS = (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4))  # of the pool's eps
BYTES = ((0.0,), (1 / 255,))  # the normaliser of a network that takes pixels from 0 to 255
BATCH = 256


@dataclass(frozen=True)
class Accuracy(Lens):
    """Clean accuracy; under attacks within the pool's threat with gradients (`search`), without (`query`) and, on
    request, under AutoAttack; on images that were attacked on a normal and on a robust reference; at growing eps. The
    note of a subject says if other labels or another normaliser would fit better, and that of a robust accuracy why it
    may be too high. steps: of PGD at each eps and on the references.
    """

    search: APGD = APGD()
    query: Square = Square()
    steps: int = 20
    autoattack: bool = False

    name: ClassVar[str] = "accuracy"
    title: ClassVar[str] = "Accuracy, clean and under attack"
    searches: ClassVar[bool] = True

    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        attacks = [*self.attacks(), *(self.curve(threat) for threat in self.threats(pool))]
        standing, broken = (sum(attack.passes(share, subject.data.info.classes) for attack in attacks)
                            for share in (0.5, 0.1))  # of the subject and robust ones; of its twin and normal ones
        own, theirs = self.forward(subject, pool)
        measured = pool.measured(self, images)
        moved = (2 if measured else len(pool.recipes)) * self.curve(pool.threat).passes()
        each = len(images) * (standing + broken) + 2 * (COUNT * PASSES + SURVIVORS * QUERY_PASSES)
        return each * (own + (0 if measured else pool.count) * theirs) + len(images) * theirs * moved

    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        found, attack = [], self.curve(pool.threat)
        moved = functools.cache(lambda name: adversarial(pool.references[name].net, images, pool.threat, attack,
                                                         seed_parts=SEED, search_precision=pool.precision))
        for role, network in pool.roles(subject):
            sources = [next(name for name, one in pool.references.items() if name[0] == kind and one is not network)
                       for kind in "NR"]
            doubts = better_fits(subject, images) if role == SUBJECT else []
            key = [plain(self), plain(pool.threat), [(name, pool.references[name].key) for name in sources]]

            def make(network=network, sources=sources) -> pd.DataFrame:
                return self._of(network, {name: moved(name) for name in sources}, pool, images)

            table = pool.stored(self, [network], images, key, make)
            for one in table.to_dict("records"):
                note = "; ".join(filter(None, (one["note"], *(doubts if one["measure"] == "clean" else ()))))
                hits = shared(np.arange(one["images"]) < one["right"])
                found.append(self.row(role, network, one["measure"], hits, images, one["protocol"], note=note,
                                      against=one["against"], at=str(one["at"]), place=one["place"]))
        return self.rows(found)

    def sentence(self, rows: pd.DataFrame) -> str:
        own, clean = (value_of(rows, SUBJECT, measure) for measure in ("robust", "clean"))
        doubt = f"; {clean['note']}" if clean["note"] else ""
        how = own["protocol"].partition("; ")[2].partition(FOUND.partition("{}")[0])[0]
        robust, normal, twin = (spread(rows, role, "robust") for role in (ROBUST, NORMAL, TWIN))
        return (f"{own['network']} classifies {clean['value']:.0%} of {own['images']} images correctly and "
                f"{own['value']:.0%} ({own['low']:.0%} to {own['high']:.0%}) under {how}, where robust references "
                f"reach {robust}, normal ones {normal} and its untrained twin {twin}{doubt}.")

    def attacks(self) -> list[Attack]:
        return [self.search, self.query, *([AutoAttack()] if self.autoattack else [])]

    def curve(self, threat: Threat) -> PGD:
        """The attack at one eps, and on a reference."""
        return PGD(self.steps, threat.usual_step)

    @staticmethod
    def threats(pool: Pool) -> list[Threat]:
        """The pool's threat at the multiples EPS of its eps; in linf eps is at most 1, where a ball holds all images.
        """
        norm, eps = pool.threat.norm, pool.threat.eps
        most = 1 if norm == "linf" else 4 * eps
        return [Threat(norm, one) for one in dict.fromkeys(min(eps * times, most) for times in EPS)]

    def _of(self, network: Subject, moved: dict[str, Tensor], pool: Pool, images: ImageSet) -> pd.DataFrame:
        """A row for each measure of one network: how many images are right, and how that was found. moved: the images
        after an attack on references, by their names.
        """
        names = dict(zip(self.attacks(), ("robust", "robust without gradients", "robust under AutoAttack"),
                         strict=False))
        ways = [("clean", evaluate(network.net, images), "", "")]
        how = {"seed_parts": SEED, "search_precision": pool.precision}
        for attack, measure in names.items():
            ways.append((measure, evaluate(network.net, images, pool.threat, attack, **how,
                                           checked=attack is self.search), "", ""))
        for source, theirs in moved.items():
            one = transferred(network.net, images, theirs)
            one.protocol |= attacked(pool.threat, self.curve(pool.threat), SEED, pool.precision)
            ways.append(("robust to images attacked on another network", one, source, ""))
        threats = self.threats(pool)
        of_eps = sweep(network.net, images, threats, [self.curve(threat) for threat in threats], **how, checked=False)
        ways += [("robust at eps", one, "", str(threat.eps)) for threat, one in zip(threats, of_eps, strict=True)]
        return pd.DataFrame([{"measure": measure, "against": against, "at": at, "place": float(Fraction(at or 0)),
                              **_counted(one), "images": len(images)} for measure, one, against, at in ways])


def _counted(found: Outcomes) -> dict:
    which = "robust" if "robust" in found.table else "clean"
    return {"right": int(found.table[which].sum()), "protocol": said(found.protocol) if which == "robust" else "",
            "note": "; ".join(found.warnings)}


def said(how: dict) -> str:
    """The attack of a protocol in words."""
    return (f"{how['attack']}, {how['threat']}, eps {strength(Fraction(how['eps']))}"
            + found_in(how["search_precision"]))


@in_own_state
@torch.no_grad()
def better_fits(subject: Subject, images: ImageSet) -> list[str]:
    """A sentence for each of these that would make the subject right more often: one of the usual normalisers or pixels
    from 0 to 255, instead of what its caller said, or the classes in another order. The best choice is made on every
    second image and must be better on the others, with intervals that do not overlap.
    """
    labels, first = images.labels, torch.arange(len(images), device=images.labels.device) % 2 == 0
    own = _predicted(subject.net, images)
    right, found = shared((own == labels)[~first].cpu()), []
    others = {f"the normaliser '{name}'": numbers for name, numbers in NORMALISERS.items()}
    others["pixels from 0 to 255"] = BYTES
    hits = {}
    for name, numbers in others.items():
        if len(numbers[0]) in (1, subject.data.shape[0]):
            normalise = normaliser_of(numbers, subject.data.shape[0]).to(images.images.device)
            hits[name] = _predicted(nn.Sequential(normalise, subject.inner), images) == labels
    best = max(hits, key=lambda name: int(hits[name][first].sum()))
    fits = shared(hits[best][~first].cpu())
    if fits.low > right.high:
        found.append(f"with {best} it would be right for {fits.value:.0%} instead of {right.value:.0%}")
    classes = subject.data.info.classes
    counts = torch.zeros(classes, classes)
    counts.index_put_((own[first].cpu(), labels[first].cpu()), torch.tensor(1.0), accumulate=True)
    _, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    renamed = torch.tensor(columns, device=own.device)[own]
    fits = shared((renamed == labels)[~first].cpu())
    if fits.low > right.high:
        found.append(f"with its classes in another order it would be right for {fits.value:.0%} instead of "
                     f"{right.value:.0%}")
    return found


def _predicted(net: nn.Module, images: ImageSet) -> Tensor:
    positions = torch.arange(len(images), device=images.labels.device)
    return torch.cat([net(images.pixels(part)).argmax(1) for part in positions.split(BATCH)])
