"""Perceptually aligned gradients: a small study that is trained and measured."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib.alignment import generation, measures
from lib.attacks.pgd import pgd
from lib.gradients import scores
from lib.papers import settings
from lib.papers.perceptually_aligned_gradients import networks, pictures, tables
from lib.papers.perceptually_aligned_gradients import results as study
from lib.papers.perceptually_aligned_gradients.evidence import aligned, evidence
from lib.papers.perceptually_aligned_gradients.networks import (
    CLASSES,
    HEURISTICS,
    JUDGE,
    NORM,
    SCORE,
    TEACHER,
    TOY,
    VANILLA,
    Condition,
)
from lib.papers.perceptually_aligned_gradients.results import measure
from lib.papers.perceptually_aligned_gradients.truths import INDEPENDENT, SHUFFLED, Truths
from lib.training import evaluation
from lib.training import zoo as zoos
from lib.training.zoo import Zoo
from lib.values.attacks import PGD
from lib.values.objectives import Aligned
from lib.values.threats import Threat
from tests.kit.zoos import tiny_zoo
from tests.papers.perceptually_aligned_gradients.world import (
    BOTH,
    S,
    cells_of,
    given,
    kind_of,
    only,
    study_of,
)


def networks_of(s, name):
    return networks.StudyNetworks(s.networks, study_of(s, name), s.seed)


SLOW = {"epochs": 6, "optimiser": {"name": "adam", "lr": .01}}
ONE = {"name": "digits", "arch": {"type": "CNN", "width": 8, "depth": 2}, "training": SLOW, "threats": BOTH,
       "weights": {"class_mean": [.3], "nearest_neighbour": [.3], "score": [.3], "permuted_classes": [.3],
                   "gradient_norm": [1e12]},
       "classes": 1, "sample": 10, "clean": .9, "far": 3, "generated": 4, "images": 20,
       "adversarial": {"eps": [.5, .1], "steps": 1, "weights": [.1]}}
CHEAP = {kind: weights for kind, weights in ONE["weights"].items() if kind != "gradient_norm"}
REAL = {f"{S}.seeds": 2, f"{S}.toy.data": {"name": "line_of_modes", "train": 600, "test": 60},
        f"{S}.toy.controls": [], f"{S}.toy.training.epochs": 40,
        f"{S}.studies": [ONE], f"{S}.curve": [1, 8], f"{S}.query_images": 20}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A store, settings, and what is measured the first time."""
    s = settings.load("test", REAL)
    zoo = tiny_zoo(tmp_path_factory.mktemp("store"), s, S)
    return zoo, s, measure(zoo, cells_of(s), *given(s))


def right(f, c):
    """Whether each test image is classified correctly, bool [m]."""
    return f.measured(c).table["clean"].to_numpy()


def test_all_that_is_planned_is_trained_and_measured(real):
    zoo, s, f = real
    lost = {c for c in f.cells if c.condition.kind == NORM}
    assert set(f.failed) == lost and len(lost) == 2 and all("loss of step" in why for why in f.failed.values())
    classifiers = {c for c in f.cells if c.condition.kind not in (TEACHER, JUDGE)} - lost
    toy = {c for c in classifiers if c.condition.where == TOY}
    assert set(f.last_epoch) == classifiers and set(f.toy) == toy and len(toy) == 2
    assert set(f.alignment) == set(f.outcomes) == classifiers - toy
    assert set(zoo.trained_here) == {c.recipe.key for c in f.cells} - {c.recipe.key for c in lost}
    assert set(f.on_holdout) == classifiers - toy
    assert {len(v) for c in f.on_holdout for v in f.on_holdout[c].values()} == {200}
    for c in f.outcomes:
        assert set(f.outcomes[c]) == {"clean", "l2", "linf"} and f.outcomes[c]["clean"] is f.outcomes[c]["linf"]
        assert len(f.measured(c).table) == 100
        truths = [*HEURISTICS, INDEPENDENT, SHUFFLED]
        assert list(f.alignment[c]) == ["index", "label", *(f"{w}, {t}" for t in truths for w in ("own", "others"))]
        assert len(f.alignment[c]) == 20 and f.alignment[c].iloc[:, 2:].abs().max(axis=None) <= 1
        what = {"loss", "cosine", "clamped"} if isinstance(c.recipe.objective, Aligned) else {"loss"}
        assert what <= set(f.last_epoch[c])
    for c in toy:
        assert len(f.toy[c]) == 60 and (f.toy[c].exact <= f.toy[c].PGD).all() and (f.toy[c].far <= f.toy[c].exact).all()
        assert (f.toy[c].PGD <= f.toy[c].right).all()
    assert set(f.ceilings["digits"]) == {"cosine", TEACHER, JUDGE} and all(
        -1 <= value <= 1 for value in f.ceilings["digits"].values())
    assert len(f.quality["digits"]) == 2 and {TEACHER, JUDGE} == {
        what.removeprefix("the ").removesuffix(" beats the best linear filter") for what, _, _ in f.quality["digits"]}


