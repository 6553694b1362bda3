"""Across the papers: its networks, shared with the papers' where settings agree."""

from dataclasses import replace

import pytest

from lib.papers import papers, settings
from lib.papers.across_papers.measured import R, wanted
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.settings import REFERENCE
from lib.values.objectives import TRADES, Adversarial, Aligned, CrossEntropy, GradientNorm, Noise
from tests.kit.profiles import cells_of, given
from tests.papers.across_papers.world import SEEDS, S, sized


def recipes(s, repetition=0):
    return {c.condition.kind: c.recipe for c in cells_of(s, S) if c.repetition == repetition}


def test_every_repetition_has_a_network_of_every_kind_with_a_seed_of_its_own():
    s = sized()
    cells = cells_of(s, S)
    kinds = [c.condition for c in cells if c.repetition == 0 and c.measures]
    assert len(kinds) == 13 and len(cells) == 13 * SEEDS + 2
    for condition in kinds:
        mine = [c for c in cells if c.condition == condition]
        assert [c.repetition for c in mine] == [*range(SEEDS)] and len({c.recipe.seed for c in mine}) == SEEDS
        assert len({replace(c.recipe, seed=0, parents=()) for c in mine}) == 1
    verify = s.sections[S].verify
    assert all((s.networks.threat, verify) in c.measures for c in cells if c.measures)


def test_each_training_has_its_objective():
    kinds = recipes(sized())
    of = {kind: type(recipe.objective) for kind, recipe in kinds.items()}
    assert of["matched"] is of["N"] is CrossEntropy and of["noise"] is Noise and of["gradient norm"] is GradientNorm
    assert of["weak"] is of["R"] is of["pruned"] is Adversarial and of["TRADES"] is TRADES
    assert (kinds["matched"].epochs, kinds["middle"].epochs) == (3, 5)
    assert float(kinds["weak"].objective.threat.eps) == .02 and kinds["weak"].objective.attack == kinds[
        "R"].objective.attack
    score, mean = kinds["by score"], kinds["by mean"]
    assert isinstance(score.objective, Aligned) and score.objective.objective == CrossEntropy()
    assert [one.objective.targets.kind for one in (score, mean)] == ["score", "class mean"]
    teacher, judge = (kinds[f"denoiser that {does}"] for does in ("teaches", "judges"))
    assert score.sources == (teacher,) and not mean.sources and judge == replace(teacher, seed=judge.seed) != teacher
    assert kinds["pruned"].parents == kinds["dense, fine-tuned"].parents == (kinds["R"],)
    assert float(kinds["pruned"].arch.keep) == .1 and kinds["dense, fine-tuned"].arch == kinds["R"].arch


@pytest.mark.parametrize("profile, arms", [
    ("smoke", {"matched": "M+", "noise": "noise", "eps 0.05": "eps 0.05"}),
    ("laptop", {"matched": "M+", "noise": "noise", "eps 2/255": "eps 2/255", "TRADES": "TRADES"})])
def test_networks_are_those_of_the_papers_where_settings_agree(profile, arms):
    s = settings.load(profile)

    def keys(paper):
        cells = papers()[paper].cells(s.networks, s.sections[paper], s.seed)
        return {(c.condition, c.repetition): c.recipe.key for c in cells}

    ours = {(condition.kind, n): key for (condition, n), key in keys(S).items()}
    theirs = {(condition.kind, n): key for (condition, n), key in keys("representation_similarity").items()}
    for mine, kind in {"N": "N", "R": "R", "U": "U", **arms}.items():
        assert ours[mine, 0] == theirs[kind, 0], mine
    compact = {(c.rule, n): key for (c, n), key in keys("compact_robust_pruning").items()
               if (c.net, c.pre, c.fine, c.longer) == ("ResNet", "robust", "robust", False)
               and c.keep in (s.sections[S].pruning.keep, 1)}
    assert ours["pruned", 1] == compact["LWM", 1] and ours["dense, fine-tuned", 1] == compact["dense", 1]
    denoiser = s.networks.denoiser.recipe(s.networks.data, s.networks.precision, s.seed(1)).key
    assert ours["denoiser that judges", 0] == denoiser


def test_jobs_are_one_training_of_one_repetition():
    assert Condition("eps 2/255", "PGD-AT").job(3) == "PGD-AT-3"
    assert Condition("by mean", "class mean").job(0) == "class-mean-0"
    assert Condition("pruned").job(1) == Condition("dense, fine-tuned").job(1) == "pruned-1"


def test_a_batch_job_makes_what_lenses_see_of_a_repetition():
    s = sized()
    jobs = papers()[S].measured(*given(s, S))
    assert {*jobs} == {f"lenses-{n}" for n in range(SEEDS)} and {len(made) for made in jobs.values()} == {14}
    entries = [one.entry for made in jobs.values() for one in made]
    assert len({*entries}) == len(entries)
    maps, *looks = jobs["lenses-1"]
    assert all(look.reference == recipes(s, 2)["R"] for look in looks) and maps.looks[-1].name == REFERENCE
    assert {look.recipe for look in looks} == {c.recipe for c in cells_of(s, S) if c.repetition == 1 and c.measures}
    alone = wanted(*given(s, S), cells_of(s, S), [c for c in cells_of(s, S) if c.condition == R and c.repetition == 2])
    assert 1 not in alone.maps and not any(x.reference for c, x in alone.looks.items() if c.repetition == 1)
    assert {x.entry for c, x in alone.looks.items() if c.repetition == 1}.isdisjoint(entries)
    for change in ({"joint_epochs": 7}, {"quick_joints": True}):
        changed = papers()[S].measured(*given(sized(**change), S))["lenses-1"]
        assert changed[0].entry == maps.entry and {one.entry for one in changed[1:]}.isdisjoint(entries)


def test_quick_joints_cost_less():
    def price(**changes):
        looks = papers()[S].measured(*given(sized(**changes), S))["lenses-0"][1:]
        return sum(cost.images * cost.passes for look in looks for cost in look.costs())

    assert price(quick_joints=True) < price() < price(joint_epochs=7)
