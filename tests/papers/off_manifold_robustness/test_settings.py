"""Off-manifold robustness: what the section refuses."""

import numpy as np
import pytest

from lib.papers import settings
from tests.kit.profiles import refused
from tests.papers.off_manifold_robustness.world import EVERY, LETTERS, SWEEPS, TRAINING, S, sized


def in_sweep(which, **differs):
    return {"sweep": (which, differs)}


def letters(**differs):
    return {"changes": {"distractor": {**LETTERS, **differs}}}


ENCODER = {"type": "AutoEncoder", "width": 4}


@pytest.mark.parametrize("change, words", [
    (in_sweep("subspace", tangent=["PCA"]), r"did you mean 'off_manifold_robustness.sweeps\[subspace\].tangents'"),
    (in_sweep("subspace", tangents=["closed for"]), "tangents 'closed for'; did you mean 'closed form'"),
    (in_sweep("subspace", tangents=[]), r"sweeps\[subspace\].tangents = \[\]"),
    (in_sweep("digits", tangents=["closed form"], autoencoder=None, pca=None), "tangents = closed form .* for digits"),
    (in_sweep("digits", tangents=["PCA"]), r"sweeps\[digits\].autoencoder"),
    (in_sweep("digits", autoencoder=None), r"sweeps\[digits\].autoencoder = None"),
    (in_sweep("digits", autoencoder=TRAINING), "autoencoder.arch is missing"),
    (in_sweep("digits", pca=9), r"sweeps\[digits\].pca = 9 .* the auto-encoder's latent size"),
    ({"changes": {"search": {"steps": 1, "step_size": .1}}}, "gates, search and verify = some of them"),
    (in_sweep("digits", pca=None), r"sweeps\[digits\].pca = None"),
    (in_sweep("subspace", pca=4), r"sweeps\[subspace\].pca = 4"),
    (in_sweep("subspace", strengths={}), r"sweeps\[subspace\].strengths"),
    (in_sweep("subspace", strengths={"noize": [1]}), "did you mean .*noise"),
    (in_sweep("subspace", strengths={"noise": [0, 1]}), "strengths.noise = 0.0 .* greater than 0"),
    (in_sweep("subspace", strengths={"pgd": [2, 1]}), r"strengths.pgd = \[2.0, 1.0\]"),
    (in_sweep("digits", controls=["per bath"]), "controls 'per bath'; did you mean 'per batch'"),
    (in_sweep("digits", strengths={"noise": [1]}, controls=["per batch"]), "controls = per batch .* PGD"),
    (in_sweep("digits", strengths={"pgd": [1]}, controls=["reduced lr"]), "controls = reduced lr .* gradient norm"),
    (in_sweep("subspace", sizes=[]), r"sweeps\[subspace\].sizes = \[\]"),
    (in_sweep("subspace", images=401), "images = 401 .* at most the 400 test images"),
    (in_sweep("subspace", draws=0), r"sweeps\[subspace\].draws = 0"),
    (in_sweep("subspace", clean=70), r"sweeps\[subspace\].clean = 70"),
    (in_sweep("subspace", training={**TRAINING, "attack": {"steps": 1, "step_size": .1}}), "training.attack"),
    (in_sweep("ImageNet-64", denoiser=None), r"sweeps\[ImageNet-64\].denoiser = None"),
    ({"networks__denoiser": None}, r"\[digits\].denoiser = None"),
    ({"networks__denoiser.sigma": .7}, "denoiser.sigma = 0.7"),
    ({"changes": {"seeds": 0}}, "off_manifold_robustness.seeds = 0"),
    ({"changes": {"sweeps": []}}, "off_manifold_robustness.sweeps"),
    ({"changes": {"sweeps": [SWEEPS[0], SWEEPS[0]]}}, r"sweeps.name = \[subspace, subspace\] .* different ones"),
    ({"changes": {"theory": {"points": 101}}}, "theory.points = 101 .* at most 100: 4 repetitions"),
    ({"changes": {"theory": {"sigmas": [.1]}}}, r"theory.sigmas = \[0.1\]"),
    (in_sweep("subspace", tangents=["PCA"], pca=4), r"sweeps\[subspace\].tangents"),
    (in_sweep("subspace", data={"name": "line_of_modes"}), r"sweeps\[subspace\].tangents"),
    (in_sweep("subspace", augment="crop-flip"), r"sweeps\[subspace\].augment"),
    (in_sweep("digits", pca=64, tangents=["PCA"], autoencoder=None), r"sweeps\[digits\].pca = 64"),
    (in_sweep("digits", tangents=["local PCA"], autoencoder=None, neighbours=8), r"sweeps\[digits\].neighbours = 8"),
    (in_sweep("digits", autoencoder={**TRAINING, "arch": {**ENCODER, "latent": 64}}, tangents=["auto-encoder"],
              pca=None), "latent = 64"),
    (in_sweep("digits", images=1), r"sweeps\[digits\].images = 1"),
    (in_sweep("digits", name="digits_letters"), "digits_letters"),
    (in_sweep("digits", name="a/b"), "a/b"),
    (letters(data=[{"name": "digits"}]), "distractor.data"),
    (letters(images=601), "distractor.images = 601"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with refused(words):
        sized(**change)


# ---------------------------------------------------------------- a made-up study with known numbers


@pytest.mark.parametrize("profile", [
    "test", *(pytest.param(name, marks=pytest.mark.xfail(strict=True, reason="levels by default end with 2 and 3"))
              for name in EVERY if name != "test")])
def test_levels_of_noise_are_evenly_spaced_in_logarithms(profile):
    """As the protocol of C10a says: the mean over levels is an area over its width then."""
    noise = settings.load(profile).sections[S].distractor.noise
    assert np.diff(np.log(noise)) == pytest.approx(np.log(noise[1] / noise[0]), rel=.1)