def test_curves_fall_to_the_largest_eps(real):
    _, _, f = real
    assert set(f.curves.kind) == {VANILLA, "class mean", "nearest neighbour", SCORE, CLASSES, "AT l2", "AT linf"}
    for (_, kind, _, seed, norm), rows in f.curves.groupby(["where", "kind", "weight", "seed", "norm"]):
        rows, most = rows.sort_values("eps"), [0, 1, 8] if norm == "l2" else [0, .2, 1]  # a pixel moves by 1 at most
        assert rows.eps.tolist() == pytest.approx(most) and rows.robust.is_monotonic_decreasing
        assert rows.robust.iloc[0] == right(f, only(f.cells, "digits", kind, seed=seed))[:20].mean()
    at_largest = f.curves[f.curves.eps == f.curves.groupby("norm").eps.transform("max")]
    assert len(at_largest) == 28 and (at_largest.robust == 0).all() and (f.curves[f.curves.eps == 0].robust > 0).all()


def test_attacks_that_may_show_masked_gradients_are_tried_on_the_scores_networks(real):
    zoo, s, f = real
    assert {c.condition.kind for c in f.masking} == {SCORE} and {c.repetition for c in f.masking} == {0, 1}
    for c, by_norm in f.masking.items():
        assert list(by_norm) == ["l2", "linf"]
        for threat in study_of(s, "digits").threats:
            ways = by_norm[threat.norm]
            assert set(ways) == {"verify", "square", "FGSM", "PGD", "largest ball", f"from {VANILLA}", "from AT l2"}
            assert {v.shape for v in ways.values()} == {(20,)} and not ways["largest ball"].any()
            assert not any((v & ~right(f, c)[:20]).any() for v in ways.values())
            assert (ways["verify"] == f.outcomes[c][threat.norm].table.robust[:20]).all()
            of_network = (f.curves.kind == SCORE) & (f.curves.seed == c.repetition) & (f.curves.norm == threat.norm)
            at_eps = f.curves[of_network & np.isclose(f.curves.eps, float(threat.eps))]
            assert at_eps.robust.item() == ways["PGD"].mean()
            net, images = zoo.obtain(c.recipe).net, zoo.images(c.recipe.data, "test").take(slice(0, 20))
            for kind in (VANILLA, "AT l2"):
                other = zoo.obtain(only(f.cells, "digits", kind, seed=c.repetition).recipe).net
                moved = evaluation.adversarial(other, images, threat, study.search(threat), seed_parts=zoos.SEED)
                fooled = net(moved).argmax(1) != images.labels
                assert (ways[f"from {kind}"] == (right(f, c)[:20] & ~fooled.numpy())).all()


def test_the_judge_of_generated_images_is_another_repetitions_robust_network(real):
    zoo, s, f = real
    one = study_of(s, "digits")
    for seed in (0, 1):
        judge = study.independent(f, one, seed)
        assert (judge.condition.kind, judge.repetition) == ("AT linf", 1 - seed)
    assert {*map(kind_of, f.rate)} == {*study.shown(one)} and {v.shape for v in f.rate.values()} == {(4 * 9,)}
    test = zoo.images(networks_of(s, "digits").data, "test").take(slice(0, 4))
    images, targets = study.others_of(test, 10)
    assert (images.view(4, 9, -1) == test.pixels().view(4, 1, -1)).all()
    assert [sorted(row + [label]) for row, label in zip(targets.view(4, 9).tolist(), test.labels.tolist(), strict=True)
            ] == [list(range(10))] * 4
    cell = only(f.cells, "digits", SCORE, seed=1)
    made = pgd(zoo.obtain(cell.recipe).net, images, targets, Threat("l2", 3),
               PGD(30, .25, random_start=False, targeted=True), targets=targets)
    assert (made - images).flatten(1).norm(dim=1).max() <= 3.001
    taken = generation.target_rate(zoo.obtain(study.independent(f, one, 1).recipe).net, made, targets)
    assert (f.rate[cell] == taken.numpy()).all()


