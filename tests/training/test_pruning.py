"""Pruning: rules for the layers' rates on numbers worked out by hand, searches on digits, tables and exports."""

import copy
import functools
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.data import load
from lib.errors import OneLineError, SettingsError
from lib.models import build, forward_flops, network, rates
from lib.models.links import layers
from lib.models.masked import dense, masked_layers
from lib.models.prune import Cost, fixed, prune
from lib.pruning.shrink import shrunk
from lib.pruning.tables import kept
from lib.runtime import generator, initialise_with
from lib.training.loop import fit
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.training.losses.pruning import SLACK, TargetMissed
from lib.training.schedule import learning_rate, make_optimiser
from lib.values.architectures import (
    CNN,
    MLP,
    VGG11,
    VGG16,
    CNNLarge,
    CNNSmall,
    ImageNetResNet,
    PreActResNet,
    Pruned,
    ResNet,
    WideResNet,
)
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import (
    MART,
    TRADES,
    Adversarial,
    CrossEntropy,
    FreeAdversarial,
    GradientNorm,
    Prune,
    Saliency,
)
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT, ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")
DIGITS = Data("digits")
HARP = {"rates": "learned", "scores": "learned"}

# ------------------------------------------------------------------------------------------------------------ the rules


@functools.cache
def vgg16():
    with initialise_with("pruning"):
        return network(VGG16(), (3, 32, 32), 10)


def test_vgg16_has_the_papers_layers():
    sizes = [layer.weight.numel() for layer in layers(vgg16()).values()]
    assert len(sizes) == 16 and sum(sizes) == 15_302_848
    with initialise_with("pruning"):
        sizes = [layer.weight.numel() for layer in layers(network(ResNet(), (3, 32, 32), 10)).values()]
    assert len(sizes) == 21 and sum(sizes) == 11_164_352


@pytest.mark.parametrize("rate", [0.0011, 0.01, 0.1, 0.5, 0.98])
def test_the_rate_map_and_its_inverse(rate):
    assert rates.from_raw(rates.to_raw(rate, 0.001), 0.001) == pytest.approx(rate)
    assert rates.from_raw(0.0, 0.2) == pytest.approx(0.6) and rates.from_raw(-1e4, 0.2) == 0.2


def test_a_dense_start_is_clipped_and_one_below_the_lowest_rate_refused():
    assert rates.to_raw(1.0, 0.001) == pytest.approx(4.595, abs=1e-3)  # logit of 0.99
    assert rates.from_raw(rates.to_raw(1.0, 0.001), 0.001) == pytest.approx(0.99, abs=1e-4)
    for rate in (0.001, 0.0005, -1.0, 1.1):
        with pytest.raises(SettingsError, match="above the lowest rate 0.001"):
            rates.to_raw(rate, 0.001)


def test_uniform_counts_are_the_floor_rules():
    assert rates.uniform([10, 1728, 7], Fraction(1, 10)) == [1, 173, 1]  # 10 - 9, 1728 - 1555, 7 - 6
    assert rates.uniform([100], Fraction("0.29")) == [29]  # where floats would remove one less


def test_erk_by_hand():
    """Densities go with (sum of dimensions) / (product); what would exceed 1 is dense and the others make room."""
    shapes = [(4, 4), (20, 20), (10, 30)]
    counts = rates.erk(shapes, Fraction(1, 4))  # 179 of 716: proportional to 8 + 40 + 40, the first one is 16.3 > 16
    assert counts[0] == 16 and sum(counts) == 179 and sorted(counts[1:]) == [81, 82]
    assert rates.erk([(10, 10), (20, 20)], Fraction(1, 10)) == [17, 33]  # 20 and 40 parts of 50
    dense = rates.erk(shapes, Fraction(999, 1000))
    assert sum(dense) == 715 and all(c <= n for c, n in zip(dense, (16, 400, 300), strict=True))


def test_lamp_by_hand():
    """Scores of (3, 2, 1): 9/9, 4/13, 1/14; of (30, 1): 900/900, 1/901. Scaling a layer changes nothing."""
    one, other = torch.tensor([1.0, -3.0, 2.0]), torch.tensor([30.0, 1.0])
    found = [rates.lamp([one, other], Fraction(k, 5)) for k in range(2, 6)]
    assert found == [[1, 1], [2, 1], [3, 1], [3, 2]]
    assert found == [rates.lamp([1000 * one, other], Fraction(k, 5)) for k in range(2, 6)]


