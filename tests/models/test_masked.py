"""Masked layers: what they compute, which gradients they give, how they are built, folded, followed and counted."""

import copy
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.certify.intervals import worst_margins
from lib.errors import SettingsError
from lib.models import Twin, build, folded, forward_flops, network
from lib.models.links import layers, links, positions
from lib.models.masked import dense, largest, masked_layers, opened
from lib.models.prune import Cost, fixed, prune
from lib.runtime import generator, initialise_with
from lib.values.architectures import (
    CNN,
    MLP,
    VGG16,
    CNNSmall,
    ImageNetResNet,
    PreActResNet,
    Pruned,
    ResNet,
    Stitch,
    ViT,
)
from lib.values.architectures import Probe as ProbeArch
from lib.values.data import Data
from lib.values.objectives import CrossEntropy, Prune
from lib.values.recipe import Recipe

SHAPE = (3, 32, 32)
SMALL, RES = CNN(16, 2), ResNet(16, (1, 1))


def images(count=4, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def plain(arch, seed=0):
    """A network whose BN statistics and affine parameters are as training leaves them: all different."""
    with initialise_with("masked", seed):
        net, draw = network(arch, SHAPE, 10), torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3, generator=draw)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2, generator=draw)
    return net.eval()


def pruned(arch=SMALL, keep="0.3", seed=0, **options):
    with initialise_with("prune", seed):
        return prune(plain(arch, seed), Pruned(arch, keep, **options), SHAPE).eval()


def harp(arch=SMALL, keep="0.1", **options):
    return pruned(arch, keep, rates="learned", scores="learned", **options)


def by_hand(net):
    """`net` with every weight multiplied by its mask as written down by torch's own layers."""
    other = copy.deepcopy(net)
    for name, layer in masked_layers(net).items():
        parent, _, child = name.rpartition(".")
        made = (nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                          bias=layer.bias is not None)
                if isinstance(layer, nn.Conv2d) else nn.Linear(layer.in_features, layer.out_features))
        made.weight.data = layer.dense_weight.detach() * layer.spread(layer.kept_mask())
        if layer.bias is not None:
            made.bias.data = layer.bias.detach().clone()
        other.get_submodule(parent)._modules[child] = made
    return other.eval()


