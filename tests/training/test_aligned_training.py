"""Training for aligned input gradients: the loss against finite differences and plain definitions, saturated classes,
subsets of classes, augmented frames, BatchNorm, stopping, and the plan.
"""

import copy
import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.batch import batch_jobs
from lib.data import ImageSet, load
from lib.data.augment import augment
from lib.models import build
from lib.papers import Paper, settings
from lib.papers.plan import plan
from lib.runtime import autocast, generator, initialise_with
from lib.training import loop
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.training.losses.alignment import cosine, drawn_classes
from lib.values.architectures import CNN, MLP, DenoisingMLP
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, Aligned, CrossEntropy, Denoising, GradientNorm, Targets
from lib.values.recipe import Optimiser, Recipe
from lib.values.threats import Threat

CLASSES, SHAPE = 3, (1, 4, 4)
NOW = Progress(0, 0, 0.9)
MEAN, NEAR = Targets("class mean"), Targets("nearest neighbour")
THREAT, ATTACK = Threat("l2", 1), PGD(2, "0.5")
BASE = Recipe(Data("digits", train=512), CNN(16, 1), epochs=2, batch_size=64, augment="crop",
              optimiser=Optimiser("adam", lr=0.01, weight_decay=0))


def drawn(*shape, name="test"):
    return torch.rand(*shape, generator=generator(name))


IMAGES = ImageSet(drawn(30, *SHAPE, name="images"), torch.arange(30) % CLASSES, torch.arange(30) + 5, "made", "train")


def smooth(norm=None):
    """A smooth network of three classes in float64, with BatchNorm in the middle or without."""
    with initialise_with("smooth", norm):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), *([nn.BatchNorm1d(6)] if norm else []), nn.Tanh(),
                            nn.Linear(6, CLASSES)).double()
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.7)
    if norm:
        net[2].running_mean.copy_(torch.linspace(-1, 1, 6))
        net[2].running_var.copy_(torch.linspace(0.5, 2, 6))
    return net.train()


def still(net):
    """The network with running statistics that do not move, so that all calls see the same."""
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0
    return net


def batch(n=6, dtype=torch.float64, placement=None, images=IMAGES):
    pixels = images.pixels(slice(0, n)).to(dtype)
    pixels = pixels if placement is None else placement.apply(pixels)
    return TrainingBatch(pixels, images.labels[:n], images.indices[:n], placement, generator("batch"))


def prepared(spec, images=IMAGES, classes=CLASSES):
    objective = loss_for(spec)
    objective.prepare(images, classes)
    return objective


def aligned(targets=MEAN, weight=1.0, objective=None, **changes):
    return Aligned(objective or CrossEntropy(), targets, weight, **changes)


def term(spec, net, given=None):
    """What the objective adds to the loss of the one it is around."""
    both = []
    for objective in (prepared(spec), loss_for(spec.objective)):
        same = replace(given or batch(), generator=generator("batch"))
        both.append(objective(copy.deepcopy(net), same, NOW)[0].detach())
    return float(both[0] - both[1])


# ------------------------------------------------------------------------------------------------------------ the loss


CASES = {
    "all classes": (None, {}),
    "one class": (None, {"classes": 1}),
    "two classes of logits": (None, {"classes": 2, "gradient": "logit"}),
    "batch statistics": ("batch", {}),
    "batch statistics, logits": ("batch", {"gradient": "logit", "classes": 1}),
    "running statistics": ("batch", {"batchnorm": "eval", "classes": 2}),
}


@pytest.mark.parametrize("norm, changes", CASES.values(), ids=CASES)
def test_the_gradient_by_the_weights_is_that_of_finite_differences(norm, changes):
    net, objective = still(smooth(norm)), prepared(aligned(NEAR, 0.7, **changes))
    # the plain objective rounds logits to fp32
    objective.inner = lambda net, batch, progress: (F.cross_entropy(net(batch.images), batch.labels), None)

    def loss():
        return objective(net, batch(), NOW)[0]

    loss().backward()
    step, checked = 1e-5, 0
    for parameter in net.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, len(flat), 5):
            before = float(flat[i])
            ends = []
            for sign in (1, -1):
                flat[i] = before + sign * step
                ends.append(float(loss().detach()))
            flat[i] = before
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient[i]), rel=1e-4, abs=1e-7)
            checked += 1
    assert checked > 25


