"""Similarity of representations: a small study that is trained and measured."""

import numpy as np
import torch

from lib.papers import settings
from lib.papers.representation_similarity.evidence import evidence
from lib.papers.representation_similarity.results import MOVED, measure
from lib.similarity import stored_maps
from lib.similarity.stored_maps import PerturbedImages, RecipeView, measure_maps
from lib.store import Store
from lib.training import zoo as zoo_module
from lib.training.zoo import Zoo
from tests.papers.representation_similarity.world import SECTION, cells


def test_a_small_study_from_networks_to_evidence(tmp_path, monkeypatch):
    """All views are there and named as evidence and tables expect; a second time nothing is made."""
    torch.set_num_threads(1)
    monkeypatch.setattr(zoo_module, "sanity_within", lambda *args: [])
    monkeypatch.setattr(zoo_module, "beaten_by_square", lambda *args: [])
    attack = {"steps": 1, "step_size": 0.1}
    s = settings.load("test", {
        "stitching": None, "networks.data.train": 128, "networks.data.test": 24, "networks.data.holdout": 20,
        "networks.arch.blocks": [1, 1], f"{SECTION}.seeds": 2, f"{SECTION}.arm_seeds": 1, f"{SECTION}.batch": 12,
        f"{SECTION}.search": attack, f"{SECTION}.verify": {"type": "APGD", "steps": 2}, f"{SECTION}.second": ["cka"],
        f"{SECTION}.arms": [{"name": "l2", "group": "threat", "threat": {"norm": "l2", "eps": 0.5}, "attack": attack},
                            {"name": "wide", "group": "architecture",
                             "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1]}}],
        f"{SECTION}.overfitting": {"train": 64, "epochs": 3, "every": 1, "kept_from": 0.3, "seeds": 1,
                                   "training": {"epochs": 3}}})
    box, threat, search = Zoo(Store(tmp_path)), s.networks.threat, s.sections[SECTION].search
    f = measure(box, cells(s), s.networks, s.sections[SECTION], s.seed)
    assert set(f.pool.views) == {f"{kind}{seed}" for kind in ("N", "R", "M-", "M+", "U") for seed in (0, 1)}
    assert set(f.untrained.views) == {"U0", "U1", "U, 20", "U, 21"}
    assert set(f.second["cka"].views) == set(f.pool.views) - {"U0", "U1"}
    assert set(f.arms.views) == {"N0", "R0", "l20", "N wide0", "R wide0"}
    assert set(f.moved) == {(kind, seed) for kind in "NR" for seed in (0, 1)}
    assert f.moved["R", 1].views == ("clean", *MOVED) and f.second["cka"].exact
    assert {key: maps_.views for key, maps_ in f.runs.items()} == {
        (kind, 0, split): views for kind, views in (("overfits", ("1", "2", "3")), ("control", ("1", "2")))
        for split in ("test", "train")}
    assert (f.runs["control", 0, "train"].sizes, f.runs["overfits", 0, "test"].sizes) == ((12, 12), (12, 12))
    names = {c: f"{c.condition.kind}{c.repetition}" for c in f.cells if c.condition.epoch is None}
    got = {name: set(f.outcomes[c]) for c, name in names.items()}
    assert got["N0"] == {"clean", "train", "search"} and got["R1"] == got["N0"] | {"verify"}
    assert got["R0"] == got["R1"] | {"restart"} and got["l20"] == {"clean", "search", "own"}
    assert all({"clean", "search", "holdout"} == set(f.outcomes[c]) for c in f.cells if c not in names)
    train = next(f.outcomes[c]["train"] for c in f.cells if c.condition.kind == "M+")
    assert len(train.table) == 128
    ready = evidence(f)
    of_all = {"C1a", "C2a", "C2b", "C4a", "C4b", "C4c", "C4d", "C4e", "C5", "C9a"}
    assert {claim for claim, parts in ready.items() if parts} - {"C1b", "C9c"} == of_all
    assert all(np.isfinite(v).all() for parts in ready.values() for part in parts.values() for v in part.values())
    nets = {name: c.recipe for c, name in names.items()}
    for name, source in (("own", "R0"), ("of N", "N1"), ("of R", "R1"), ("noise", "R0")):  # of another repetition
        moved = PerturbedImages(nets[source], threat, search, noise=name == "noise")
        direct = measure_maps(box, [RecipeView("clean", nets["R0"]), RecipeView("moved", nets["R0"], moved)], batch=12)
        np.testing.assert_allclose(f.moved["R", 0].between("clean", name), direct.between("clean", "moved"), rtol=1e-5)
    monkeypatch.setattr(zoo_module, "fit", None)
    monkeypatch.setattr(zoo_module, "evaluate", None)
    monkeypatch.setattr(stored_maps, "maps", None)
    again = evidence(measure(Zoo(Store(tmp_path)), cells(s), s.networks, s.sections[SECTION], s.seed))
    assert all(np.array_equal(again[c][p][i], v) for c in ready for p in ready[c] for i, v in ready[c][p].items())
