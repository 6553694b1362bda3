"""Off-manifold robustness: strengths in units of the data's space, and the losses that they give."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lib.attacks.geometry import ball_noise
from lib.data import load
from lib.models import build
from lib.papers.off_manifold_robustness import networks
from lib.papers.off_manifold_robustness.evidence import ALL
from lib.papers.off_manifold_robustness.networks import NONE, PER_BATCH, PER_IMAGE, Condition
from lib.papers.off_manifold_robustness.settings import CONTROLS
from lib.runtime import generator
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.values.attacks import PGD
from lib.values.objectives import CrossEntropy, GradientNorm, Noise, Smoothness
from tests.papers.off_manifold_robustness.world import given, networks_of, sized, sweep_of

NOW = Progress(0, 0, 0.9)


def test_strengths_of_closed_forms_become_pixels_and_those_of_images_stay(planned, cells):
    """A unit of a closed form's space is 1/4 pixel: lengths are 1/4 of it, squared gradients by pixels 16 times those
    by units.
    """
    found = 0
    for cell in cells:
        where, kind, strength = cell.condition.where, cell.condition.kind, cell.condition.strength
        sweep = where if where in ("subspace", "digits", "ImageNet-64") else None
        if sweep is None or kind not in ALL:
            continue
        pixels, what = (.25 if sweep == "subspace" else 1), cell.recipe.objective
        if kind == "gradient norm":
            assert what == GradientNorm(strength * pixels**2)
        elif kind == "smoothness":
            assert what == Smoothness(strength, .1)
        elif kind == "noise":
            assert what == Noise(strength * pixels)
        else:
            threat, attack = what.threat, what.attack
            assert (threat.norm, threat.per, threat.box) == ("l2", "image", False) and what.alpha == 1
            assert float(threat.eps) == pytest.approx(strength * pixels)
            steps = sweep_of(planned, sweep).attack_steps
            assert attack == PGD(steps, 2 * threat.eps / steps) and attack.random_start
        found += 1
    assert found == 4 * 6 * (3 + 4 + 1)
    assert networks_of(planned, "subspace").regularised("smoothness", 2., 0).objective == Smoothness(2., .025)


def as_points(pixels):
    return (pixels - .5) / .25


def by_hand(kind, strength, net, points, labels, steps, draws):
    """The loss of a regulariser in units of the closed form's space; net takes points."""
    def ce(x):
        return F.cross_entropy(net(x), labels)

    if kind == "gradient norm":
        x = points.clone().requires_grad_()
        losses = F.cross_entropy(net(x), labels, reduction="none")
        gradient, = torch.autograd.grad(losses.sum(), x)
        return losses.mean() + strength * gradient.flatten(1).norm(dim=1).square().mean()
    if kind == "smoothness":
        noise = .1 * torch.randn(points.shape, generator=draws)
        return ce(points) + strength * (net(points) - net(points + noise)).norm(dim=1).square().mean()
    if kind == "noise":
        return ce(points + strength * torch.randn(points.shape, generator=draws))
    torch.randperm(len(points), generator=draws)  # which images are attacked: all
    x = points + strength * ball_noise("l2", points.shape, draws)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        gradient, = torch.autograd.grad(F.cross_entropy(net(x), labels, reduction="sum"), x)
        moved = x - points + 2 * strength / steps * F.normalize(gradient.flatten(1), dim=1).view_as(x)
        x = points + moved * (strength / moved.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
    return ce(x)


@pytest.mark.parametrize("kind, strength", [("gradient norm", .3), ("smoothness", 5.), ("noise", 1.), ("PGD", 1.5)])
def test_the_loss_in_pixels_is_the_loss_in_units_of_the_space(planned, kind, strength):
    recipe = networks_of(planned, "subspace").regularised(kind, strength, 0)
    net, images = build(recipe).eval(), load(recipe.data, "train").take(slice(0, 20))
    net.head.weight.data *= 8  # an untrained network hardly reacts to anything
    pixels = images.pixels()
    given = TrainingBatch(pixels, images.labels, images.indices, None, generator("units"))
    loss = loss_for(recipe.objective)(net, given, NOW)[0]
    found = by_hand(kind, strength, lambda x: net(.5 + .25 * x), as_points(pixels), images.labels, 3,
                    generator("units"))
    assert loss.item() == pytest.approx(found.item(), rel=1e-4)
    plain = F.cross_entropy(net(pixels), images.labels).item()
    assert abs(loss.item() - plain) > .05 * plain, "the strength matters here"


@pytest.mark.parametrize("where", ["digits", "subspace"])
@pytest.mark.parametrize("kind, strength", [*((kind, 1e-6) for kind in ALL), *((kind, 0.) for kind in ALL[:3])])
def test_without_strength_every_regulariser_is_cross_entropy(planned, where, kind, strength):
    of_sweep = networks_of(planned, where)
    recipe = of_sweep.regularised(kind, strength, 0)
    images, found = load(recipe.data, "train").take(slice(0, 12)), []
    for objective in (recipe.objective, CrossEntropy()):
        net = build(recipe).eval()
        batch_ = TrainingBatch(images.pixels(), images.labels, images.indices, None, generator("none"))
        loss = loss_for(objective)(net, batch_, NOW)[0]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
    assert replace(recipe, objective=CrossEntropy(), precision="fp32") == replace(
        of_sweep.base(0), precision="fp32"), "but for it the network without a regulariser"


def test_controls_have_the_budgets_and_the_rate_that_they_are_named_after(planned, cells):
    sweep = sweep_of(planned, "digits")
    third = [c for c in cells if c.repetition == 2]
    shared, summed, slow = (next(c for c in third if c.condition.kind == name) for name in CONTROLS)
    middle = next(c for c in third if c.condition == Condition("digits", "PGD", 1.)).recipe
    assert shared.condition.strength == summed.condition.strength == 1., "the middle of six strengths"
    one, own = shared.recipe.objective.threat, middle.objective.threat
    assert (one.per, one.box) == ("batch", False)
    assert float(one.eps) == pytest.approx(float(own.eps) * middle.batch_size**.5), "as much as all images together"
    assert shared.recipe.objective.attack.step_size == 2 * one.eps / sweep.attack_steps
    assert summed.recipe.objective == replace(middle.objective, accumulated=True, batchnorm="train")
    assert not middle.objective.accumulated and middle.objective.batchnorm == "eval"
    strongest = next(c for c in third if c.condition == Condition("digits", "gradient norm", 4.))
    lr = strongest.recipe.optimiser.lr
    assert slow.recipe == replace(strongest.recipe, optimiser=replace(strongest.recipe.optimiser, lr=lr * .061 / 4))
    weak = sized(sweep=("digits", {"strengths": {"gradient_norm": [.02, .05]}, "controls": ["reduced lr"]}))
    kept = next(c for c in networks.cells(*given(weak)) if c.condition.kind == "reduced lr")
    assert kept.recipe.optimiser.lr == lr, "a weak penalty leaves the rate as it is"


def test_the_rate_falls_with_strong_regularisation_where_the_sweep_says_so():
    strengths = {"gradient_norm": [.02, 6.1], "smoothness": [1, 100], "noise": [100], "pgd": [1, 88.4]}
    s = sized(sweep=("digits", {"reduced": True, "strengths": strengths, "controls": ["full lr"]}))
    mine = [c for c in networks.cells(*given(s)) if c.condition.where == "digits" and c.repetition == 0]
    lr = next(c for c in mine if c.condition.kind == NONE).recipe.optimiser.lr
    falls = {(c.condition.kind, c.condition.strength): c.recipe.optimiser.lr / lr for c in mine if c.condition.strength}
    assert falls == pytest.approx({
        ("gradient norm", .02): 1, ("gradient norm", 6.1): .01, ("smoothness", 1): 1, ("smoothness", 100): .1,
        ("noise", 100): 1, ("PGD", 1): 1, ("PGD", 88.4): .1, ("full lr", 6.1): 1})


@pytest.mark.parametrize("name", ["per batch", "accumulated", PER_BATCH])
def test_networks_of_the_papers_attack_have_batchnorm_in_train_mode_while_it_runs(planned, cells, name):
    cell = next(c for c in cells if c.condition.kind == name)
    net, images = build(cell.recipe).train(), load(cell.recipe.data, "train").take(slice(0, 12))
    norm = next(m for m in net.modules() if hasattr(m, "num_batches_tracked"))
    given = TrainingBatch(images.pixels(), images.labels, images.indices, None, generator("bn"))
    loss_for(cell.recipe.objective)(net, given, NOW)
    steps = cell.recipe.objective.attack.steps
    assert steps == 3 and norm.num_batches_tracked == steps + (steps if name == "accumulated" else 0) + 1
    other = PER_IMAGE if name == PER_BATCH else "PGD"
    usual = next(c for c in cells if (c.condition.where, c.condition.kind) == (cell.condition.where, other))
    assert usual.recipe.objective.batchnorm == "eval"
