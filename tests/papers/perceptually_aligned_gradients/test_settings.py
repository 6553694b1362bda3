"""Perceptually aligned gradients: what the section refuses."""

import pytest

from lib.papers import settings
from lib.papers.perceptually_aligned_gradients.networks import CENTRED, HEURISTICS, RANDOM, SCORE, VANILLA
from lib.statistics import clopper_pearson
from tests.kit.profiles import refused
from tests.papers.perceptually_aligned_gradients.world import (
    BOTH,
    EVERY,
    PAPER,
    STUDIES,
    TRAINING,
    S,
    cells_of,
    named_by,
    sized,
    study_of,
)

SMALL = {"arch": {"type": "DenoisingMLP", "width": 16, "depth": 1}, "epochs": 1}


def at(which, **differs):
    return {"of": (which, differs)}


def adversarial(**differs):
    return at("digits", adversarial={**STUDIES[0]["adversarial"], **differs})


def section(name, value):
    return {"changes": {name: value}}


ATTACK = {"steps": 1, "step_size": .1}


@pytest.mark.parametrize("change, words", [
    (section("seed", 3), "unknown .*'perceptually_aligned_gradients.seed'; did you mean .*seeds"),
    (section("seeds", 0), "perceptually_aligned_gradients.seeds = 0 .* from 1 to 100"),
    (section("studies", []), r"studies.name = \[\] .* one or more"),
    (section("studies", [STUDIES[1]] * 2), r"name = \[digits ViT, digits ViT\] .* different ones"),
    (section("curve", [1]), r"curve = \[1.0\] .* 2 or more increasing"),
    (section("curve", [8, 1]), r"curve = \[8.0, 1.0\] .* increasing"),
    (section("query_images", 1), "query_images = 1 .* at least 2"),
    (section("query", {"queries": 0}), "queries = 0"),
    (section("verify", {"type": "APGD", "targets": 10}), "verify.targets = 10 .* less than the 10 classes"),
    (section("toy.data", {"name": "digits"}), "toy.data.name = digits .* line_of_modes"),
    (section("toy.far", 14), r"toy.far = 14.* at least eps \(15\)"),
    (section("toy.controls", ["permuted images"]), "toy.controls 'permuted images'; did you mean 'permuted classes'"),
    (section("toy.training.attack", ATTACK), "toy.training.attack = .* left out"),
    (at("digits", name="a/b"), "name = a/b .* letters, digits"),
    (at("digits", name="toy"), "name = toy .* another one"),
    (at("digits", wieghts={}), "did you mean '.*weights'"),
    (at("digits", weights={}, adversarial=None), r"\[digits\].weights = .* one realisation"),
    (at("digits", weights={"scores": [1]}), "did you mean '.*score'"),
    (at("digits", weights={"score": [0]}), "weights.score = 0.* greater than 0"),
    (at("digits", training={**TRAINING, "attack": ATTACK}), r"studies\[digits\].training.attack = .* left out"),
    (at("digits", threats=[]), r"studies\[digits\].threats = \[\] .* l2 first"),
    (at("digits", threats=BOTH[::-1]), r"studies\[digits\].threats = \['linf', 'l2'\] .* l2 first"),
    (at("digits", threats=[BOTH[0]] * 2), r"studies\[digits\].threats = \['l2', 'l2'\] .* each once"),
    (at("digits", threats=[BOTH[0], {"norm": "jpeg", "eps": 1}]), r"\[digits\].threats = .*jpeg.* of linf, l2, l1"),
    (at("digits", threats=[{"norm": "l2", "eps": 0}], adversarial=None), r"\[digits\].threats.eps = 0 .* greater"),
    (at("digits ViT", threats=[{**BOTH[0], "per": "batch"}]), r"\[digits ViT\].threats.per = batch .* image by"),
    (at("digits ViT", threats=[{**BOTH[0], "box": False}]), r"studies\[digits ViT\].threats.box = False"),
    (at("digits", weights={"permuted_clases": [1]}), "did you mean '.*permuted_classes'"),
    (at("CIFAR-10", weights={"class_mean": [1], "logit": [1], "permuted_images": [1]}),
     r"studies\[CIFAR-10\].weights.score = none .* given for permuted images, logit"),
    (at("CIFAR-10", weights={"class_mean": [1]}, adversarial={"eps": [1, .1], "weights": [1]}),
     "weights.score = none .* given for adversarial.weights"),
    (at("digits ViT", weights={"class_mean": [1]}), "weights.score = none .* given for first_weight"),
    (at("digits ViT", weights={"score": [1], "smooth_gradient_norm": [1]}),
     r"studies\[digits ViT\].arch = ViT.* one that has softplus"),
    (at("digits ViT", first_weight=-1), r"studies\[digits ViT\].first_weight = -1.* at least 0"),
    (at("digits", weights={"score": [.3, .03, 3]}), r"weights.score = \[0.3, 0.03, 3.0\] .* increasing"),
    (adversarial(seeds=2), r"studies\[digits\].adversarial.seeds = 2 .* at least the 3 of all others"),
    (adversarial(eps=[.5]), r"studies\[digits\].adversarial.eps = 1 .* each of the 2 threats"),
    (adversarial(eps=[.5, "1/0"]), "adversarial.eps = '1/0' is not a number"),
    (adversarial(eps=[.5, 2]), r"studies\[digits\].adversarial.eps = 2 .* at most 1 for linf"),
    (adversarial(steps=0), "adversarial.steps = 0 .* at least 1"),
    (adversarial(longer=.5), "adversarial.longer = 0.5 .* at least 1, or null"),
    (adversarial(weights=[]), "adversarial.longer = 1.5 .* null where no weights are given"),
    (at("digits", clean=90), r"studies\[digits\].clean = 90.* from 0 to 1"),
    (at("digits", draws=-1), r"studies\[digits\].draws = -1 .* at least 0"),
    (at("digits", images=601), r"studies\[digits\].images = 601 .* at most the 400 test images"),
    (at("CIFAR-10", generated=1001), r"studies\[CIFAR-10\].generated = 1001 .* at most the 1000 test images"),
    (at("digits", classes=0), r"studies\[digits\].classes = 0 .* at least 1, or null"),
    (at("digits", classes=11), r"studies\[digits\].classes = 11 .* from 1 to 10"),
    (at("digits", sample=100), r"studies\[digits\].sample = 100 .* from 2 to 99"),
    (at("digits", data={"name": "curved_torus"}), r"\[digits\].data = curved_torus .* not points in closed form"),
    (at("digits ViT", data={"name": "digits"}, weights={"score": [.1, 1]}),
     r"studies\[digits ViT\].data.holdout = 0 .* at least 1"),
    (at("CIFAR-10", data={"name": "cifar10"}, weights={"class_mean": [1], "gradient_norm": [1, 2]}),
     r"studies\[CIFAR-10\].data.holdout = 0"),
    (at("CIFAR-10", denoiser=None), r"studies\[CIFAR-10\].denoiser = None .* given for cifar10"),
    ({"networks__denoiser": None}, r"studies\[digits\].denoiser = None"),
    (at("CIFAR-10", denoiser={**SMALL, "sigma": .7}), "denoiser.sigma = 0.7 .* between low and high"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with refused(words):
        sized(**change)


def test_what_needs_nothing_held_out_and_no_denoiser_is_asked_for_neither():
    plain = {"data": {"name": "cifar10"}, "weights": {"class_mean": [1], "one_image": [2]}, "adversarial": None,
             "denoiser": None}
    s = sized(of=("CIFAR-10", plain))
    assert not study_of(s, "CIFAR-10").scored
    assert {named_by(c)[1:3] for c in cells_of(s) if c.condition.where == "CIFAR-10"} == {
        (VANILLA, 0), ("one image", 2.), ("class mean", 1.)}


def test_weights_are_named_as_tables_name_them(planned):
    every = dict(zip((*HEURISTICS, *CENTRED), ((.1,), (.2,), (.3,), (.4,), (.5,)), strict=True))
    found = study_of(planned, "digits").weights.of
    assert {**found, **every} == found and found[SCORE] == (.03, .3, 3.) and found["gradient norm, softplus"] == (1.,)
    assert study_of(planned, "CIFAR-10").weights.of == {"class mean": (.5,), SCORE: (1.,), RANDOM: (.5,)}


# ---------------------------------------------------------------- a made-up study with known numbers


@pytest.mark.parametrize("profile", EVERY)
def test_query_images_are_enough_to_decide_that_nothing_is_left(profile):
    s = settings.load(profile)
    margins = {part.id: abs(part.margin) for part in PAPER["C9"].parts}
    if profile in PAPER["C9"].scope:
        few = s.sections[S].query_images
        assert clopper_pearson(0, few).high < min(margins.values())
