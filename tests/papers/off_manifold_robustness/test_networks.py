"""Off-manifold robustness: the networks that are planned, and what they are measured under."""

from dataclasses import replace

import pandas as pd
import pytest

from lib import batch, claims
from lib.papers import papers, settings
from lib.papers.off_manifold_robustness import networks
from lib.papers.off_manifold_robustness.evidence import ALL, FEWEST
from lib.papers.off_manifold_robustness.networks import (
    MANIFOLD,
    NONE,
    PER_BATCH,
    PER_IMAGE,
    POOL,
    SCORE,
    STANDARD,
    UNTRAINED,
)
from lib.papers.off_manifold_robustness.settings import CONTROLS
from lib.papers.plan import plan
from tests.papers.off_manifold_robustness.world import (
    EVERY,
    PAPER,
    SWEEPS,
    S,
    given,
    named_by,
    networks_of,
    sized,
)


def test_every_sweep_has_its_networks_of_every_repetition(cells):
    counts = pd.Series([(c.condition.where, c.condition.kind) for c in cells]).value_counts().to_dict()
    every = {"gradient norm": 24, "noise": 24, "PGD": 24, UNTRAINED: 4, NONE: 4}
    wanted = {("subspace", kind): n for kind, n in every.items()}
    wanted |= {("torus", kind): 4 for kind in (UNTRAINED, NONE, "noise")}
    wanted |= {("digits", kind): n for kind, n in {**every, "smoothness": 24, MANIFOLD: 1, SCORE: 1}.items()}
    wanted |= {("digits", kind): 4 for kind in (*CONTROLS, *POOL.values())}
    wanted |= {("ImageNet-64", kind): n for kind, n in {"PGD": 24, UNTRAINED: 4, NONE: 4, SCORE: 1}.items()}
    wanted |= {(name, kind): 4 for name in ("digits_letter_a", "digits_letters")
               for kind in (UNTRAINED, STANDARD, PER_IMAGE, PER_BATCH)}
    assert counts == wanted
    for c in cells:
        assert c.recipe.seed == c.repetition and (c.recipe.epochs == 0) == (
            c.condition.kind in (UNTRAINED, POOL["U"]))
    first = [c.condition.kind for c in cells if c.condition.kind in (MANIFOLD, SCORE)]
    assert [c.condition.kind for c in cells[:len(first)]] == first, "what others are measured with comes first"


@pytest.mark.parametrize("profile", EVERY)
def test_no_network_is_made_twice_and_the_pools_are_shared(profile):
    s = settings.load(profile)
    every = networks.cells(*given(s))
    assert len({c.recipe.key for c in every}) == len(every)
    own = [c for c in every if c.condition.kind in POOL.values()]
    shared = {t.recipe.key: t for t in plan(s)}
    for c in own:
        kind, = [kind for kind, name in POOL.items() if name == c.condition.kind]
        assert c.recipe == s.networks.member(kind, c.repetition, s.seed)
        assert shared[c.recipe.key].job.startswith("pool-") or kind == "U"
    wanted = any(sweep.data is None for sweep in s.sections[S].sweeps)
    assert len(own) == (3 * s.sections[S].seeds if wanted else 0)


def test_a_pool_grows_to_the_repetitions_of_sweeps_on_its_data():
    assert sized({"seeds": 7}).networks.normal.count == 7
    alone = {"sweeps": [SWEEPS[0]], "seeds": 7}
    others = dict.fromkeys(papers().keys() - {S})
    assert sized(alone, **others).networks.normal.count < 7


def test_strengths_of_a_sweep_are_trained_alike(cells):
    same = ("data", "arch", "epochs", "optimiser", "schedule", "batch_size", "augment")
    for where in ("subspace", "torus", "digits", "ImageNet-64"):
        trained = [c for c in cells if c.condition.where == where and c.condition.kind in (NONE, *ALL)]
        assert len({tuple(getattr(c.recipe, name) for name in same) for c in trained}) == 1
    of_letters = [c for c in cells if c.condition.where == "digits_letters" and c.condition.kind != UNTRAINED]
    assert len({tuple(getattr(c.recipe, name) for name in same) for c in of_letters}) == 1