@pytest.mark.parametrize("gradient", ["log-probability", "logit"])
@pytest.mark.parametrize("norm, batchnorm", [(None, "train"), ("batch", "train"), ("batch", "eval")])
def test_the_term_by_its_definition(norm, batchnorm, gradient):
    """Each class's gradient by itself: of the sum over the batch, which alone has parts through its statistics."""
    net, spec, given = still(smooth(norm)), aligned(weight=0.7, batchnorm=batchnorm, gradient=gradient), batch()
    x = given.images.clone().requires_grad_()
    logits = copy.deepcopy(net).train(batchnorm == "train")(x)
    values = logits if gradient == "logit" else logits.log_softmax(1)
    means = torch.stack([IMAGES.images[IMAGES.labels == t].mean(0) for t in range(CLASSES)]).double()
    total = 0
    for t in range(CLASSES):
        found, = torch.autograd.grad(values[:, t].sum(), x, retain_graph=True)
        total += (1 - F.cosine_similarity(found.flatten(1), (means[t] - given.images).flatten(1))).mean()
    assert term(spec, net) == pytest.approx(0.7 * float(total), rel=1e-5)


@pytest.mark.parametrize("inner", [Adversarial(THREAT, ATTACK), TRADES(THREAT, ATTACK)], ids=["AT", "TRADES"])
@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_beside_adversarial_training_the_term_is_that_of_the_clean_images(inner, batchnorm):
    net = still(smooth("batch")).float()
    given = batch(dtype=torch.float32)
    alone = term(aligned(weight=0.7, batchnorm=batchnorm), net, given)
    beside = term(aligned(weight=0.7, batchnorm=batchnorm, objective=inner), net, given)
    assert beside == pytest.approx(alone, rel=1e-4) and alone > 0.1
    logits = prepared(aligned(objective=inner))(copy.deepcopy(net), given, NOW)[1]
    same = replace(given, generator=generator("batch"))
    torch.testing.assert_close(logits, loss_for(inner)(copy.deepcopy(net), same, NOW)[1])


@pytest.mark.parametrize("classes", [1, 2])
def test_fewer_classes_estimate_the_sum_over_all_without_bias(classes):
    """A batch of six images 500 times over, each with classes of its own."""
    net, few = smooth(), batch()
    many = TrainingBatch(few.images.repeat(500, 1, 1, 1), few.labels.repeat(500), few.indices.repeat(500), None,
                 generator("many"))
    whole, sampled = term(aligned(), net, few), term(aligned(classes=classes), net, many)
    assert sampled == pytest.approx(whole, rel=0.01)
    assert term(aligned(classes=classes), net, few) != pytest.approx(whole, rel=0.01)


def test_classes_are_drawn_without_repetition_and_each_as_often():
    found = drawn_classes(6000, 5, 2, generator("classes"))
    assert (found[:, 0] != found[:, 1]).all()
    counts = found.flatten().bincount(minlength=5)
    assert counts.min() > 2200 and counts.max() < 2600
    draw = generator("classes")
    state = draw.get_state()
    for all_ in (None, 5):
        assert torch.equal(drawn_classes(2, 5, all_, draw), torch.arange(5).expand(2, -1))
    assert torch.equal(draw.get_state(), state)


# --------------------------------------------------------------------------------------------- gradients that are small


