"""Similarity of representations: a small study that is trained and measured."""

import shutil

import numpy as np
import torch

from lib import batch
from lib.papers import settings
from lib.papers.representation_similarity.evidence import evidence
from lib.papers.representation_similarity.measured import MOVED
from lib.papers.representation_similarity.results import measure
from lib.similarity import stored_maps
from lib.similarity.stored_maps import measure_maps
from lib.store import Store
from lib.training import zoo as zoo_module
from lib.training.zoo import Zoo
from lib.values.maps import PerturbedImages, RecipeView
from tests.papers.representation_similarity.world import SECTION, cells


def test_a_small_study_from_networks_to_evidence(tmp_path, monkeypatch):
    """All views are there and named as evidence and tables expect. A second time, after batch jobs have made the maps,
    the notebook makes nothing and finds the same numbers.
    """
    torch.set_num_threads(1)
    monkeypatch.setattr(zoo_module, "sanity_within", lambda *args: [])
    monkeypatch.setattr(zoo_module, "beaten_by_square", lambda *args: [])
    attack = {"steps": 1, "step_size": 0.1}
    s = settings.load("test", {
        "jobs": "networks", "stitching": None, "across_papers": None,
        "networks.data.train": 128, "networks.data.test": 24, "networks.data.holdout": 20,
        "networks.arch.blocks": [1, 1], f"{SECTION}.seeds": 2, f"{SECTION}.arm_seeds": 1, f"{SECTION}.batch": 12,
        f"{SECTION}.search": attack, f"{SECTION}.verify": {"type": "APGD", "steps": 2}, f"{SECTION}.second": ["cka"],
        f"{SECTION}.arms": [{"name": "l2", "group": "threat", "threat": {"norm": "l2", "eps": 0.5}, "attack": attack},
                            {"name": "wide", "group": "architecture",
                             "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1]}}],
        f"{SECTION}.overfitting": {"train": 64, "epochs": 3, "every": 1, "kept_from": 0.3, "seeds": 1,
                                   "training": {"epochs": 3}}})
    store, by_jobs = Store(tmp_path / "store"), Store(tmp_path / "by jobs")
    box, threat, search = Zoo(store), s.networks.threat, s.sections[SECTION].search
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
    shutil.copytree(store.root, by_jobs.root, ignore=shutil.ignore_patterns("maps", "adversarial"))
    monkeypatch.setenv("REPRO_STORE", str(by_jobs.root))
    monkeypatch.setattr(zoo_module, "fit", None)
    jobs = batch.batch_jobs(s, (SECTION,))
    waiting = batch.unfinished(jobs, by_jobs)
    assert {name.removeprefix(f"{SECTION}-") for name in waiting} == {
        "maps-pool", "maps-untrained", "maps-arms", "maps-cka", "adversarial-0", "adversarial-1", "maps-moved-N",
        "maps-moved-R", "maps-overfits", "maps-control"}
    while waiting:
        name = next(name for name, job in waiting.items() if not job["after"] & waiting.keys())
        batch.train_job(s, (SECTION,), name, None)
        waiting = batch.unfinished({name: waiting.pop(name)}, by_jobs) | waiting
    for forbidden in ((zoo_module, "evaluate"), (zoo_module.evaluation, "adversarial"), (stored_maps, "maps")):
        monkeypatch.setattr(*forbidden, None)
    again = measure(Zoo(by_jobs), cells(s), s.networks, s.sections[SECTION], s.seed)
    moved = zip(f.moved.values(), again.moved.values(), strict=True)
    for one, other in ((f.pool, again.pool), (f.arms, again.arms), *moved):
        torch.testing.assert_close(one.terms, other.terms, rtol=0, atol=1e-6, equal_nan=True)
    found = evidence(again)
    for claim, part, instance in [(c, p, i) for c in ready for p in ready[c] for i in ready[c][p]]:
        np.testing.assert_allclose(found[claim][part][instance], ready[claim][part][instance], rtol=0, atol=1e-6)