KINDS = {
    "fixed": lambda: pruned(RES),
    "searched": lambda: harp(RES),
    "channels": lambda: pruned(RES, granularity="channels"),
    "channels searched": lambda: harp(RES, granularity="channels", start_keep="0.5"),
    "filters": lambda: pruned(RES, granularity="channels", scores="filters"),
    "vgg": lambda: pruned(VGG16(16)),
    "no BN": lambda: pruned(CNNSmall()),
    "tokens": lambda: pruned(ViT(32, 2, heads=4, mlp=16, patch=4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_the_dense_one_times_its_masks(kind):
    net, x = KINDS[kind](), images()
    assert masked_layers(net) and sum(int((~layer.kept_mask()).sum()) for layer in masked_layers(net).values())
    assert torch.equal(net(x), by_hand(net)(x))
    assert torch.equal(dense(net)(x), net(x))
    assert not masked_layers(dense(net)) and masked_layers(net), "a copy"
    scale = net(x).abs().max()
    assert (folded(net)(x) - net(x)).abs().max() < 1e-5 * scale
    assert not masked_layers(folded(net))
    assert forward_flops(net, SHAPE) == forward_flops(dense(net), SHAPE)


def test_the_dense_export_is_a_state_of_the_plain_architecture():
    net = pruned(RES)
    other = plain(RES, seed=5)
    other.load_state_dict(dense(net).state_dict())
    assert torch.equal(other(images()), net(images()))
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers(other).values())
    assert zeros == sum(int((~layer.mask).sum()) for layer in masked_layers(net).values()) > 0


def test_names_stages_and_joints_are_those_of_the_dense_network():
    net, parent = harp(RES), plain(RES)
    assert list(net.stages) == list(parent.stages) == list(RES.stages)
    assert [n for n, _ in net.named_modules()] == [n for n, _ in parent.named_modules()]
    assert set(parent.state_dict()) < set(net.state_dict())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in parent.state_dict().items()), "dense weights are kept"
    x = images()
    assert torch.equal(net.back("layer1.0")(net.front("layer1.0")(x)), net(x))


# ------------------------------------------------------------------------------------------------------------ the rules


@pytest.mark.parametrize("keep", ["0.01", "0.1", "0.29", "0.5", "0.999"])
def test_exactly_the_floor_is_removed_from_every_layer(keep):
    for layer in masked_layers(pruned(keep=keep)).values():
        n = layer.mask.numel()
        assert int((~layer.mask).sum()) == math.floor((1 - Fraction(keep)) * n)
        weight = layer.dense_weight.abs()
        assert weight[layer.mask].min() > 0 and (weight[~layer.mask] == 0).all()


def test_the_largest_are_kept_and_ties_do_not_change_the_number():
    values = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    assert largest(values, 2).tolist() == [[True, False, True], [False, False, False]]
    assert [int(largest(values, k).sum()) for k in range(7)] == list(range(7))
    assert int(largest(torch.zeros(10), 3).sum()) == 3
    net, parent = pruned(keep="0.25"), plain(SMALL)
    for name, layer in masked_layers(net).items():
        size = parent.get_submodule(name).weight.abs()
        assert size[layer.mask].min() > size[~layer.mask].max()


def one_layer(keep="0.2", **options):
    """A searched network of one linear layer of eight weights; its lowest rate is a tenth of `keep`."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.4, -0.8, 0.1, 0.6], [-0.2, 0.3, -0.7, 0.5]]))
        net[1].bias.copy_(torch.tensor([0.1, -0.1]))
    arch = Pruned(MLP((2,)), keep, rates="learned", scores="learned", start_keep="0.5", **options)
    return prune(net, arch, (1, 2, 2))[1]


def test_hydras_scores_and_the_rate_map_by_hand():
    layer = one_layer()
    expected = math.sqrt(6 / 4) * layer.dense_weight / 0.8
    assert torch.allclose(layer.scores, expected)  # signed, the largest is sqrt(6 / fan_in)
    assert layer.lowest == pytest.approx(0.02)
    raw = math.log((0.48 / 0.98) / (1 - 0.48 / 0.98))
    assert layer.quota.item() == pytest.approx(raw, rel=1e-5) and layer.rate().item() == pytest.approx(0.5)
    assert layer.kept_mask().tolist() == [[False, True, False, True], [False, False, True, True]]
    with torch.no_grad():
        layer.quota.fill_(-100.0)
    assert layer.rate().item() == pytest.approx(0.02) and int(layer.kept_mask().sum()) == 1  # 8 - floor(0.98 * 8)


def test_gradients_are_straight_through():
    """dL/d|S| := dL/dM, then the sign; dL/da := the sum of dL/dM, then (1 - lowest) sigmoid'."""
    layer, x = one_layer(), torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.5, -1.0, 3.0, 1.0]])
    out = layer(x)
    assert torch.equal(out, F.linear(x, layer.dense_weight * layer.mask, layer.bias)), "forward is the mask's"
    out.square().sum().backward()
    to_weight = 2 * out.detach().t() @ x  # dL/dW of the effective weight
    to_mask = to_weight * layer.dense_weight
    assert torch.allclose(layer.scores.grad, to_mask * layer.scores.sign())
    slope = 0.98 * torch.sigmoid(layer.quota) * (1 - torch.sigmoid(layer.quota))
    assert torch.allclose(layer.quota.grad, to_mask.sum() * slope)
    assert [name for name, _ in layer.named_parameters()] == ["scores", "quota"], "weight and bias are frozen"