def test_second_derivatives_and_closed_forms_are_computed_in_fp32():
    every = networks.cells(*given(sized(networks__precision="bf16")))
    half = {(c.condition.where, c.condition.kind) for c in every if c.recipe.precision == "bf16"}
    assert ("digits", "PGD") in half and ("digits", NONE) in half
    assert not [kind for where, kind in half if where in ("subspace", "torus") or kind in ("gradient norm",
                                                                                          "reduced lr")]


def test_the_score_is_a_denoisers_of_its_own_data_and_known_in_closed_form(planned, cells):
    pool, own = (c.recipe for c in cells if c.condition.kind == SCORE)
    assert pool.data == planned.networks.data and pool.arch == planned.networks.denoiser.arch
    assert own.data.name == "imagenet" and own.arch.multipliers == (1, 2)
    assert networks_of(planned, "subspace").denoiser() is None
    encoder, = [c.recipe for c in cells if c.condition.kind == MANIFOLD]
    assert (encoder.arch.latent, encoder.augment, encoder.batch_size, encoder.epochs) == (8, "none", 64, 2)


def test_a_batch_job_is_a_regulariser_or_all_small_networks_of_a_repetition(planned, cells):
    def small(c):
        return c.recipe.data.info.closed or c.condition.kind in (STANDARD, PER_IMAGE, PER_BATCH)

    by_name = {}
    for c in cells:
        where, kind, _, number = named_by(c)
        what = ("generative",) if kind in (MANIFOLD, SCORE) else ("" if small(c) else kind, number)
        by_name.setdefault(c.job, set()).add((where, *what))
    assert all(len(what) == 1 for what in by_name.values()), "no two jobs of one name"
    assert len(by_name) == len(set().union(*by_name.values())), "one job each"
    assert not [n for n in by_name if not n.replace("-", "").replace("_", "").isalnum()], "names of files"
    jobs = batch.batch_jobs(replace(planned, jobs="networks"), (S,))
    work = [entry for job in jobs.values() for entry in job["work"]]
    assert len(work) == len({*work}) == sum(c.recipe.epochs > 0 for c in cells)
    assert not any(job["after"] for job in jobs.values()) and len(jobs[f"{S}-digits-smoothness-3"]["work"]) == 6
    assert {"pool-N0", "pool-R3"} <= {*jobs}, "the pool's networks are in the pool's own jobs"


def test_networks_that_are_measured_are_in_the_plan(planned, cells):
    tasks = {t.recipe.key: t for t in plan(planned, (S,))}
    assert {*tasks} == {c.recipe.key for c in cells}


# ---------------------------------------------------------------- a made-up study with known numbers


@pytest.mark.parametrize("profile", EVERY)
def test_what_a_profile_is_said_to_test_it_has_the_networks_for(profile):
    s = settings.load(profile)
    section = s.sections[S]
    exact = [sweep for sweep in section.sweeps if sweep.closed_form]
    images = [sweep for sweep in section.sweeps if not sweep.closed_form]
    tested = {c.id for c in PAPER if profile in c.scope}
    if not tested:
        return
    assert section.seeds >= claims.verdict.MIN_SEEDS and exact and section.distractor
    assert any(sweep.strengths.noise for sweep in exact), "C1 has networks trained on noise"
    kinds = {"gradient norm", "noise", "PGD"}
    for sweeps, ids in ((exact, {"C4a", "C5a", "C6a", "C12a"}), (images, {"C4b", "C5b", "C6b", "C7", "C12b"})):
        long = {kind for sweep in sweeps for kind, values in sweep.strengths.of.items() if len(values) + 1 >= FEWEST}
        assert not ids & tested or (kinds if sweeps is exact else {*ALL}) <= long
    if "C9" in tested:
        assert any(sweep.data and sweep.data.name == "imagenet" and sweep.strengths.pgd for sweep in images)