def test_global_ranking_by_hand():
    one, other = torch.tensor([[1.0, -3.0], [2.0, 0.5]]), torch.tensor([0.1, -2.5])
    assert [rates.overall([one, other], Fraction(k, 6)) for k in (1, 2, 3, 5)] == [[1, 0], [1, 1], [2, 1], [4, 1]]


@pytest.mark.parametrize("rule", ["erk", "lamp", "global"])
@pytest.mark.parametrize("keep", ["0.1", "0.013"])
def test_ranked_rules_keep_exactly_the_target(rule, keep):
    with initialise_with("totals"):
        parent = network(ResNet(16, (1, 1)), (3, 32, 32), 10)
    net = prune(parent, Pruned(ResNet(16, (1, 1)), keep, rates=rule), (3, 32, 32))
    total = sum(layer.weight.numel() for layer in layers(parent).values())
    assert kept(net)["kept"].sum() == int(Fraction(keep) * total + Fraction(1, 2))
    if rule == "global":
        every = torch.cat([layer.weight.detach().abs().flatten() for layer in layers(parent).values()])
        left = torch.cat([layer.weight.detach().abs().flatten() for layer in layers(dense(net)).values()])
        assert every[left > 0].min() > every[left == 0].max()


def test_lamp_spares_small_layers_and_uniform_does_not():
    lamp = kept(prune(vgg16(), Pruned(VGG16(), "0.01", rates="lamp"), (3, 32, 32)))["share"]
    assert lamp[0] > 0.1 and lamp[15] > 0.1 and lamp[8:13].max() < 0.01
    uniform = kept(prune(vgg16(), Pruned(VGG16(), "0.01"), (3, 32, 32)))["share"]
    assert uniform.between(0.01, 0.0108).all()


SIZES = [1728, 36864, 73728, 147456, 294912, 589824, 589824, 1179648, *[2359296] * 5, 524288, 65536, 2560]


@pytest.mark.parametrize("decay, expected", [
    (5e-4, ".41 .14 .085 .051 .030 .018 .018 .010 .006 .006 .006 .006 .006 .019 .093 .39"),
    (0.0, ".10 .08 .07 .05 .03 .02 .02 .011 .006 .006 .006 .006 .006 .022 .07 .10"),
])
def test_rates_without_data_are_those_of_vgg16(decay, expected):
    """Figures of the released code's optimiser on its rates alone. A tenth of each is allowed, of which its own way to
    count epochs for the learning rate takes half, or what they were rounded by.
    """
    found = rates.data_free(SIZES, Fraction("0.01"), decay=decay)
    for rate, figure in zip(found, expected.split(), strict=True):
        assert rate == pytest.approx(float(figure), rel=0.1, abs=0.5 * 10.0 ** (1 - len(figure)))
    total = sum(n * a for n, a in zip(SIZES, found, strict=True)) / sum(SIZES)
    assert total == pytest.approx(0.01, rel=2e-2) and total <= 0.01 * 1.0001


RULES = {
    "magnitude": {},
    "random": {"scores": "random"},
    "gradient": {"scores": "gradient"},
    "learned": {"scores": "learned"},
    "channels": {"granularity": "channels"},
    "filters": {"granularity": "channels", "scores": "filters"},
}


@functools.cache
def untrained(arch):
    with initialise_with("untrained", arch.name):
        return network(arch, (3, 32, 32), 10)


