"""Off-manifold robustness: a small study that is trained and measured."""

import copy

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lib.data import closed_forms
from lib.manifold import sensitivity, spaces
from lib.papers import settings
from lib.papers.off_manifold_robustness import networks, tables
from lib.papers.off_manifold_robustness import results as study
from lib.papers.off_manifold_robustness.evidence import evidence
from lib.papers.off_manifold_robustness.networks import (
    MANIFOLD,
    NONE,
    PER_BATCH,
    PER_IMAGE,
    SCORE,
    STANDARD,
    UNTRAINED,
    Condition,
)
from lib.papers.off_manifold_robustness.results import BAYES, measure
from lib.training import zoo as zoos
from lib.training.zoo import Zoo
from tests.kit.zoos import tiny_zoo
from tests.papers.off_manifold_robustness.world import EXACT, LETTERS, S, given

REAL = {
    f"{S}.sweeps": [
        {**EXACT, "name": "subspace", "data": {"name": "gaussian_subspace", "train": 200, "test": 60}, "images": 20,
         "strengths": {"noise": [.5]}, "draws": 2},
        {"name": "digits", "arch": {"type": "CNN", "width": 8, "depth": 2}, "training": {"epochs": 1},
         "strengths": {"gradient_norm": [.1, 1e12], "pgd": [.5]}, "attack_steps": 1, "images": 20, "draws": 1,
         "tangents": ["auto-encoder", "PCA", "local PCA"], "pca": 8, "neighbours": 20, "sizes": [2, .5], "clean": .9,
         "controls": ["per batch", "reduced lr"],
         "autoencoder": {"arch": {"type": "AutoEncoder", "width": 4, "latent": 8}, "epochs": 1}}],
    f"{S}.distractor": {**LETTERS, "data": [{"name": "digits_letters", "train": 100, "test": 40}], "images": 30,
                        "training": {"epochs": 1}, "attack_steps": 1},
    f"{S}.theory": {"sigmas": [.001, .004], "points": 10},
    "networks.normal.epochs": 1, "networks.robust.epochs": 1,
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A store, settings, and what is measured the first time."""
    s = settings.load("test", REAL)
    zoo = tiny_zoo(tmp_path_factory.mktemp("store"), s, S)
    return zoo, s, measure(zoo, networks.cells(*given(s)), *given(s))


def cell_of(f, where, kind, strength=0.):
    cell, = [c for c in f.cells if c.condition == Condition(where, kind, strength)]
    return cell


def test_all_that_is_planned_is_trained_and_measured(real):
    zoo, s, f = real
    lost = cell_of(f, "digits", "gradient norm", 1e12), cell_of(f, "digits", "reduced lr", 1e12)
    assert set(f.failed) == set(lost) and all("loss of step" in why for why in f.failed.values())
    generative = {c for c in f.cells if c.condition.kind in (MANIFOLD, SCORE)}
    letters_ = {c for c in f.cells if c.condition.where == "digits_letters"}
    assert set(f.outcomes) == set(f.cells) - generative - set(lost) and set(f.distractor) == letters_
    assert set(f.sensitivity) == set(f.outcomes) - letters_
    assert set(f.last_epoch) == {c for c in f.outcomes if c.recipe.epochs}
    trained = {c.recipe.key for c in f.cells if c.recipe.epochs} - {c.recipe.key for c in lost}
    assert set(zoo.trained_here) == trained and len(zoo.trained_here) == len(trained)
    for c, table in f.sensitivity.items():
        sweep = f.sweep(c.condition.where)
        wanted = {"on", "off", "l2 on", "l2 off", "inside", "alignment", "shuffled pairs", "white noise"}
        more = set() if sweep.closed_form else {
            "matched", "high-pass", "sum of logits", "sum of logits, shuffled pairs", "score, high-pass",
            "inside, lowest frequencies", "inside, another image's", "inside, PCA", "inside, local PCA"}
        more |= {f"{side}, {name}, {size:g}" for side in ("on", "off") for name in sweep.tangents
                 for size in sweep.sizes}
        found = set(table) - {"1 - LPIPS", "1 - LPIPS, shuffled pairs", "other"}
        assert found == wanted | more | {"index", "label"} and len(table) == 20
        assert table.notna().all(axis=None)
        changes = table[[name for name in table if name.startswith(("on", "off", "matched", "other"))]]
        assert changes.stack().between(0, 1).all() and (changes.mean() > 0).all()
        cosines = ["alignment", "shuffled pairs", "white noise"]
        assert table[cosines].stack().between(-1, 1).all() and table.filter(like="inside").stack().between(0, 1).all()
        assert (table["on"] == table[f"on, {sweep.tangents[0]}, {sweep.sizes[0]:g}"]).all()
    for table in f.distractor.values():
        assert len(table) == 30 and table.energy.between(0, 1).all() and table.notna().all(axis=None)
        assert 0 < table.above.mean() < 1
    assert set(f.matching) == {"digits"} and "misplaced" in f.matching["digits"][2]
    assert set(f.quality) == {"subspace", "digits"} and len(f.quality["digits"]) == 5


def test_a_second_time_everything_comes_from_the_store(real, monkeypatch):
    first, s, f = real

    def refuse(*args, **options):
        raise AssertionError("this was measured before")

    for name in ("output_change", "noise_changes", "rho1", "rho2", "normal_draws", "orthogonal_draws"):
        monkeypatch.setattr(sensitivity, name, refuse)
    for name in ("decoder_tangents", "global_pca", "local_pca"):
        monkeypatch.setattr(spaces, name, refuse)
    for name in ("fit", "evaluate"):
        monkeypatch.setattr(zoos, name, refuse)
    again = Zoo(first.store, allowed=first.allowed)
    g = measure(again, networks.cells(*given(s)), *given(s))
    assert not again.trained_here and g.failed == f.failed and g.quality == f.quality
    assert g.last_epoch == f.last_epoch
    pd.testing.assert_frame_equal(g.theory, f.theory)
    for one, other in ((g.sensitivity, f.sensitivity), (g.distractor, f.distractor)):
        assert set(one) == set(other)
        for c in one:
            pd.testing.assert_frame_equal(one[c], other[c])
    assert all(g.measured(c).table.equals(f.measured(c).table) for c in f.outcomes)
    assert len(g.outcomes) == len(f.outcomes)
    for table in (tables.networks, tables.distractor, tables.energies, tables.quality):
        pd.testing.assert_frame_equal(table(g), table(f))
    assert g.matching == f.matching and set(evidence(g)) == set(evidence(f)) >= {"C1", "C2", "C3a", "C3b", "C10a"}


def test_what_a_measurement_depends_on_is_in_its_key(real, monkeypatch):
    first, s, f = real
    measured = []
    inside = sensitivity.inside
    monkeypatch.setattr(sensitivity, "inside", lambda gradient, tangents: measured.append(
        tuple(gradient.shape[1:])) or inside(gradient, tangents))
    shorter = copy.deepcopy(REAL)
    shorter[f"{S}.sweeps"][0]["sizes"] = [.5]
    t = settings.load("test", shorter)
    g = measure(Zoo(first.store), networks.cells(*given(t)), *given(t))
    assert measured == [(1, 8, 16)] * 3, "those of the other sweep are the same"
    one, other = (study_.sensitivity[cell_of(study_, "subspace", NONE)] for study_ in (f, g))
    assert (other["on"] < one["on"]).mean() > .8


def test_steps_and_noise_on_closed_forms_are_in_units_of_their_space(real):
    zoo, s, f = real
    cell = cell_of(f, "subspace", "noise", .5)
    net, form = zoo.obtain(cell.recipe).net, closed_forms.of("gaussian_subspace")
    images = zoo.images(cell.recipe.data, "test").take(slice(0, 20))
    points = form.points(images.pixels())
    noise = sensitivity.normal_draws(images.pixels(), images.indices, 2, "steps")
    with torch.no_grad():
        along = F.normalize(noise @ form.basis.float() @ form.basis.float().T, dim=2)
        p = net(form.pixels(points)).softmax(1)
        moved = [(net(form.pixels(points + step)).softmax(1) - p).abs().sum(1) / 2 for step in along]
    assert f.sensitivity[cell]["on"].to_numpy() == pytest.approx(torch.stack(moved).mean(0).numpy(), rel=1e-3)
    rows = f.theory[(f.theory.kind == "noise 0.5") & (f.theory["where"] == "subspace")]
    x = form.points(zoo.images(cell.recipe.data, "test").take(slice(0, 10)).pixels().double())
    of_points = copy.deepcopy(net).double()
    draws = sensitivity.orthogonal_draws(form.pixels(x), zoo.images(cell.recipe.data, "test").indices[:10], "theory")
    off = draws - draws @ form.basis @ form.basis.T

    def change(steps_):
        with torch.no_grad():
            p = of_points(form.pixels(x)).softmax(1)
            return sum((of_points(form.pixels(x + step)).softmax(1) - p).square().sum() for step in (*steps_, *-steps_))

    for row in rows.itertuples():
        assert row.rho1 == pytest.approx((change(row.sigma * off) / change(row.sigma * draws)).item(), rel=1e-6)


def test_where_all_tangent_spaces_are_one_there_is_no_other_images(real):
    _, _, f = real
    assert "other" in f.sensitivity[cell_of(f, "digits", NONE)]
    assert "other" not in f.sensitivity[cell_of(f, "subspace", NONE)]


def test_every_repetition_of_the_proof_has_points_of_its_own(real):
    first, _, _ = real
    s = settings.load("test", {**REAL, f"{S}.seeds": 2})
    zoo, exact = Zoo(first.store), [c for c in networks.cells(*given(s)) if c.condition.where == "subspace"]
    f, form = measure(zoo, exact, *given(s)), closed_forms.of("gaussian_subspace")
    for seed, part in ((0, slice(0, 10)), (1, slice(10, 20))):
        cell, = [c for c in f.of(where="subspace", kind=NONE) if c.repetition == seed]
        net = copy.deepcopy(zoo.obtain(cell.recipe).net).double()
        images = zoo.images(cell.recipe.data, "test").pixels().double()[part]
        of_part = sensitivity.rho2(net, images, spaces.Tangents(form.tangents(images)))
        rows = f.theory[(f.theory["where"] == "subspace") & (f.theory.kind == NONE) & (f.theory.seed == seed)]
        assert len(rows) == 2 and rows.rho2.to_numpy() == pytest.approx(of_part.pooled, rel=1e-9)
        assert rows["worst rho2"].to_numpy() == pytest.approx(of_part.per_image.max().item(), rel=1e-9)


def test_the_bayes_classifier_is_robust_and_aligned(real):
    _, _, f = real
    bayes = f.theory[f.theory.kind == BAYES]
    assert len(bayes) == 2 and (bayes["worst rho2"] < 1e-20).all() and (bayes.rho1 < 1e-15).all()
    assert set(f.theory.kind) == {NONE, "noise 0.5", BAYES}
    trained = f.theory[f.theory.kind != BAYES]
    assert trained.rho2.between(.01, 1).all() and (trained["worst rho2"] >= trained.rho2).all()


def test_pictures_are_of_different_classes_and_leave_out_what_diverged(real):
    zoo, s, f = real
    shown = [(NONE, 0.), ("gradient norm", .1), ("gradient norm", 1e12)]
    got = study.pictures(zoo, f, "digits", shown, 4)
    assert got.images.shape == got.score.shape == got.class_score.shape == (4, 1, 8, 8)
    assert list(got.gradients) == shown[:2] and got.gradients[NONE, 0.].shape == (4, 1, 8, 8)
    exact = study.pictures(zoo, f, "subspace", [(NONE, 0.)], 4)
    assert exact.score is None and exact.class_score.shape == (4, 1, 8, 16)
    form = closed_forms.of("gaussian_subspace")
    bayes = torch.from_numpy(exact.class_score).flatten(1).double()
    assert torch.allclose(bayes @ form.basis @ form.basis.T, bayes, atol=1e-5), "along the manifold"
    images, gradients = study.letter_pictures(zoo, f, "digits_letters", 3)
    assert images.shape == (3, 1, 16, 8) and set(gradients) == {UNTRAINED, STANDARD, PER_IMAGE, PER_BATCH}