def test_a_saturated_class_keeps_its_direction():
    """Margins of 20 to 35 nats: in fp32 p rounds to 1 and log p to 0, in fp64 neither does."""
    net, given = smooth(), batch()
    margins, own = net(given.images).detach().topk(2)
    gap = (margins[:, 0] - margins[:, 1])[0]
    with torch.no_grad():
        net[-1].weight *= 25 / gap
        net[-1].bias *= 25 / gap
    x, own = given.images[:1].clone().requires_grad_(), own[:1, :1]
    assert 1e-15 < float(1 - net(x).detach().softmax(1).gather(1, own)) < 1e-9
    assert net.float()(x.float()).log_softmax(1).gather(1, own) == 0
    found, = torch.autograd.grad(net.double()(x).log_softmax(1).gather(1, own), x)
    mean = IMAGES.images[IMAGES.labels == own[0, 0]].mean(0).double()
    exact = float(F.cosine_similarity(1e10 * found.flatten(1), (mean - given.images[:1]).flatten(1)))

    objective = prepared(aligned())
    single = TrainingBatch(x.detach().float(), own[0], given.indices[:1], None, given.generator)
    loss = objective(net.float(), single, NOW)[0]
    row = objective.end_epoch(net)
    assert row["own cosine"] == pytest.approx(exact, abs=1e-3) and row["clamped"] == 0
    assert abs(exact) > 0.05
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert max(p.grad.abs().max() for p in net.parameters()) > 1e-3, "it teaches"


def constant(net):
    nn.init.zeros_(net[-1].weight)


def beyond(net):
    """All images of one class, by ten thousand nats: no probability is other than 1 or 0 in fp32."""
    nn.init.zeros_(net[-1].weight[1:])
    net[-1].bias.data = torch.tensor([1e4, 0.0, 0.0])


@pytest.mark.parametrize("spoil, norm, own, clamped", [
    (constant, None, 0.0, 1.0), (constant, "batch", 0.0, 1.0), (beyond, "batch", 0.0, 1 / 3)])
def test_pairs_without_a_direction_are_counted_and_teach_nothing(spoil, norm, own, clamped):
    net, objective = smooth(norm).float(), prepared(aligned(weight=2.0))
    with torch.no_grad():
        spoil(net)
    given = replace(batch(dtype=torch.float32), labels=torch.zeros(6, dtype=torch.int64))
    loss, logits = objective(net, given, NOW)
    loss.backward()
    row = objective.end_epoch(net)
    assert row["clamped"] == pytest.approx(clamped) and row["own cosine"] == own
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())
    expected = F.cross_entropy(logits, given.labels).item() + 2 * CLASSES * (1 - row["cosine"])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1e-28, 1e-12, 1.0, 1e28])
def test_a_cosine_does_not_depend_on_the_size(size):
    one, other = drawn(2, 3, 8, name="one") - 0.5, drawn(2, 3, 8, name="other") - 0.5
    one.requires_grad_()
    found, without = cosine(size * one, other / size)
    torch.testing.assert_close(found, F.cosine_similarity(one, other, dim=2), rtol=1e-5, atol=1e-6)
    assert not without.any()
    gradient, = torch.autograd.grad(found.sum(), one)
    expected, = torch.autograd.grad(F.cosine_similarity(one, other, dim=2).sum(), one)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, 1e-38, math.nan, math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_cosine_without_a_direction_is_zero_and_has_no_gradient(bad, first):
    good, spoilt = drawn(1, 2, 4, name="good"), drawn(1, 2, 4, name="spoilt")
    spoilt[0, 1] = bad
    pair = [t.requires_grad_() for t in ((spoilt, good) if first else (good, spoilt))]
    found, without = cosine(*pair)
    assert without.tolist() == [[False, True]] and found[0, 1] == 0 and found[0, 0] > 0.5
    found.sum().backward()
    assert all((t.grad[0, 1] == 0).all() and (t.grad[0, 0] != 0).any() for t in pair)


