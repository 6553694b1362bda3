"""The golden training: what a fixed recipe gives, for this version of the numerics.

When this fails and the change of results was meant, raise NUMERICS in lib/values/recipe.py (stored networks are then
made
again) and note the new figures here. Tolerances are wider than differences between machines, narrower than those that a
changed loss, attack, augmentation or order of images makes.
"""

from dataclasses import replace

import pytest
import torch

from lib.data import load
from lib.models import build
from lib.training.evaluation import evaluate
from lib.training.loop import fit
from lib.values.architectures import ResNet
from lib.values.attacks import APGD, PGD
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, CrossEntropy
from lib.values.recipe import NUMERICS, Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT, ATTACK = Threat("linf", "0.15"), PGD(2, "0.1")
OBJECTIVES = {
    "clean": CrossEntropy(),
    "adversarial": Adversarial(THREAT, ATTACK, 0.5),
    "trades": TRADES(THREAT, ATTACK),
}
GOLDEN = {1: {"clean": [2.371089, 2.283727], "adversarial": [2.410222, 2.383481], "trades": [2.36025, 2.30099]}}
GOLDEN_BROKEN = {1: {PGD: 42, APGD: 93}}


def recipe_of(name: str) -> Recipe:
    return Recipe(
        Data("digits", train=256),
        ResNet(16, (1, 1)),
        OBJECTIVES[name],
        epochs=2,
        batch_size=64,
        augment="crop",
        optimiser=Optimiser(lr=0.05),
        schedule=Schedule("onecycle"),
    )


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_training_gives_what_it_gave(name):
    recipe = recipe_of(name)
    assert NUMERICS in GOLDEN, "note the golden figures of the new version"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses = [row["loss"] for row in fit(build(recipe), recipe, load(recipe.data, "train"), "cpu")]
    finally:
        torch.set_num_threads(threads)
    assert losses == pytest.approx(GOLDEN[NUMERICS][name], rel=2e-3)


@pytest.mark.parametrize("attack", [PGD(3, "0.01"), APGD(3, targets=2)], ids=["PGD", "APGD"])
def test_attacks_break_what_they_broke(attack):
    """On an untrained network, whose weights do not depend on the machine's arithmetic."""
    recipe = replace(recipe_of("clean"), epochs=0)
    images = load(replace(recipe.data, test=200), "test")
    net = build(recipe).train()
    with torch.no_grad():  # statistics that let classes differ; its own answers as labels, so that all are right
        net(images.pixels())
        images = replace(images, labels=net.eval()(images.pixels()).argmax(1))
    found = evaluate(net, images, Threat("linf", "0.03"), attack, seed_parts=("golden",))
    broken = int((~found.table["robust"]).sum())
    assert broken == pytest.approx(GOLDEN_BROKEN[NUMERICS][type(attack)], abs=2)