@pytest.mark.parametrize("arch", [VGG16(16), CNNSmall(), CNNLarge()], ids=lambda arch: arch.name)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_exactly_its_share_of_every_layer(arch, rule):
    """floor((1 - keep) n) of n are removed, of input channels where those are pruned; counted by the masks, by the
    table and in the network that is fine-tuned, where what is not kept is 0.
    """
    pixels, labels = torch.rand(2, 3, 32, 32, generator=generator("counts")), torch.tensor([1, 7])
    for keep in ("0.1", "0.05", "0.01"):
        with initialise_with("counts"):
            net = prune(untrained(arch), Pruned(arch, keep, **RULES[rule]), (3, 32, 32))
        if rule == "gradient":
            seen = TrainingBatch(pixels, labels, torch.arange(2), None, generator("counts"))
            loss_for(Saliency(CrossEntropy()))(net, seen, Progress(0, 0, 0.0))
        if rule == "learned":
            with torch.no_grad():
                for layer in masked_layers(net).values():
                    layer.scores += 0.1 * torch.rand(layer.scores.shape, generator=generator("counts", keep))
        table, tuned = kept(net).set_index("layer"), fixed(net)
        in_order = list(layers(untrained(arch)).items())
        for (name, layer), (_, in_front) in zip(in_order, in_order[:1] + in_order, strict=False):
            n, share = layer.weight.numel(), Fraction(keep)
            if "granularity" not in RULES[rule]:
                left = n - math.floor((1 - share) * n)
            elif name == "conv1.0":  # reads images
                left = n
            else:
                channels = in_front.weight.shape[0]
                left = (channels - math.floor((1 - share) * channels)) * (n // channels)
            found = tuned.get_submodule(name).weight
            assert table.weights[name] == n and table.kept[name] == left, (name, keep)
            assert int((found != 0).sum()) == left, (name, keep)


# ------------------------------------------------------------------------------------------------------------- searches

BASE = Recipe(DIGITS, CNN(16, 2), epochs=6, batch_size=64, optimiser=Optimiser("adam", lr=0.005, weight_decay=0))


def recipe_of(objective, arch=None, parent=BASE, **options):
    arch = arch or Pruned(CNN(16, 2), "0.1", **HARP)
    ready = {"epochs": 8, "optimiser": Optimiser(lr=0.1, nesterov=False, weight_decay=5e-4),
             "schedule": Schedule("cosine")}
    return replace(BASE, arch=arch, objective=objective, parents=(parent,), **(ready | options))


@functools.cache
def trained():
    """The dense network for digits."""
    net = build(BASE)
    fit(net, BASE, load(DIGITS, "train"), "cpu")
    return net.eval().requires_grad_(False)


def accuracy(net):
    images = load(DIGITS, "test")
    with torch.no_grad():
        return float((copy.deepcopy(net).eval()(images.pixels()).argmax(1) == images.labels).double().mean())


def batch(start=0, count=64, seed="batch"):
    images = load(DIGITS, "train").take(slice(start, start + count))
    return TrainingBatch(images.pixels(), images.labels, images.indices, None, generator(seed))


def search(recipe, net=None, steps=18, undecayed=(), finish=True):
    """The loop's steps as a search needs them: (network, rows of the epochs, objective)."""
    net, objective = build(recipe, [trained()]) if net is None else net, loss_for(recipe.objective)
    spec, rows = recipe.optimiser, []
    groups = {0.0: [], spec.weight_decay: []}
    for name, parameter in net.named_parameters():
        groups[0.0 if name.rpartition(".")[2] in undecayed else spec.weight_decay].append(parameter)
    optimiser = torch.optim.SGD([{"params": p, "weight_decay": d} for d, p in groups.items() if p], lr=spec.lr,
                                momentum=spec.momentum)
    for epoch in range(recipe.epochs):
        net.train()
        for step in range(steps):
            share = (epoch + step / steps) / recipe.epochs
            progress = Progress(epoch, epoch * steps + step, share)
            loss, _ = objective(net, batch(64 * step, seed=(epoch, step)), progress)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe.schedule, spec.lr, share)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        rows.append({"loss": float(loss.detach()), **objective.end_epoch(net)})
    if finish:
        objective.finish(net)
    return net.eval(), rows, objective


SLOW = Optimiser(lr=0.02, nesterov=False, weight_decay=5e-4)


@functools.cache
def harp():
    """(network, rows) of a search that grows gamma until one tenth is kept, from one third."""
    arch = Pruned(CNN(16, 2), "0.1", start_keep="1/3", **HARP)
    return search(recipe_of(Prune(CrossEntropy(), gamma=0.2), arch, optimiser=SLOW))[:2]


def test_the_training_loop_calls_a_search():
    arch = Pruned(CNN(16, 2), "0.1", start_keep="1/3", **HARP)
    recipe = recipe_of(Prune(CrossEntropy(), gamma=0.2), arch, optimiser=SLOW)
    rows = fit(net := build(recipe, [trained()]), recipe, load(DIGITS, "train"), "cpu")
    met = next(e for e, row in enumerate(rows) if round(row["hardware_loss"], 4) == 0)
    assert [row["gamma"] for row in rows] == pytest.approx([0.2 * (min(e, met) + 1) for e in range(len(rows))])
    assert rows[-1]["kept"] == pytest.approx(kept(net)["kept"].sum() / kept(net)["weights"].sum())
    weak = replace(recipe, objective=Prune(CrossEntropy(), gamma=0))
    with pytest.raises(TargetMissed, match="keep = 0.1"):
        fit(build(weak, [trained()]), weak, load(DIGITS, "train"), "cpu")