# -------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_targets_are_moved_with_their_images_and_what_comes_from_outside_does_not_count(kind):
    """The same as differentiating by the image before its augmentation, where its pixels are still in the frame."""
    net, given = smooth(), batch(12)
    _, placement = augment(given.images, kind, generator("augment"))
    moved = batch(12, placement=placement)
    assert placement.dy.abs().max() > 0 and (kind == "crop" or placement.flip.float().mean() not in (0, 1))
    x = given.images.clone().requires_grad_()
    visible, = torch.autograd.grad(placement.apply(x).sum(), x)
    values = net(placement.apply(x)).log_softmax(1)
    means = torch.stack([IMAGES.images[IMAGES.labels == t].mean(0) for t in range(CLASSES)]).double()
    total = 0
    for t in range(CLASSES):
        found, = torch.autograd.grad(values[:, t].sum(), x, retain_graph=True)
        total += (1 - F.cosine_similarity(found.flatten(1), ((means[t] - given.images) * visible).flatten(1))).mean()
    found = term(aligned(), net, moved)
    assert found == pytest.approx(float(total), rel=1e-5)
    assert abs(found - term(aligned(), net, replace(moved, placement=None))) > 0.01, "the frame matters"


# ------------------------------------------------------------------------------------------------- weights and schedule


OBJECTIVES = {"clean": CrossEntropy(), "adversarial": Adversarial(THREAT, ATTACK), "trades": TRADES(THREAT, ATTACK)}


