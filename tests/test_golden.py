"""The golden training: what a fixed recipe gives, for this version of the numerics.

When this fails and the change of results was meant, raise NUMERICS in lib/recipe.py (stored networks are then made
again) and note the new figures here. Tolerances are wider than differences between machines, narrower than those that a
changed loss, attack, augmentation or order of images makes.
"""

import pytest
import torch

from lib.data import load
from lib.models import build
from lib.recipe import (
    NUMERICS,
    PGD,
    TRADES,
    Adversarial,
    CrossEntropy,
    Data,
    Optimiser,
    Recipe,
    ResNet,
    Schedule,
    Threat,
)
from lib.training.loop import fit

THREAT, ATTACK = Threat("linf", "0.15"), PGD(2, "0.1")
OBJECTIVES = {
    "clean": CrossEntropy(),
    "adversarial": Adversarial(THREAT, ATTACK, 0.5),
    "trades": TRADES(THREAT, ATTACK),
}
GOLDEN = {1: {"clean": [2.371089, 2.283727], "adversarial": [2.410222, 2.383481], "trades": [2.36025, 2.30099]}}


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_training_gives_what_it_gave(name):
    recipe = Recipe(
        Data("digits", train=256),
        ResNet(16, (1, 1)),
        OBJECTIVES[name],
        epochs=2,
        batch_size=64,
        augment="crop",
        optimiser=Optimiser(lr=0.05),
        schedule=Schedule("onecycle"),
    )
    assert NUMERICS in GOLDEN, "note the golden figures of the new version"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses = [row["loss"] for row in fit(build(recipe), recipe, load(recipe.data, "train"), "cpu")]
    finally:
        torch.set_num_threads(threads)
    assert losses == pytest.approx(GOLDEN[NUMERICS][name], rel=2e-3)
