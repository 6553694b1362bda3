"""Across the papers: profiles of known sizes, and studies of which everything is known that the lenses say."""

import functools

import numpy as np
import pandas as pd

from lib import claims
from lib.lenses.manifold import ALONG, OFF, WHITE, octave_names
from lib.papers.across_papers.evidence import claim_preconditions, evidence, preconditions
from lib.papers.across_papers.results import Results
from lib.papers.across_papers.settings import DENOISERS, REFERENCE
from lib.runtime import seed_of
from tests.kit import worlds
from tests.kit.profiles import cells_of, given, load
from tests.kit.worlds import outcomes as made_up
from tests.kit.worlds import right

S = "across_papers"
PAPER = claims.load(S)
IMAGES, SEEDS, BATCHES, LAYERS = 400, 4, 4, 6
GATES = {"normal_clean": .9, "normal_robust": .1, "robust_clean": .85, "robust_robust": .5}
ARMS = [
    {"name": "matched", "training": "normal", "epochs": 3},
    {"name": "noise", "training": "noise", "strength": .2},
    {"name": "gradient norm", "training": "gradient norm", "strength": .3},
    {"name": "weak", "training": "PGD-AT", "threat": {"norm": "linf", "eps": .02}},
    {"name": "middle", "training": "PGD-AT", "threat": {"norm": "linf", "eps": .05}, "epochs": 5},
    {"name": "TRADES", "training": "TRADES"},
    {"name": "by score", "training": "class score", "strength": 1},
    {"name": "by mean", "training": "class mean", "strength": 1},
]
SIZES = {"seeds": SEEDS, "arms": ARMS, "images": None, "batch": IMAGES // BATCHES,
         "gates": GATES,
         "pruning": {"finetune": {"epochs": 2}, "attack": {"steps": 2, "step_size": .1}},
         "search": {"steps": 10, "step_size": .05}, "verify": {"type": "APGD", "steps": 10, "targets": 2}}


def sized(**changes):
    """The smoke profile with arms and sizes that are known here; changes: of the notebook's section."""
    return load(S, {**SIZES, **changes}, {"networks.threat.eps": .15, "networks.data.test": IMAGES})


# kind: clean and robust accuracy, robust accuracy into the reference of its front and of its twin's, CKA with the
# reference, alignment as a share of the ceiling
USUAL = {
    "N": (.97, .02, .22, .20, .40, .20), "R": (.92, .60, .60, .20, .90, .60), "U": (.10, .05, .20, .20, .20, .00),
    "matched": (.92, .02, .22, .20, .40, .20), "noise": (.95, .30, .40, .20, .60, .30),
    "gradient norm": (.93, .32, .42, .20, .60, .40), "weak": (.96, .20, .30, .20, .50, .30),
    "middle": (.94, .40, .50, .20, .70, .40), "TRADES": (.91, .52, .56, .20, .90, .60),
    "by score": (.93, .30, .25, .20, .45, .60), "by mean": (.90, .45, .30, .20, .50, .60),
    "dense, fine-tuned": (.92, .60, .60, .20, .90, .60), "pruned": (.90, .57, .57, .20, .88, .60),
}


class Known:
    """Stands in for Maps: networks and the reference, with a known CKA of the same layer, and noise by minibatch."""

    def __init__(self, values, number):
        self.values, self.batches, self.sizes = values, BATCHES, (IMAGES // BATCHES,) * BATCHES
        self.views, self.number = (*values, REFERENCE), number

    def between(self, a, b, without=None):
        assert b == REFERENCE and a in self.values
        draw = np.random.default_rng(seed_of("cka", a, self.number)).uniform(-.004, .004, 1 + BATCHES)
        kept = [k for k in range(BATCHES) if k != without]
        return np.where(np.eye(LAYERS, dtype=bool), self.values[a] + draw[0] + draw[1:][kept].mean(), 7.0)


@functools.cache
def outcomes(number, clean, robust):
    return made_up(IMAGES, ("across", number), {"attack": "made up", "seed": "0"}, clean=clean, robust=robust)


def fronts(share, number, which):
    return pd.DataFrame({f"{way} {verdict}": right(share, IMAGES, "across", which, number)
                         for way in ("trained", "matched") for verdict in ("clean", "robust")})


def found(s=None, **changed):
    """A study in a world that differs from the usual one by `changed`: {kind: its numbers}, blanks in kinds as _."""
    s = s or sized()
    numbers = {**USUAL, **{kind.replace("_", " "): value for kind, value in changed.items()}}
    networks, section, seed = given(s, S)
    f = Results(section.own(networks), section, seed, cells_of(s, S))
    low = octave_names(networks.data.shape)[0]
    for c in f.cells:
        kind, n = c.condition.kind, c.repetition
        if kind in DENOISERS:
            continue
        clean, robust, fit, twin, _, share = numbers[kind]
        luck = .0025 * ((seed_of(kind, n) % 5) - 2)  # every network is a little better or worse
        robust = min(1., max(0., robust + luck))
        f.outcomes[c] = {"verify": outcomes(n, clean, robust)}
        if kind in "NR":
            f.outcomes[c]["search"] = f.outcomes[c]["verify"]
        f.fits[c], f.twins[c] = fronts(fit + luck, n, "own"), fronts(twin, n, f"twin of {kind}")
        draw = np.random.default_rng(seed_of("alignment", n)).normal(size=IMAGES)
        f.alignment[c] = pd.DataFrame({"gained": .3 * (share + luck) + .03 * draw, "possible": .3 + .02 * draw})
        f.manifold[c] = pd.DataFrame({f"long, {OFF}": .5 * (1 + .1 * draw), f"long, {ALONG}": 1 + .1 * draw,
                                      f"long, {low}": 2 + .1 * draw, f"long, {WHITE}": 1 + .1 * draw})
    for n in range(section.seeds):
        f.maps[n] = Known({c.condition.kind: numbers[c.condition.kind][4] for c in f.cells
                           if c.repetition == n and c.measures}, n)
    return f


def judged(f, warnings=()):
    """Claim id -> judged, at the profile that tests all."""
    ready, own = evidence(f), claim_preconditions(f)
    assert {*ready} | {*own} <= {c.id for c in PAPER}
    return worlds.judged(PAPER, ready, own, preconditions(f, list(warnings)))


def verdicts(f, **more):
    return {claim: one.verdict for claim, one in judged(f, **more).items()}