@pytest.mark.parametrize("inner", OBJECTIVES.values(), ids=OBJECTIVES)
def test_weight_zero_is_the_plain_objective_bit_for_bit(inner):
    spec = aligned(weight=0.0, objective=inner, classes=1)
    found = []
    for objective in (prepared(spec), loss_for(inner)):
        net, given = smooth("batch").float(), batch(dtype=torch.float32)
        loss, logits = objective(net, given, NOW)
        loss.backward()
        found.append([loss.detach(), logits, *(p.grad for p in net.parameters()), *net.buffers(),
                      given.generator.get_state()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    objective = prepared(spec)
    assert not objective.second_order and objective.training_targets is None and objective.end_epoch(None) == {}
    assert spec.passes(10, 50) == inner.passes(10, 50)


def test_the_first_weight_holds_for_the_first_share():
    spec = aligned(weight=3.0, first_weight=2.0, first_share=Fraction(1, 4))
    assert [spec.weight_at(share) for share in (0, 0.24, 0.25, 0.9)] == [2, 2, 3, 3]
    objective, net = prepared(spec), smooth()
    plain = loss_for(CrossEntropy())(net, batch(), NOW)[0]
    early, late = (float((objective(net, batch(), replace(NOW, share=share))[0] - plain).detach())
                   for share in (0.2, 0.3))
    assert late == pytest.approx(1.5 * early) and early > 0.1
    off_at_first = prepared(aligned(weight=3.0, first_weight=0.0))
    assert torch.equal(off_at_first(net, batch(), replace(NOW, share=0.2))[0], plain)
    assert off_at_first.end_epoch(net) == {} and off_at_first.second_order


def test_an_epoch_s_row_has_the_means_of_its_pairs():
    net, objective = smooth(), prepared(aligned(classes=2))
    rows, pairs = [], []
    for _ in range(2):
        given = batch(9)
        chosen = drawn_classes(9, CLASSES, 2, generator("batch"))
        x = given.images.clone().requires_grad_()
        values, grounds = net(x).log_softmax(1), objective.training_targets.of_training(given.indices, chosen)
        found = torch.stack([torch.autograd.grad(values.gather(1, chosen)[:, k].sum(), x, retain_graph=True)[0]
                             for k in range(2)], 1)
        pairs.append((F.cosine_similarity(found.flatten(2), grounds.flatten(2), dim=2),
                      chosen == given.labels[:, None]))
        objective(net, given, NOW)
    rows = objective.end_epoch(net)
    cosines, own = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert 0 < own.sum() < own.numel()
    assert rows == pytest.approx({"clamped": 0, "cosine": float(cosines.mean()),
                                  "own cosine": float(cosines[own].mean()),
                                  "other cosine": float(cosines[~own].mean())}, rel=1e-5)
    assert objective.end_epoch(net) == {}, "each epoch by itself"


# ----------------------------------------------------------------------------------------------------------- BatchNorm


def forwards(net):
    """(in train mode, shape) of every call."""
    seen = []
    net.register_forward_pre_hook(lambda module, given: seen.append((module.training, len(given[0]))))
    return seen


@pytest.mark.parametrize("batchnorm, calls", [("train", [(True, 6)]), ("eval", [(True, 6), (False, 6)])])
def test_running_statistics_stay_in_eval_mode_and_the_pass_is_shared_in_train_mode(batchnorm, calls):
    net, plain = smooth("batch"), smooth("batch")
    net[3].eval()
    loss_for(CrossEntropy())(plain, batch(), NOW)
    seen = forwards(net)
    prepared(aligned(batchnorm=batchnorm))(net, batch(), NOW)
    assert seen == calls
    assert all(torch.equal(*pair) for pair in zip(net.buffers(), plain.buffers(), strict=True))
    assert net.training and net[2].training and not net[3].training, "each module is as it was"


@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_beside_adversarial_training_statistics_see_the_clean_images_in_train_mode_only(batchnorm):
    nets = smooth("batch").float(), smooth("batch").float()
    for net, objective in zip(nets, (prepared(aligned(objective=OBJECTIVES["adversarial"], batchnorm=batchnorm)),
                                     loss_for(OBJECTIVES["adversarial"])), strict=True):
        objective(net, batch(dtype=torch.float32), NOW)
    assert torch.equal(nets[0][2].running_mean, nets[1][2].running_mean) == (batchnorm == "eval")


# ------------------------------------------------------------------------------------------------------------ training


def digits():
    return load(BASE.data, "train")


@pytest.mark.parametrize("inner", [OBJECTIVES["clean"], OBJECTIVES["adversarial"]], ids=["clean", "adversarial"])
def test_the_term_is_in_fp32_beside_bf16(inner):
    net, seen = build(replace(BASE, arch=MLP((16,)))), []
    net[1].register_forward_hook(lambda module, given, out: seen.append((module.training, out.dtype)))
    some = digits()
    objective = prepared(aligned(objective=inner, batchnorm="train"), some, 10)
    with autocast("cpu", "bf16"):
        given = TrainingBatch(some.pixels(slice(0, 8)), some.labels[:8], some.indices[:8], None, generator("batch"))
        loss, logits = objective(net, given, replace(NOW, precision="bf16"))
    types = [dtype for training, dtype in seen if training]
    assert types == ([torch.float32] if inner == CrossEntropy() else [torch.bfloat16, torch.float32])
    loss.backward()
    assert loss.dtype == torch.float32 and all(p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("spec, layout", [(CrossEntropy(), torch.channels_last),
                                          (aligned(weight=0.0), torch.channels_last),
                                          (GradientNorm(1.0), torch.contiguous_format),
                                          (aligned(classes=1), torch.contiguous_format)],
                         ids=["plain", "weight 0", "gradient norm", "aligned"])
def test_second_derivatives_run_in_contiguous_layout_on_the_cpu(spec, layout):
    recipe = replace(BASE, data=Data("digits", train=128), objective=spec, epochs=1)
    net, seen = build(recipe), []
    conv = next(module for module in net.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))
    conv.register_forward_hook(lambda module, given, out: seen.append(
        [tensor.is_contiguous(memory_format=layout) for tensor in (module.weight, out)]))
    loop.fit(net, recipe, load(recipe.data, "train"), "cpu")
    assert seen and all(map(all, seen))


@pytest.mark.parametrize("inner", [OBJECTIVES["clean"], OBJECTIVES["adversarial"]], ids=["clean", "adversarial"])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, inner):
    spec = aligned(NEAR, 0.3, objective=inner, classes=1, first_weight=0.1)
    recipe = replace(BASE, data=Data("digits", train=192), objective=spec, epochs=4, augment="crop-flip")
    some = load(recipe.data, "train")
    straight, resumed = build(recipe), build(recipe)
    rows = loop.fit(straight, recipe, some, "cpu")
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)

    class Killed(Exception):
        pass

    def die(training):
        save(training)
        if len(training.rows) == 2:
            raise Killed

    save = loop._Training._save
    monkeypatch.setattr(loop._Training, "_save", die)
    with pytest.raises(Killed):
        loop.fit(build(recipe), recipe, some, "cpu", tmp_path)
    monkeypatch.setattr(loop._Training, "_save", save)
    again = loop.fit(resumed, recipe, some, "cpu", tmp_path)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    columns = ("loss", "clamped", "cosine", "other cosine")
    assert [[row[c] for c in columns] for row in again] == [[row[c] for c in columns] for row in rows]