def test_only_what_is_named_is_free_of_weight_decay():
    net = build(recipe_of(Prune(CrossEntropy())), [trained()])
    every = make_optimiser(SLOW, net.named_parameters()).param_groups
    decayed, free = make_optimiser(replace(SLOW, no_decay=("quota",)), net.named_parameters()).param_groups
    assert len(every) == 1 and every[0]["weight_decay"] == decayed["weight_decay"] == 5e-4
    assert free["weight_decay"] == 0 and len(free["params"]) + len(decayed["params"]) == len(every[0]["params"])
    assert {id(p) for p in free["params"]} == {id(p) for n, p in net.named_parameters() if n.endswith("quota")}


def test_a_search_reaches_its_target_with_frozen_weights():
    net, rows = harp()
    for name, layer in layers(trained()).items():
        found = net.get_submodule(name)
        assert torch.equal(found.dense_weight, layer.weight)
        assert layer.bias is None or torch.equal(found.bias, layer.bias)
    fresh = build(recipe_of(Prune(CrossEntropy()), Pruned(CNN(16, 2), "0.1", start_keep="1/3", **HARP)), [trained()])
    assert not any(torch.equal(p, q) for p, q in zip(net.parameters(), fresh.parameters(), strict=True))
    share = kept(net)["kept"].sum() / kept(net)["weights"].sum()
    assert rows[-1]["kept"] == pytest.approx(share) and 0.05 < share < 0.1 * (1 + SLACK) + 0.001
    assert rows[0]["hardware_loss"] > 0.5 and rows[-1]["hardware_loss"] <= SLACK


def test_gamma_grows_until_the_target_is_met_and_then_stays():
    rows = harp()[1]
    met = next(e for e, row in enumerate(rows) if round(row["hardware_loss"], 4) == 0)
    assert 0 < met < len(rows) - 1, "the target is met on the way"
    grown = [0.2 * (min(e, met) + 1) for e in range(len(rows))]
    assert [row["gamma"] for row in rows] == pytest.approx(grown)


def test_gamma_can_be_constant():
    rows = search(recipe_of(Prune(CrossEntropy(), gamma=0.3, growing=False), epochs=3), steps=4, finish=False)[1]
    assert [row["gamma"] for row in rows] == [0.3] * 3


def test_learned_scores_are_better_than_magnitudes():
    """At one tenth, before any fine-tuning, and not because BN has seen the pruned network."""
    recipe = recipe_of(Prune(CrossEntropy()), Pruned(CNN(16, 2), "0.1", scores="learned"), optimiser=SLOW)
    net, rows, _ = search(recipe)
    start = search(replace(recipe, optimiser=replace(SLOW, lr=1e-9)))[0]
    assert not rows[0].keys() - {"loss"}, "no rates are learned: no hardware loss"
    assert accuracy(net) > accuracy(start) + 0.1
    counts = [layer.kept_mask().sum() for layer in masked_layers(net).values()]
    assert counts == [layer.kept_mask().sum() for layer in masked_layers(start).values()], "HYDRA's counts stay"


def test_a_target_that_is_missed_is_an_error_with_both_numbers():
    arch = Pruned(CNN(16, 2), "0.05", start_keep="0.5", **HARP)
    recipe = recipe_of(Prune(CrossEntropy(), gamma=1e-4), arch, epochs=1)
    net, _, objective = search(recipe, steps=2, finish=False)
    assert not objective.acceptable(net)
    with pytest.raises(TargetMissed) as error:
        objective.finish(net)
    text = str(error.value)
    assert isinstance(error.value, OneLineError) and "\n" not in text
    assert "keep = 0.05" in text and f"{Cost(net).kept():.4g} of the dense" in text and "gamma (0.0001)" in text


def test_a_search_is_resumed_with_its_gamma():
    first, net = loss_for(Prune(CrossEntropy())), build(recipe_of(Prune(CrossEntropy())), [trained()])
    with torch.no_grad():
        for layer in masked_layers(net).values():
            layer.quota.fill_(-9.0)
    first.epoch = 2
    assert first.end_epoch(net)["gamma"] == pytest.approx(0.03)
    second = loss_for(Prune(CrossEntropy()))
    second.load_state_dict(first.state_dict())
    second(net, batch(), Progress(7, 100, 0.5))
    assert second.gamma == first.gamma == pytest.approx(0.03)


