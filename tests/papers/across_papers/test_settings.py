"""Across the papers: what the section refuses."""

import pytest

from tests.kit.profiles import load, refused
from tests.papers.across_papers.world import ARMS, IMAGES, SIZES, S, sized


def arm(**changes):
    return [*ARMS, {"name": "new", "training": "PGD-AT", **changes}]


@pytest.mark.parametrize("change, words", [
    ({"arms": arm(training="PGD")}, "did you mean 'PGD-AT'"),
    ({"arms": arm(name="weak")}, r"arms.name = .* different ones"),
    ({"arms": arm(name="pruned")}, "kinds that are there"),
    ({"arms": arm(training="noise")}, r"arms\[new\].strength .* given for noise"),
    ({"arms": arm(strength=1)}, r"arms\[new\].strength = 1.* left out for PGD-AT"),
    ({"arms": arm(training="normal", threat={"norm": "linf", "eps": .1})}, "threat .* left out for normal"),
    ({"arms": arm(threat={"norm": "l2", "eps": 1})}, "in linf, the pool's norm"),
    ({"pruning.keep": 1}, "between 0 and 1"),
    ({"images": 401}, "from two minibatches of 100 to the 400 test images"),
    ({"images": 150}, "from two minibatches of 100 to the 400 test images"),
    ({"classes": 11}, "at most the 10 classes of digits"),
    ({"verify.targets": 10}, "less than the 10 classes"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with refused(words):
        sized(**change)


def test_alignment_needs_a_denoiser():
    others = {"networks.denoiser": None, "networks.data.test": IMAGES, "perceptually_aligned_gradients": None,
              "off_manifold_robustness": None}
    with refused("across_papers.denoiser = None .* two of them agree"):
        load(S, SIZES, others)