@pytest.mark.parametrize("arch", [CNN(16, 1), MLP((32,))], ids=["BatchNorm", "none"])
def test_no_strength_makes_a_nan(arch):
    for weight in (1e-3, 1, 1e3):
        recipe = replace(BASE, arch=arch, objective=aligned(NEAR, weight, classes=2), data=Data("digits", train=192))
        net = build(recipe)
        rows = loop.fit(net, recipe, load(recipe.data, "train"), "cpu")
        assert all(value.isfinite().all() for value in net.state_dict().values())
        assert all(math.isfinite(row[name]) for row in rows for name in ("loss", "cosine", "other cosine"))


def test_gradients_align_by_training_and_do_not_without():
    rows = {}
    for weight in (1e-6, 0.3):
        recipe = replace(BASE, arch=MLP((64,)), data=Data("digits"), epochs=6, augment="none",
                         objective=aligned(Targets("random direction"), weight, classes=2))
        rows[weight] = loop.fit(build(recipe), recipe, load(recipe.data, "train"), "cpu")[-1]
    assert abs(rows[1e-6]["other cosine"]) < 0.2 < 0.4 < rows[0.3]["other cosine"]


def test_an_aligned_gradient_costs_two_updates():
    assert aligned(classes=2).passes(10, 50) == (5, 0, 0) and aligned().passes(10, 50).updates == 21
    beside = aligned(objective=OBJECTIVES["adversarial"], classes=1).passes(10, 50)
    assert beside == (3, 1, ATTACK.steps) and aligned(batchnorm="eval", classes=1).passes(10, 50) == (3, 1, 0)


# ------------------------------------------------------------------------------------------------------------ the plan


def test_a_plan_holds_sources_once_before_what_needs_them_and_jobs_wait_for_them(monkeypatch):
    source = Recipe(Data("digits"), DenoisingMLP(32, 1), Denoising(0.1, 0.5))
    spec = aligned(Targets("score", sigma=0.25), classes=1)
    learning = [Recipe(Data("digits"), MLP((16,)), spec, seed=seed, sources=(source,)) for seed in range(2)]
    cells = [SimpleNamespace(recipe=recipe, measures=((THREAT, ATTACK),), job=job, repetition=seed)
             for recipe, job, seed in ((source, "generative", 0), (learning[0], "a", 0), (learning[1], "b", 1))]
    cells[0].measures = ()
    s = settings.load("test", {"jobs": "networks"})
    monkeypatch.setattr(Paper, "cells", lambda *args: cells)
    assert [task.recipe.key for task in plan(s, ("stitching",))] == [source.key, *(r.key for r in learning)]
    found = batch_jobs(s, ("stitching",))
    assert {name: job["after"] for name, job in found.items()} == {
        "stitching-generative": set(), "stitching-a": {"stitching-generative"},
        "stitching-b": {"stitching-generative"}}
    found = batch_jobs(settings.load("test", {"jobs": "seeds"}), ("stitching",))
    assert {name: job["after"] for name, job in found.items()} == {
        "stitching-sources": set(), "stitching-0": {"stitching-sources"}, "stitching-1": {"stitching-sources"}}
    del cells[0]  # nobody names it: it comes with the first that needs it
    tasks = plan(s, ("stitching",))
    assert [(task.recipe.key, task.job) for task in tasks] == [
        (source.key, "stitching-a"), (learning[0].key, "stitching-a"), (learning[1].key, "stitching-b")]
    assert batch_jobs(s, ("stitching",))["stitching-b"]["after"] == {"stitching-a"}
    assert ("network", source.key) in batch_jobs(s, ("stitching",))["stitching-a"]["work"]