@pytest.mark.parametrize("objective", [
    CrossEntropy(), Adversarial(THREAT, ATTACK), TRADES(THREAT, ATTACK), MART(THREAT, ATTACK), FreeAdversarial(THREAT),
    GradientNorm(1.0),
], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("granularity", ["weights", "channels"])
def test_every_objective_searches(objective, granularity):
    """Scores and rates get the gradient of the wrapped objective plus gamma times that of L_hw."""
    arch = Pruned(CNN(16, 2), "0.1", granularity, start_keep="0.4", **HARP)
    net = build(recipe_of(Prune(objective), arch), [trained()]).train()
    found = {}
    for gamma in (0.0, 2.0):
        candidate = copy.deepcopy(net)
        loss, logits = loss_for(Prune(objective, gamma))(candidate, batch(), Progress(0, 0, 0.0))
        loss.backward()
        assert logits.shape == (64, 10)
        found[gamma] = candidate
    Cost(net).excess().backward()
    for (name, one), two, alone in zip(found[0.0].named_parameters(), found[2.0].parameters(), net.parameters(),
                                       strict=True):
        assert one.grad is not None and one.grad.any(), name
        pull = 0 if alone.grad is None else 2 * alone.grad
        assert torch.allclose(two.grad, one.grad + pull, rtol=1e-4, atol=1e-5), name


def test_what_the_loop_asks_is_passed_on():
    assert loss_for(Prune(FreeAdversarial(THREAT, 3))).replays == 3 and loss_for(Prune(GradientNorm(1.0))).second_order
    free, net = loss_for(Prune(FreeAdversarial(THREAT, 3))), build(recipe_of(Prune(CrossEntropy())), [trained()])
    free(net, batch(), Progress(0, 0, 0.0))[0].backward()
    other = loss_for(Prune(FreeAdversarial(THREAT, 3)))
    other.load_state_dict(free.state_dict())
    assert torch.equal(other.inner.delta, free.state_dict()["inner"]["delta"]) and other.inner.delta.any()


def test_the_optimiser_alone_gives_the_rates_without_data():
    """Two ways to the same numbers: the network's own hardware loss under SGD, and lib.models.rates.data_free."""
    arch = Pruned(CNN(16, 2), "0.05", start_keep="0.1", rates="learned")
    recipe = recipe_of(Prune(CrossEntropy(), gamma=0.05), arch, epochs=5)
    sizes = [layer.weight.numel() for layer in layers(trained()).values()]
    for decay, undecayed in ((5e-4, ()), (0.0, ("quota",))):
        net = build(recipe, [trained()])
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.endswith("quota"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lib.training.losses.clean.CleanLoss.__call__", lambda *_: (torch.zeros(()), None))
            net, rows, _ = search(recipe, net, undecayed=undecayed, finish=False)
        expected = rates.data_free(sizes, Fraction("0.05"), decay=decay, epochs=5, steps=18, gamma=0.05)
        assert [layer.rate().item() for layer in masked_layers(net).values()] == pytest.approx(expected, rel=1e-3)
        assert rows[0]["hardware_loss"] > 0.1


def test_rates_can_be_taken_from_another_pruned_network():
    """HARP's rates under HYDRA's scores: the second parent gives the counts, not the masks."""
    pattern, arch = harp()[0], Pruned(CNN(16, 2), "0.1", rates="parent", scores="random")
    with initialise_with("transplant"):
        net = prune(trained(), arch, (1, 8, 8), pattern)
    for name, layer in masked_layers(net).items():
        theirs = pattern.get_submodule(name).kept_mask()
        assert layer.mask.sum() == theirs.sum() and not torch.equal(layer.mask, theirs)
    for wrong in (None, trained(), prune(vgg16(), Pruned(VGG16(), "0.5", "channels"), (3, 32, 32))):
        with pytest.raises(SettingsError, match="parents"):
            prune(trained(), arch, (1, 8, 8), wrong)


# ------------------------------------------------------------------------------------------------------------- saliency


def gradients_of(net, parts):
    """theta * dL/dtheta of the dense network, summed over the batches."""
    net = copy.deepcopy(net).train().requires_grad_(True)
    sums = {name: 0 for name in layers(net)}
    for part in parts:
        net.zero_grad()
        F.cross_entropy(net(part.images), part.labels).backward()
        for name, layer in layers(net).items():
            sums[name] = sums[name] + (layer.weight * layer.weight.grad).detach()
    return sums


@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_saliency_is_the_gradient_of_the_gates_of_the_dense_network(rule):
    arch = Pruned(CNN(16, 2), "0.05", rates=rule, scores="gradient")
    recipe = recipe_of(Saliency(CrossEntropy()), arch, epochs=1)
    net, _, _ = search(recipe, steps=2)
    fresh = dict(build(recipe, [trained()]).named_parameters())
    assert all(torch.equal(p, fresh[name]) for name, p in net.named_parameters()), "nothing is trained"
    expected = gradients_of(trained(), [batch(0), batch(64)])
    for name, layer in masked_layers(net).items():
        assert torch.allclose(layer.scores, expected[name], rtol=1e-3, atol=1e-6)
    table = kept(net)
    if rule == "global":
        assert table["kept"].sum() == rates.total_of(list(table["weights"]), Fraction("0.05"))
        every = torch.cat([layer.scores.abs().flatten() for layer in masked_layers(net).values()])
        left = torch.cat([layer.kept_mask().flatten() for layer in masked_layers(net).values()])
        assert every[left].min() >= every[~left].max()
    else:
        assert list(table["kept"]) == rates.uniform(list(table["weights"]), Fraction("0.05"))


def test_saliency_of_channels_sums_over_their_weights():
    arch = Pruned(CNN(16, 2), "0.5", "channels", scores="gradient")
    net, _, _ = search(recipe_of(Saliency(CrossEntropy()), arch, epochs=1), steps=1)
    expected = gradients_of(trained(), [batch(0)])
    assert torch.allclose(net.conv2[1].scores, expected["conv2.1"].sum((0, 2, 3)), rtol=1e-3, atol=1e-6)
    assert torch.allclose(net.head[2].scores, expected["head.2"].sum(0), rtol=1e-3, atol=1e-6)


def snip(rule, train, keep="0.2"):
    """SNIP of the trained dense network by an adversarial objective, on `train` images in batches of 64."""
    return replace(recipe_of(Saliency(ROBUST), Pruned(CNN(16, 2), keep, rates=rule, scores="gradient"), epochs=1),
                   data=Data("digits", train=train))


@pytest.mark.parametrize("rule", ["uniform", "global"])
@pytest.mark.parametrize("batches", [1, 3], ids=["one batch", "an epoch"])
def test_snip_by_an_adversarial_objective_and_its_fine_tuning(rule, batches):
    """The training loop searches and then trains. Attacks and gradients are those of the dense network."""
    recipe = snip(rule, 64 * batches)
    seen = load(recipe.data, "train")
    found = build(recipe, [trained()])
    assert len(fit(found, recipe, seen, "cpu")) == 1
    own, objective, expected = copy.deepcopy(trained()).requires_grad_(True).train(), loss_for(ROBUST), {}
    order = torch.randperm(len(seen), generator=generator(recipe.key, "order", 0))
    for step, chosen in enumerate(order.split(64)):
        part = seen.take(chosen)
        draw = generator(recipe.key, "step", 0, step)
        own.zero_grad()
        given = TrainingBatch(part.pixels(), part.labels, part.indices, None, draw)
        objective(own, given, Progress(0, step, 0.0))[0].backward()
        for name, layer in layers(own).items():
            expected[name] = expected.get(name, 0) + (layer.weight * layer.weight.grad).detach()
    masked = masked_layers(found)
    for name, layer in masked.items():
        assert torch.allclose(layer.scores, expected[name], rtol=1e-3, atol=1e-6)
        assert torch.equal(layer.dense_weight, trained().get_submodule(name).weight)
    every = torch.cat([layer.scores.abs().flatten() for layer in masked.values()])
    left = torch.cat([layer.kept_mask().flatten() for layer in masked.values()])
    sizes = [layer.scores.numel() for layer in masked.values()]
    if rule == "global":
        assert left.sum() == rates.total_of(sizes, Fraction(1, 5)) and every[left].min() >= every[~left].max()
    else:
        assert [int(layer.kept_mask().sum()) for layer in masked.values()] == rates.uniform(sizes, Fraction(1, 5))
        assert all(layer.scores.abs()[layer.kept_mask()].min() >= layer.scores.abs()[~layer.kept_mask()].max()
                   for layer in masked.values())
    tuning = replace(BASE, arch=recipe.arch, objective=ROBUST, parents=(recipe,), epochs=4, schedule=Schedule("cosine"))
    net = build(tuning, [found])
    start = accuracy(net)
    fit(net, tuning, load(tuning.data, "train"), "cpu")
    assert accuracy(net) > start + 0.15
    for name, layer in masked_layers(net).items():
        assert torch.equal(layer.mask, masked[name].kept_mask()) and (layer.dense_weight[~layer.mask] == 0).all()
        assert not torch.equal(layer.dense_weight[layer.mask], masked[name].dense_weight[layer.mask]), "trained"


ROBUST = Adversarial(THREAT, PGD(2, "0.05"))
TUNINGS = {
    "momentum and weight decay": {"optimiser": Optimiser(lr=0.05, nesterov=False, weight_decay=0.01)},
    "Nesterov": {"optimiser": Optimiser(lr=0.05, weight_decay=0.01)},
    "Adam": {"optimiser": Optimiser("adam", lr=0.005, weight_decay=0.01)},
    "average of weights": {"optimiser": Optimiser(lr=0.05, weight_decay=0.01), "ema": 0.9},
}


@pytest.mark.parametrize("rule", ["magnitude", "filters"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_chain_of_prunings_and_fine_tunings_only_loses(tuning, rule):
    """1/2, 1/4, 1/10, each fine-tuned by the training loop: what is once removed is 0 ever after."""
    recipe, net, lost = replace(BASE, arch=CNN(16, 2), data=Data("digits", train=192)), trained(), {}
    for keep in ("1/2", "1/4", "1/10"):
        recipe = replace(recipe, arch=Pruned(CNN(16, 2), keep, **RULES[rule]), parents=(recipe,), epochs=1,
                         **TUNINGS[tuning])
        net = build(recipe, [net])
        start = {name: layer.weight.detach().clone() for name, layer in masked_layers(net).items()}
        masks = {name: layer.kept_mask().clone() for name, layer in masked_layers(net).items()}
        fit(net, recipe, load(recipe.data, "train"), "cpu")
        for name, layer in masked_layers(net).items():
            n = masks[name].numel()
            assert torch.equal(layer.kept_mask(), masks[name])
            assert int(masks[name].sum()) == n - math.floor((1 - Fraction(keep)) * n)
            assert torch.equal(layer.weight == 0, start[name] == 0), "nothing revived, nothing lost"
            assert (layer.dense_weight[layer.weight == 0] == 0).all(), "and no weight waits behind the mask"
            assert not (lost.get(name, False) & (layer.weight != 0)).any()
            assert not torch.equal(layer.weight, start[name])
            lost[name] = (layer.weight == 0).detach()
    if rule == "filters":
        x = batch().images
        with torch.no_grad():
            assert torch.allclose(shrunk(net.eval())(x), net(x), rtol=1e-5, atol=1e-5 * float(net(x).abs().max()))


def test_no_saliency_is_an_error():
    net = build(recipe_of(Saliency(CrossEntropy()), Pruned(CNN(16, 2), "0.5", scores="gradient")), [trained()])
    with pytest.raises(OneLineError, match="no saliency"):
        loss_for(Saliency(CrossEntropy())).finish(net)


@pytest.mark.parametrize("objective", [Prune(CrossEntropy()), Saliency(CrossEntropy())], ids=["prune", "saliency"])
def test_searches_need_something_to_find(objective):
    with pytest.raises(SettingsError, match="objective"):
        loss_for(objective)(build(BASE), batch(), Progress(0, 0, 0.0))
    for outer in (Prune, Saliency):
        with pytest.raises(SettingsError, match="one that trains weights"):
            outer(objective)
    with pytest.raises(SettingsError, match="gamma = -1"):
        Prune(CrossEntropy(), gamma=-1)


# -------------------------------------------------------------------------------------------------- tables and exports


@pytest.mark.parametrize("arch", [
    VGG16(16), VGG11(16), ResNet(16, (2, 1)), PreActResNet(16, (1, 1)), WideResNet(10, 2), ImageNetResNet(50, 16),
    CNN(16, 3), CNNSmall(), CNNLarge(), MLP((64, 32)),
], ids=lambda arch: arch.name)
@pytest.mark.parametrize("scores", ["magnitude", "filters"])
def test_shrunk_networks_give_the_same_for_fewer_operations(arch, scores):
    with initialise_with("shrunk"):
        parent = network(arch, (3, 32, 32), 10)
    draw = generator("shrunk")
    for module in parent.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
            module.bias.data.normal_(0, 0.3, generator=draw)
    net = prune(parent, Pruned(arch, "0.4", "channels", scores=scores), (3, 32, 32)).eval()
    small, x = shrunk(net), torch.rand(4, 3, 32, 32, generator=draw)
    with torch.no_grad():
        out = net(x)
        assert (small(x) - out).abs().max() <= 1e-5 * out.abs().max()
        assert not torch.allclose(parent.eval()(x), out, rtol=1e-2)
    assert list(small.stages) == list(arch.stages) and not masked_layers(small)
    share = forward_flops(small, (3, 32, 32)) / forward_flops(parent, (3, 32, 32))
    assert share == pytest.approx(Cost(net).kept()) and share < 0.62
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in parent.parameters())


def test_a_searched_network_is_shrunk_after_its_search():
    arch = Pruned(ResNet(16, (1, 1)), "0.5", "channels", start_keep="0.9", **HARP)
    parent = Recipe(DIGITS, ResNet(16, (1, 1)))
    recipe = recipe_of(Prune(CrossEntropy(), gamma=0.5), arch, parent)
    net, rows, _ = search(recipe, build(recipe, [build(parent)]), steps=6)
    assert rows[0]["kept"] > rows[-1]["kept"]
    x = batch().images
    with torch.no_grad():
        assert torch.allclose(shrunk(net)(x), net(x), atol=1e-5 * float(net(x).abs().max()))


def test_only_channels_make_a_network_smaller():
    with pytest.raises(SettingsError, match="whose channels are pruned"):
        shrunk(prune(trained(), Pruned(CNN(16, 2), "0.5"), (1, 8, 8)))


def test_the_table_of_kept_weights():
    net = prune(trained(), Pruned(CNN(16, 2), "0.3"), (1, 8, 8))
    table = kept(net)
    assert list(table["layer"]) == ["conv1.0", "conv2.1", "head.2"] and list(table["weights"]) == [144, 4608, 320]
    assert list(table["kept"]) == [44, 1383, 96] == [int((m.weight != 0).sum()) for m in layers(dense(net)).values()]
    assert list(table["share"]) == pytest.approx([44 / 144, 1383 / 4608, 0.3])
    table = kept(prune(trained(), Pruned(CNN(16, 2), "0.3", "channels"), (1, 8, 8)))
    assert list(table["kept"]) == [144, 9 * 32 * 5, 10 * 10] and table["kept_channels"].tolist()[1:] == [5, 10]


def test_values_of_different_prunings_have_different_keys():
    archs = [Pruned(CNN(16, 2), keep, kind, rule, scores) for keep, kind, rule, scores in itertools.product(
        ("0.1", "0.2"), ("weights", "channels"), ("uniform", "learned"), ("magnitude", "learned"))]
    assert len({replace(BASE, arch=arch, parents=(BASE,), epochs=0).key for arch in archs}) == len(archs)
    searched = [arch for arch in archs if arch.searched]
    keys = {recipe_of(Prune(CrossEntropy(), gamma), arch).key for arch in searched for gamma in (0.01, 0.1)}
    assert len(keys) == 2 * len(searched)




class Between(nn.Module):
    """Two convolutions with a module between them, from elsewhere; `twice`: the first runs twice."""

    def __init__(self, between, twice=False):
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), between
        self.c, self.head, self.twice = nn.Conv2d(8, 16, 1), nn.Linear(16, 10), twice

    def forward(self, x):
        x = self.b(self.a(x).relu())
        x = self.b(x) if self.twice else x
        return self.head(self.c(self.between(x)).mean((2, 3)))


MIXING = [nn.ChannelShuffle(2), nn.Softmax2d(), nn.LocalResponseNorm(3), nn.GroupNorm(2, 8),
          nn.ConvTranspose2d(8, 8, 1),
          nn.LayerNorm([8, 16, 16]), nn.PReLU(8)]


@pytest.mark.parametrize("between", [*MIXING, nn.Identity(), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Sigmoid()],
                         ids=lambda module: type(module).__name__)
@pytest.mark.parametrize("twice", [False, True])
def test_a_network_from_elsewhere_is_shrunk_to_one_that_gives_the_same(between, twice):
    with initialise_with("between"):
        net = Between(copy.deepcopy(between), twice).eval()
    net = prune(net, Pruned(ResNet(16, (1,)), "1/2", granularity="channels"), (3, 16, 16)).eval()
    x = torch.rand(4, 3, 16, 16, generator=generator("between"))
    with torch.no_grad():
        torch.testing.assert_close(shrunk(net).eval()(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_traced_is_refused_in_a_sentence():
    class Choosing(Between):
        def forward(self, x):
            return super().forward(x if x.mean() > 0 else -x)

    with pytest.raises(SettingsError, match="network = Choosing .* the same operations for all images"):
        prune(Choosing(nn.Identity()).eval(), Pruned(ResNet(16, (1,)), "1/2", granularity="channels"), (3, 16, 16))