class Scripted(nn.Module):
    """Logits that are linear in the pixels, small enough that all classes are about as likely."""

    def __init__(self, ways):
        super().__init__()
        self.ways = nn.Parameter(1e-3 * ways.flatten(1) / ways.flatten(1).norm(dim=1).mean())

    def forward(self, images):
        return images.flatten(1) @ self.ways.T


def test_alignment_is_the_cosine_with_targets_at_test_images(real):
    zoo, s, f = real
    truths = Truths(zoo, networks_of(s, "digits"))
    judge = only(f.cells, "digits", JUDGE).recipe
    test, train = truths.test, zoo.images(judge.data, "train")
    images, labels = test.pixels(), test.labels
    truth = scores.class_score(zoo.obtain(judge).net, images, .25)
    means = torch.stack([train.pixels()[train.labels == c].mean(0) for c in range(10)])
    ways = truth.mean(0) - truth.mean((0, 1))
    net = Scripted(ways)
    table, gradients = truths.aligned(net), (ways - ways.mean(0)).expand(20, -1, -1, -1, -1)
    wanted = {INDEPENDENT: truth, SHUFFLED: torch.cat([truth[-1:], truth[:-1]]),
              "class mean": means - images[:, None]}
    for name, g in wanted.items():
        cosine = torch.cosine_similarity(gradients.flatten(2), g.flatten(2), dim=2)
        own = cosine[range(20), labels]
        assert table[f"own, {name}"].to_numpy() == pytest.approx(own.numpy(), abs=2e-3)
        assert table[f"others, {name}"].to_numpy() == pytest.approx(((cosine.sum(1) - own) / 9).numpy(), abs=2e-3)
    assert table.label.tolist() == labels.tolist() and table["index"].tolist() == test.indices.tolist()


def test_a_network_whose_gradients_are_scores_is_more_aligned_than_others(real):
    zoo, s, f = real
    truths = Truths(zoo, networks_of(s, "digits"))
    truth = truths.by_name()[INDEPENDENT]
    planted = replace(only(f.cells, "digits", SCORE), condition=Condition("digits", SCORE, 9.))
    f = replace(f, alignment=dict(f.alignment))
    f.alignment[planted] = truths.aligned(Scripted(truth.mean(0) - truth.mean((0, 1))))
    mine, plain = (aligned(f, [c]).mean() for c in (planted, only(f.cells, "digits", VANILLA)))
    assert mine > plain + .2 and mine > .3
    mirrored = truths.aligned(Scripted(truth.mean((0, 1)) - truth.mean(0)))
    assert mirrored[f"others, {INDEPENDENT}"].mean() < -.2


def test_what_the_table_of_bounds_says_holds_of_the_targets(real):
    zoo, s, f = real
    table = pictures.bounds(zoo, f, "digits").set_index("truth")
    assert list(table.index) == [*HEURISTICS, INDEPENDENT]
    truths = Truths(zoo, networks_of(s, "digits")).by_name()
    assert table.loc["class mean", "attainable"] == measures.attainable(truths["class mean"])
    assert table.loc["class mean", "between classes"] > .5 > table.loc[INDEPENDENT, "between classes"]