def test_channel_scores_are_true_l1_norms_and_their_gradients_sums():
    parent, net = plain(CNNSmall()), harp(CNNSmall(), granularity="channels", start_keep="0.5")
    conv, linear = net.conv2[0], net.linear1[1]
    assert list(masked_layers(net)) == ["conv2.0", "linear1.1", "head"], "what reads images is exempt"
    norms = parent.conv2[0].weight.abs().sum((0, 2, 3))
    assert torch.allclose(conv.scores, math.sqrt(6 / (16 * 4 * 4)) * norms / norms.max())
    assert linear.group == 64 and linear.scores.shape == (32,)  # a channel of 8x8 pixels is flattened to 64 inputs
    norms = parent.linear1[1].weight.abs().view(100, 32, 64).sum((0, 2))
    assert torch.allclose(linear.scores, math.sqrt(6 / 2048) * norms / norms.max())
    weights = {layer: layer.weight for layer in (conv, linear)}
    for layer, weight in weights.items():
        weight.retain_grad()
        layer.stand_in = weight
    net(images()).square().sum().backward()
    by_weight = weights[conv].grad * conv.dense_weight
    assert torch.allclose(conv.scores.grad, by_weight.sum((0, 2, 3)), rtol=1e-4, atol=1e-6)
    by_weight = weights[linear].grad * linear.dense_weight
    assert torch.allclose(linear.scores.grad, by_weight.view(100, 32, 64).sum((0, 2)), rtol=1e-4, atol=1e-6)