def test_a_second_time_everything_comes_from_the_store(real, monkeypatch):
    first, s, f = real

    def refuse(*args, **options):
        raise AssertionError("this was measured before")

    for of, name in ((Truths, "aligned"), (study, "generated"), (study.toy, "exactly_robust"),
                     (scores, "denoising_error"), (scores, "classified"), (zoos, "fit"), (zoos, "evaluate"),
                     (zoos, "sanity_within"),
                     (study, "evaluate"), (study, "sweep"), (study, "adversarial"), (study, "transferred")):
        monkeypatch.setattr(of, name, refuse)
    again = Zoo(first.store, allowed=first.allowed)
    g = measure(again, cells_of(s), *given(s))
    assert not again.trained_here and g.failed == f.failed and g.quality == f.quality
    for name in ("alignment", "toy"):
        one, other = getattr(g, name), getattr(f, name)
        assert set(one) == set(other)
        for c in one:
            pd.testing.assert_frame_equal(one[c], other[c])
    assert set(g.rate) == set(f.rate) and all((g.rate[c] == f.rate[c]).all() for c in f.rate)
    for table in (tables.networks, tables.toy, tables.masking, tables.added, tables.equal):
        pd.testing.assert_frame_equal(table(g), table(f))
    pd.testing.assert_frame_equal(g.curves, f.curves)
    ready, before = evidence(g), evidence(f)
    assert {"C1a", "C2a", "C2b", "C8a", "C9"} <= set(ready) == set(before)
    assert g.ceilings == f.ceilings
    assert all((ready[c][p][i] == before[c][p][i]).all() for c in ready for p in ready[c] for i in ready[c][p])


def test_what_a_measurement_depends_on_is_in_its_key(real, monkeypatch):
    first, s, f = real
    measured = []
    own, making = Truths.aligned, study.generated
    monkeypatch.setattr(Truths, "aligned", lambda self, net: measured.append("aligned") or own(self, net))
    monkeypatch.setattr(study, "generated", lambda *args: measured.append("generated") or making(*args))
    monkeypatch.setattr(zoos, "fit", None)
    for changes, wanted in (({"images": 10, "far": 2}, {"aligned", "generated"}), ({"generated": 3}, {"generated"}),
                            ({"clean": .5, "vanilla": .1}, set())):
        measured.clear()
        t = settings.load("test", {**REAL, f"{S}.studies": [{**ONE, "weights": CHEAP, **changes}]})
        g = measure(Zoo(first.store), cells_of(t), *given(t))
        assert {*measured} == wanted, changes
        assert {len(table) for table in g.alignment.values()} == {changes.get("images", 20)}


def test_pictures_and_targets_are_of_test_images(real):
    zoo, s, f = real
    got = pictures.pictures(zoo, f, "digits", 2)
    one = study_of(s, "digits")
    assert got.images.shape == (2, 1, 8, 8) and list(got.made) == study.shown(one) == list(got.hits)
    assert {v.shape for v in got.made.values()} == {(2, 10, 1, 8, 8)} and {v.shape for v in got.hits.values()} == {
        (2, 10)}
    away = np.linalg.norm((got.made[SCORE] - got.images[:, None]).reshape(20, -1), axis=1)
    assert away.max() <= 3.001 and away.min() > .1
    image, truths, label = pictures.targets(zoo, f, "digits")
    test = zoo.images(networks_of(s, "digits").data, "test")
    assert (image == test.pixels()[0].numpy()).all() and label == test.labels[0]
    assert list(truths) == [*HEURISTICS, INDEPENDENT] and {v.shape for v in truths.values()} == {(10, 1, 8, 8)}


def test_the_toy_is_attacked_at_its_eps_and_beyond(real):
    zoo, _, f = real
    for c, table in f.toy.items():
        net, test = zoo.obtain(c.recipe).net, zoo.images(c.recipe.data, "test")
        near, far = (study.toy.exactly_robust(net, test.pixels(), test.labels, eps).numpy() for eps in (15., 30.))
        assert (table.exact == near & table.PGD).all() and (table.far == far & table.PGD).all()
        assert table.exact.mean() > table.far.mean(), "else this shows nothing"


def test_the_toys_points_and_maps_are_in_its_own_units(real):
    zoo, s, f = real
    points, classes = pictures.toy_points(zoo, f)
    assert points.shape == (60, 2) and points[:, 1] == pytest.approx(2 * points[:, 0], abs=.01)
    centres = np.round(points[:, 0] / 20 - .25) * 20 + 5
    assert set(classes) == {0, 1} and abs(points[:, 0]).max() > 40 and len(centres)
    maps = pictures.toy_maps(zoo, f, span=60., resolution=5.)
    assert list(maps) == [VANILLA, "nearest neighbour"]
    plane = maps[VANILLA]
    assert (plane.x[0], plane.x[-1], plane.y[0]) == (-60, 60, -96)
    threat = study.toy_threat(f)
    assert (threat.norm, threat.box, threat.eps) == ("l2", False, Fraction(15, 256))