def test_filters_rank_the_channels_that_they_make():
    """By hand: the L1 norm of all weights of an output channel; a flattened map has 64 features of each channel."""
    parent, net = plain(CNNSmall()), pruned(CNNSmall(), "0.25", granularity="channels", scores="filters")
    made_by = {"conv2.0": "conv1.0", "linear1.1": "conv2.0", "head": "linear1.1"}
    assert list(masked_layers(net)) == list(made_by), "what reads images is exempt"
    for name, front in made_by.items():
        filters = parent.get_submodule(front).weight.detach().abs().flatten(1).sum(1)
        best = filters.argsort(descending=True)[: len(filters) // 4].sort().values
        found = net.get_submodule(name).kept_mask()
        assert found.nonzero().flatten().tolist() == best.tolist()
    columns = net.linear1[1].weight.detach().abs().sum(0).view(32, 64)
    assert (columns[net.linear1[1].kept_mask()] > 0).all() and int((columns == 0).all(1).sum()) == 24
    slices = pruned(CNNSmall(), "0.25", granularity="channels")
    assert any(not torch.equal(layer.kept_mask(), slices.get_submodule(name).kept_mask())
               for name, layer in masked_layers(net).items()), "the layer's own input slices say another thing"


@pytest.mark.parametrize("arch, options", [
    (ResNet(16, (2, 1)), {}), (PreActResNet(16, (2, 1)), {}), (ImageNetResNet(50, 4), {}),
    (ResNet(16, (2, 1)), {"rates": "learned", "start_keep": "0.5"}),
], ids=["ResNet", "PreActResNet", "bottlenecks", "learned rates"])
def test_layers_that_read_the_same_tensor_lose_the_same_channels(arch, options):
    parent, net = plain(arch), pruned(arch, "0.25", granularity="channels", scores="filters", **options)
    link, sums = links(net), 0
    for name, layer in masked_layers(net).items():
        readers = [n for n in masked_layers(net) if link[n].source == link[name].source]
        for other in readers:
            assert torch.equal(layer.kept_mask(), net.get_submodule(other).kept_mask()), (name, other)
        if link[name].producer is None:
            weights = [parent.get_submodule(n).weight.detach() for n in readers]
            expected = sum((w.abs().sum((0, 2, 3)) if w.dim() == 4 else w.abs().sum(0)) for w in weights)
            sums += len(readers) > 1
        else:
            expected = parent.get_submodule(link[name].producer).weight.detach().abs().flatten(1).sum(1)
        assert torch.equal(layer.kept_mask(), largest(expected, int(layer.kept_mask().sum())))
    assert sums, "a sum that several layers read"


def test_random_scores_are_the_recipes():
    recipes = [Recipe(Data("cifar10"), Pruned(SMALL, "0.3", scores="random"), seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([layer.mask for layer in masked_layers(build(r)).values()] for r in recipes)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_layers_without_weights_are_named():
    net = plain(SMALL)
    nn.init.zeros_(net.conv2[1].weight)
    with pytest.raises(SettingsError, match=r"conv2\.1"):
        prune(net, Pruned(SMALL, "0.5"), SHAPE)


# --------------------------------------------------------------------------------------------------- keeping up to date


def test_masks_are_found_once_an_update(monkeypatch):
    from lib.models import masked

    calls = []
    monkeypatch.setattr(masked, "largest", lambda *a: calls.append(1) or largest(*a))
    net, count = harp(), len(masked_layers(harp()))
    twin = Twin(net)
    for update in range(1, 4):
        calls.clear()
        attacked = twin.follow()
        for _ in range(3):
            attacked(images())
        (net(images()).sum() + net(images(seed=1)).sum()).backward()
        assert len(calls) == count if update > 1 else len(calls) <= count
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.01 * torch.rand(parameter.shape, generator=generator(update)))


@pytest.mark.parametrize("change", ["quota", "scores", "load", "copy and load"])
def test_masks_follow_scores_and_rates(change):
    net = harp()
    old = {name: layer.kept_mask().clone() for name, layer in masked_layers(net).items()}
    if change == "quota":
        with torch.no_grad():
            for layer in masked_layers(net).values():
                layer.quota += 1.0
    elif change == "scores":
        with torch.no_grad():
            for layer in masked_layers(net).values():
                layer.scores.copy_(layer.scores.flip(0))
    else:
        state = harp(seed=1).state_dict()
        net = copy.deepcopy(net) if "copy" in change else net
        net.load_state_dict(state)
    for name, layer in masked_layers(net).items():
        found = layer.kept_mask()
        assert not torch.equal(found, old[name])
        assert torch.equal(found, largest(layer.scores.abs(), layer.to_keep()))


@pytest.mark.parametrize("kind", ["fixed", "searched", "channels searched", "no BN"])
def test_twins_follow_a_pruned_network(kind):
    net, x = KINDS[kind](), images()
    twin = Twin(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.rand(parameter.shape, generator=generator("twin")))
        assert not torch.allclose(twin.copy(x), net(x), atol=1e-3), "the copy is behind"
        assert torch.allclose(twin.follow()(x), net(x), rtol=1e-4, atol=1e-4 * float(net(x).abs().max()))
    assert not any(p.requires_grad for p in twin.copy.parameters()) and not masked_layers(twin.copy)


def test_opened_networks_are_dense_for_a_while():
    net, parent, x = harp(), plain(SMALL), images()
    before = net(x)
    with opened(net) as weights:
        assert torch.equal(net(x), parent(x)) and len(weights) == len(masked_layers(net))
        net(x).sum().backward()
    assert all(weight.grad.any() for weight in weights.values()) and torch.equal(net(x), before)


# ------------------------------------------------------------------------------------------------------------- recipes

DENSE = Recipe(Data("cifar10"), SMALL)
SEARCH = Recipe(Data("cifar10"), Pruned(SMALL, "0.1", rates="learned", scores="learned"),
                Prune(DENSE.objective), parents=(DENSE,))


def test_a_search_learns_scores_rates_and_batchnorm_only():
    net = build(SEARCH, [plain(SMALL)])
    names = {name for name, _ in net.named_parameters()}
    prunable = set(masked_layers(net))
    norms = {n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert names == {f"{n}.{p}" for n in prunable for p in ("scores", "quota")} | {
        f"{n}.{p}" for n in norms for p in ("weight", "bias")}


def test_fine_tuning_keeps_masks_and_revives_nothing():
    """Not with momentum, weight decay or Adam, and the weights that are kept do learn."""
    found = build(SEARCH, [plain(SMALL)]).eval().requires_grad_(False)
    recipe = replace(SEARCH, objective=DENSE.objective, parents=(SEARCH,))
    for kind in (torch.optim.SGD, torch.optim.Adam):
        net = build(recipe, [found])
        assert torch.equal(net.eval()(images()), found(images())), "starts as the search ended"
        assert {n for n, _ in net.named_parameters()} == {n for n, _ in plain(SMALL).named_parameters()}
        masks = {name: layer.mask.clone() for name, layer in masked_layers(net).items()}
        start = {name: layer.dense_weight.detach().clone() for name, layer in masked_layers(net).items()}
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        optimiser = kind(net.train().parameters(), lr=0.05, weight_decay=0.01, **options)
        for step in range(3):
            optimiser.zero_grad()
            F.cross_entropy(net(images(8, step)), torch.arange(8)).backward()
            optimiser.step()
        for name, layer in masked_layers(net).items():
            assert torch.equal(layer.mask, masks[name]) and torch.equal(layer.mask, found.get_submodule(name).mask)
            assert (layer.dense_weight[~layer.mask] == 0).all()
            assert not torch.equal(layer.dense_weight, start[name])


def test_static_rules_need_no_search_and_learned_ones_an_epoch():
    arch = Pruned(SMALL, "0.2")
    net = build(Recipe(Data("cifar10"), arch, parents=(DENSE,), epochs=0), [plain(SMALL)])
    assert not any(layer.searched for layer in masked_layers(net).values())
    with pytest.raises(SettingsError, match="epochs = 0 .* at least 1"):
        build(replace(SEARCH, epochs=0), [plain(SMALL)])


AGAIN = {
    "magnitude": {},
    "random": {"scores": "random"},
    "gradient": {"scores": "gradient"},
    "learned": {"scores": "learned"},
    "HARP": {"scores": "learned", "rates": "learned"},
    "random, learned rates": {"scores": "random", "rates": "learned"},
    "LAMP": {"rates": "lamp"},
    "ERK": {"rates": "erk"},
    "global": {"rates": "global"},
    "channels": {"granularity": "channels"},
    "random channels": {"granularity": "channels", "scores": "random"},
    "filters": {"granularity": "channels", "scores": "filters"},
}


@pytest.mark.parametrize("rule", AGAIN)
def test_pruning_once_more_removes_what_was_removed_before_too(rule):
    """Iterative pruning: 1/2, 1/4, 1/10 of the dense network. Survivors alone are kept, as many as from a dense one,
    and fine-tuning revives nothing that either pruning removed.
    """
    options = AGAIN[rule]
    rates = options.get("rates", "uniform")
    net = pruned(SMALL, "0.5", **{k: v for k, v in options.items() if k != "rates" or v != "learned"})
    for keep in ("0.25", "0.1"):
        before = fixed(net)
        with torch.no_grad():  # as training leaves survivors: other weights, in another order
            for layer in masked_layers(before).values():
                layer.dense_weight.copy_(torch.randn(layer.dense_weight.shape, generator=generator(rule, keep)))
        with initialise_with("again", keep):
            net = prune(before, Pruned(SMALL, keep, **options), SHAPE)
        counts = [int(layer.kept_mask().sum()) for layer in masked_layers(net).values()]
        sizes = [layer.kept_mask().numel() for layer in masked_layers(net).values()]
        if rates == "uniform":
            assert counts == [n - math.floor((1 - Fraction(keep)) * n) for n in sizes]
        elif rates != "learned":
            assert sum(counts) == math.floor(Fraction(keep) * sum(sizes) + Fraction(1, 2))
        tuned = fixed(net).train()
        optimiser = torch.optim.SGD(tuned.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for step in range(2):
            optimiser.zero_grad()
            F.cross_entropy(tuned(images(8, step)), torch.arange(8)).backward()
            optimiser.step()
        for name, layer in masked_layers(tuned).items():
            left, earlier = layer.weight != 0, before.get_submodule(name)
            assert (layer.kept_mask() <= earlier.kept_mask()).all() and layer.kept_mask().any()
            assert not (left & (earlier.weight == 0)).any(), "nothing is revived"
            assert not (left & (net.get_submodule(name).weight == 0)).any()


def test_magnitudes_of_survivors_decide_what_goes_next():
    once = pruned(SMALL, "0.5")
    with torch.no_grad():
        for layer in masked_layers(once).values():
            layer.dense_weight.copy_(layer.dense_weight.sign() / (1e-3 + layer.dense_weight.abs()))  # the order turned
            layer.dense_weight.mul_(layer.mask)
    twice = prune(once, Pruned(SMALL, "0.2"), SHAPE)
    for name, layer in masked_layers(twice).items():
        before = once.get_submodule(name)
        assert before.weight.abs()[layer.mask].min() > before.weight.abs()[before.mask & ~layer.mask].max()


def test_survivors_that_are_zero_come_before_what_is_lost():
    """A weight that training has brought to 0 is still one of the kept: nothing lost takes its place."""
    once = pruned(SMALL, "0.5")
    with torch.no_grad():
        for layer in masked_layers(once).values():
            layer.dense_weight[layer.mask & (torch.rand(layer.mask.shape, generator=generator("zero")) < 0.9)] = 0
    twice = prune(once, Pruned(SMALL, "0.4"), SHAPE)
    for name, layer in masked_layers(twice).items():
        n = layer.mask.numel()
        assert int(layer.mask.sum()) == n - math.floor(Fraction(3, 5) * n)
        assert not (layer.mask & ~once.get_submodule(name).mask).any()


def test_an_earlier_pruning_bounds_the_next():
    once = pruned(SMALL, "0.2")
    for arch, words in ((Pruned(SMALL, "0.3"), ["arch.keep = 3/10", "lower", "conv1.0", "130 weights", "87 left"]),
                        (Pruned(SMALL, "0.19", rates="erk"), ["arch.keep = 19/100", "conv1.0"]),
                        (Pruned(SMALL, "0.1", "channels"), ["arch.granularity = channels", "single weights"])):
        with pytest.raises(SettingsError) as error:
            prune(once, arch, SHAPE)
        text = str(error.value)
        assert "\n" not in text and all(word in text for word in words), text
    assert all(torch.equal(layer.mask, once.get_submodule(name).mask)
               for name, layer in masked_layers(prune(once, Pruned(SMALL, "0.2"), SHAPE)).items())
    weights = prune(pruned(SMALL, "0.5", granularity="channels"), Pruned(SMALL, "0.1"), SHAPE)
    channels = pruned(SMALL, "0.5", granularity="channels").conv2[1]
    assert not (weights.conv2[1].mask & ~channels.spread(channels.kept_mask())).any()


def test_parents_must_be_of_the_same_architecture():
    with pytest.raises(SettingsError, match="arch.of"):
        build(replace(SEARCH, arch=Pruned(CNN(16, 3), "0.1"), objective=CrossEntropy()), [plain(SMALL)])
    with pytest.raises(SettingsError, match="arch = CNN"):
        build(Recipe(Data("cifar10"), SMALL, parents=(SEARCH,)), [harp()])


@pytest.mark.parametrize("kind", ["fixed", "searched"])
def test_pruned_networks_are_stitched_and_probed(kind):
    arch = Pruned(RES, "0.3") if kind == "fixed" else Pruned(RES, "0.3", rates="learned", scores="learned")
    aim = Prune(CrossEntropy()) if kind == "searched" else CrossEntropy()
    parent, net = Recipe(Data("cifar10"), arch, aim), KINDS[kind]()
    stitched = build(Recipe(Data("cifar10"), Stitch("layer1.0", "identity"), parents=(parent, parent)), [net, net])
    assert torch.allclose(stitched.eval()(images()), net(images()), atol=1e-5)
    assert build(Recipe(Data("cifar10"), ProbeArch("stem"), parents=(parent,)), [net])(images()).shape == (4, 10)


@pytest.mark.parametrize("make, words", [
    (lambda: Pruned(SMALL, "0"), ["arch.keep = 0"]),
    (lambda: Pruned(SMALL, "1.5"), ["arch.keep = 3/2"]),
    (lambda: Pruned(SMALL, "0.1", rates="lemp"), ["arch.rates", "lamp"]),
    (lambda: Pruned(SMALL, "0.1", "filters"), ["granularity", "channels"]),
    (lambda: Pruned(SMALL, "0.1", "channels", rates="lamp"), ["arch.rates = lamp", "uniform, parent, learned"]),
    (lambda: Pruned(SMALL, "0.1", rates="global", scores="random"), ["arch.rates = global", "random"]),
    (lambda: Pruned(SMALL, "0.1", scores="filters"), ["arch.scores = filters", "whole channels"]),
    (lambda: Pruned(SMALL, "0.1", start_keep="0.5"), ["arch.start", "learned"]),
    (lambda: Pruned(SMALL, "0.5", rates="learned", start_keep="0.04"), ["arch.start_keep = 1/25", "1/20"]),
    (lambda: Pruned(ViT(), "0.5", "channels"), ["granularity = channels", "ViT"]),
])
def test_impossible_prunings_are_one_sentence(make, words):
    with pytest.raises(SettingsError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_pruned_architectures_stand_for_their_own():
    arch = Pruned(VGG16(16), "0.01")
    assert arch.dense == VGG16(16) == VGG16(16).dense and arch.joints == VGG16(16).joints
    assert (arch.min_size, arch.rectified, arch.any_size, arch.patch) == (16, True, True, 1)
    assert Pruned(ViT(patch=8), "0.1").patch == 8 and not Pruned(ViT(), "0.1").joints
    assert Pruned(SMALL, 0.1) == Pruned(SMALL, "1/10")


# ------------------------------------------------------------------------------------------------------- links and cost


def test_links_by_hand():
    found = links(plain(ResNet(16, (2, 1))))
    assert found["stem.0"].images and found["stem.0"].reader is None, "read by a block and its sum"
    block = found["layer1.0.conv1"]
    assert (block.producer, block.reader, block.between) == (
        "stem.0", "layer1.0.conv2", ("layer1.0.bn1", "layer1.0.relu1"))
    assert found["layer2.0.conv1"].source == found["layer2.0.shortcut.conv"].source != found["layer1.1.conv1"].source
    assert found["layer2.0.conv1"].producer is None and found["head.2"].reader is None
    found = links(plain(VGG16(16)))
    assert [link.reader for link in found.values()] == [*list(found)[1:], None]


def test_positions_by_hand():
    assert positions(plain(CNNSmall()), SHAPE) == {"conv1.0": 256, "conv2.0": 64, "linear1.1": 1, "head": 1}


def test_shortcuts_share_the_rate_of_their_blocks_first_convolution():
    for arch, shortcut in ((RES, "layer2.0.shortcut.conv"), (PreActResNet(16, (1, 1)), "layer2.0.shortcut.conv")):
        net = harp(arch, granularity="channels", start_keep="0.5")
        assert f"{shortcut}.quota" not in dict(net.named_parameters())
        with torch.no_grad():
            net.layer2[0].conv1.quota.fill_(1.0)
        for candidate in (net, copy.deepcopy(net)):
            one, other = candidate.layer2[0].conv1, candidate.get_submodule(shortcut)
            assert other.rate() == one.rate() and other.kept_mask().sum() == one.kept_mask().sum()
            assert other.learned_quota is one.learned_quota
    assert "layer2.0.shortcut.conv.quota" in dict(harp(RES).named_parameters()), "each layer its own with weights"


def test_the_cost_of_weights_is_their_share():
    net = harp(keep="0.01")
    cost = Cost(net)
    sizes = torch.tensor([float(layer.dense_weight.numel()) for layer in masked_layers(net).values()])
    rates = torch.linspace(0.1, 0.9, len(sizes))
    assert float(cost.at(rates)) == pytest.approx(float((sizes * rates).sum() / sizes.sum()))
    assert cost.target == pytest.approx(0.01)
    assert cost.excess().item() == pytest.approx(9, rel=1e-4), "0.1 of every layer at a target of 0.01"
    with torch.no_grad():
        for layer in masked_layers(net).values():
            layer.quota.fill_(-9.0)
    assert Cost(net).excess().item() == 0


def test_the_hardware_loss_pulls_by_size_and_only_above_the_target():
    net = harp(keep="0.02")
    Cost(net).excess().backward()
    grads = torch.stack([layer.quota.grad for layer in masked_layers(net).values()])
    sizes = torch.tensor([float(layer.dense_weight.numel()) for layer in masked_layers(net).values()])
    share = (0.1 - 0.002) / 0.998
    assert torch.allclose(grads, sizes / sizes.sum() / 0.02 * 0.998 * share * (1 - share), rtol=1e-4)
    below = harp(keep="0.02", start_keep="0.01")
    loss = Cost(below).excess()
    loss.backward()
    assert loss.item() == 0 and not any(layer.quota.grad for layer in masked_layers(below).values())


@pytest.mark.parametrize("keep, expected", [("0.5", 0.252), ("0.1", 0.0105)])
def test_the_flops_target_is_about_the_square_of_the_channel_rate(keep, expected):
    """The sheet's figures for VGG-16, whose counting adds biases and activations."""
    net = prune(network(VGG16(), SHAPE, 10), Pruned(VGG16(), keep, "channels"), SHAPE)
    assert Cost(net).target == pytest.approx(expected, rel=0.01)


def test_channels_cost_what_the_kept_ones_need():
    """By hand for CNN(16, 2): images -> 16 channels at 32x32 -> 32 channels at 16x16 -> 10 classes."""
    net = pruned(SMALL, "0.5", granularity="channels")
    cost = Cost(net)
    work = [1024 * 27 * 16, 256 * 9 * 16 * 32, 32 * 10]
    expected = (work[0] * 0.5 + work[1] * 0.25 + work[2] * 0.5) / sum(work)
    assert cost.target == pytest.approx(expected) and cost.kept() == pytest.approx(expected)


def test_bottlenecks_are_linked_through_their_middle():
    net = pruned(ImageNetResNet(50, 16), "0.5", granularity="channels")
    assert links(net)["layer1.0.conv1"].reader == "layer1.0.conv2"
    assert links(net)["layer1.0.conv2"].reader == "layer1.0.conv3"
    assert links(net)["layer1.0.conv3"].reader is None


def test_interval_bounds_take_the_masks():
    net, x = pruned(CNNSmall(), keep="0.4"), images(8)
    labels = net(x).argmax(1)
    for eps in (0.0, 0.01):
        assert torch.equal(worst_margins(net, x, labels, eps), worst_margins(dense(net), x, labels, eps))
    assert not torch.allclose(worst_margins(net, x, labels, 0.01), worst_margins(plain(CNNSmall()), x, labels, 0.01))


def test_convolutions_in_groups_and_layers_that_never_run_are_pruned():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(3, 6, 3, groups=3), nn.Linear(7, 7)
            self.head = nn.Linear(6, 10)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))

    with initialise_with("foreign"):
        net = prune(Foreign().eval(), Pruned(SMALL, "0.5"), SHAPE).eval()
    whole = dense(net)
    assert type(whole.conv) is nn.Conv2d and whole.conv.groups == 3 and int((whole.conv.weight == 0).sum()) == 27
    assert torch.equal(whole(images()), net(images())) and {*masked_layers(net)} == {"conv", "unused", "head"}
