"""Maps: against fp64 formulae written another way, on small networks and synthetic features; what they refuse."""

import json
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from lib.data import ImageSet
from lib.errors import SettingsError
from lib.models import network
from lib.models.taps import Tap, tapped, taps
from lib.runtime import generator, initialise_with
from lib.similarity import Maps, View, compare, maps
from lib.similarity.maps import _parts
from lib.values.architectures import CNN, ResNet, ViT, WideResNet

SHAPE = (3, 16, 16)


def images(count, shape=SHAPE):
    return torch.rand(count, *shape, generator=generator("similarity", count, shape))


def made(arch, key=0, shape=SHAPE):
    """A network with BN statistics and affine parameters that are not those of a fresh one."""
    with initialise_with("similarity", arch, key):
        net = network(arch, shape, 10).train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias, 0, 0.5)
        with torch.no_grad():
            net(torch.rand(32, *shape))
    return net.eval()


def view(name, net, x, **more):
    return View(name, net, x, torch.arange(len(x)), **more)


class Linears(nn.Module):
    """Images flattened, then linear maps of them as layers."""

    def __init__(self, *weights):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0]) for w in weights)
        for layer, weight in zip(self.maps, weights, strict=True):
            layer.weight.data, layer.bias.data = weight, torch.zeros(len(weight))

    def forward(self, x):
        return [layer(x.flatten(1)) for layer in self.maps][-1]


@torch.no_grad()
def features(net, x, wanted, parts=(slice(None),)):
    """fp64 copies of what the taps give; minibatch by minibatch, in the layout that maps uses, fp32 rounds alike."""
    kept = [[] for _ in wanted]
    with tapped(net, wanted, lambda k, output: kept[k].append(output.double().clone())):
        for part in parts:
            net(x[part].contiguous(memory_format=torch.channels_last))
    return [torch.cat(outputs) for outputs in kept]


def traces(x, y):
    """HSIC1 from three traces of uncentred Grams; matrices of ones written out."""
    n = len(x)
    k, m = (z.flatten(1) @ z.flatten(1).T * (1 - torch.eye(n, dtype=torch.float64)) for z in (x, y))
    one = torch.ones(n, n, dtype=torch.float64)
    return ((k @ m).trace() + (k @ one).trace() * (m @ one).trace() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (k @ m @ one).trace()) / (n * (n - 3))


@pytest.fixture(scope="module")
def two():
    x = images(40)
    return made(WideResNet(10, 1), 0), made(WideResNet(10, 1), 1), x


def test_maps_are_those_of_the_definition(two):
    a, b, x = two
    found = maps([view("a", a, x), view("b", b, x)], batch_size=20)
    wanted = taps(a, SHAPE)
    assert found.layers == {"a": wanted, "b": wanted} and found.sizes == (20, 20) and not found.undefined
    parts = [[features(net, part, wanted) for net in (a, b)] for part in x.split(20)]

    def mean(i, k, j, m):
        return float(sum(traces(part[i][k], part[j][m]) for part in parts)) / len(parts)

    layers = range(0, len(wanted), 3)
    own = [{k: mean(i, k, i, k) for k in layers} for i in (0, 1)]
    for i, j in ((0, 0), (0, 1)):
        got = found.between("ab"[i], "ab"[j])
        for k in layers:
            for m in layers:
                assert got[k, m] == pytest.approx(mean(i, k, j, m) / (own[i][k] * own[j][m]) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("measure", ["cka", "cka_biased", "procrustes", "svcca"])
def test_one_minibatch_is_a_comparison_of_features(two, measure):
    a, b, x = two
    found = maps([view("a", a, x, taps=0.3), view("b", b, x, taps="relu")], measure)
    sides = [[z.flatten(1) for z in features(net, x, found.layers[name])] for name, net in (("a", a), ("b", b))]
    got = found.between("a", "b")
    assert got.shape == (len(sides[0]), len(sides[1]))
    expected = np.array([[compare(p, q, measure) for q in sides[1]] for p in sides[0]])
    assert np.abs(got - expected).max() < (1e-6 if measure != "svcca" else 1e-4)


@pytest.mark.parametrize("measure", ["cka", "cka_biased", "procrustes", "cca", "svcca", "pwcca"])
def test_pooled_maps_are_exact(two, measure):
    a, b, _ = two
    x = images(180)
    chosen = ["layer1.0.relu1", "layer1.0.bn2", "layer2.0.conv2", "head.1"]
    found = maps([view("a", a, x, taps=chosen), view("b", b, x, taps=chosen)], measure, batch_size=32, pooled=True)
    assert found.exact and found.sizes == (180,)
    sides = [[z.mean((2, 3)) for z in features(net, x, found.layers["a"], _parts(180, 32))] for net in (a, b)]
    for i, j in ((0, 1), (1, 1)):
        expected = np.array([[compare(p, q, measure) for q in sides[j]] for p in sides[i]])
        got = found.between("ab"[i], "ab"[j])
        assert np.abs(got - expected).max() < 1e-8
        assert np.array_equal(found.between("ab"[j], "ab"[i]), got.T)


def test_minibatches_estimate_the_exact_value(two):
    a, b, _ = two
    x = images(1000, SHAPE)
    views = [view("a", a, x, taps="relu"), view("b", b, x, taps="relu")]
    exact = maps(views, pooled=True).between("a", "b")
    streamed = maps(views, pooled=True, exact=False, batch_size=125).between("a", "b")
    assert 1e-6 < np.abs(streamed - exact).max() < 0.03
    inflated = maps(views, "cka_biased", pooled=True, exact=False, batch_size=20).between("a", "b")
    assert np.abs(inflated - exact).max() > 0.05


def test_symmetry(two):
    a, b, x = two
    found = maps([view("a", a, x), view("b", b, x)], batch_size=16)
    assert np.array_equal(found.between("a", "b"), found.between("b", "a").T)
    own = found.between("a", "a")
    assert np.abs(own.diagonal() - 1).max() < 1e-12 and np.array_equal(own, own.T)
    assert np.abs(own - found.between("b", "b")).max() > 0.01


def test_the_ratio_is_taken_after_averaging_and_the_jackknife_leaves_one_out(two):
    a, _, x = two
    found = maps([view("a", a, x)], batch_size=10)
    assert found.batches == 4 and found.terms.shape[0] == 4
    single = [maps([View("a", a, x[part], torch.arange(40)[part])]) for part in _parts(40, 10)]
    terms = torch.cat([one.terms for one in single])
    assert torch.allclose(terms, found.terms, rtol=1e-5, atol=0)
    rest = terms[[0, 1, 3]].mean(0)
    own = rest.diagonal().sqrt()
    assert np.abs(found.between("a", "a", without=2) - (rest / own[:, None] / own).numpy()).max() < 1e-6
    mean_of_ratios = np.mean([one.between("a", "a") for one in single], 0)
    assert np.abs(found.between("a", "a") - mean_of_ratios).max() > 1e-3
    for bad in (4, -1, True, 1.0):
        with pytest.raises(SettingsError, match="without = "):
            found.between("a", "a", without=bad)
    with pytest.raises(SettingsError, match="without = 0"):
        single[0].between("a", "a", without=0)


@pytest.mark.parametrize("count,size,sizes", [
    (1024, 256, {256}), (1000, 256, {250}), (257, 256, {128, 129}), (9, 4, {4, 5}), (4, 4, {4}), (7, 256, {7})])
def test_minibatches_are_of_equal_size(count, size, sizes):
    parts = _parts(count, size)
    assert {part.stop - part.start for part in parts} == sizes
    assert [k for part in parts for k in range(count)[part]] == list(range(count))


def test_the_estimate_does_not_depend_on_the_size_of_minibatches():
    """Low-rank features that share a part: 0.01 between minibatches of 256 and 1,024, where the plain CKA moves."""
    draw = generator("low rank")
    low = torch.randn(3 * 256, 12, generator=draw) @ torch.randn(12, 3 * 256, generator=draw) / 12
    weights = [low + 0.6 * torch.randn(3 * 256, 3 * 256, generator=draw) for _ in range(2)]
    x = images(2048)
    both = {measure: [maps([view("a", Linears(*weights), x)], measure, size).between("a", "a")[0, 1]
                      for size in (256, 1024)] for measure in ("cka", "cka_biased")}
    assert abs(both["cka"][0] - both["cka"][1]) < 0.01 and 0.05 < both["cka"][1] < 0.95
    assert both["cka_biased"][0] - both["cka_biased"][1] > 0.05


def test_unrelated_features_have_none():
    draw = generator("unrelated")
    x = torch.rand(1024, 3, 16, 32, generator=draw)
    halves = torch.eye(3 * 16 * 32).reshape(-1, 3, 16, 32)
    left, right = halves[:, :, :, :16].flatten(2).flatten(1), halves[:, :, :, 16:].flatten(2).flatten(1)
    net = Linears(*(torch.randn(300, half.shape[1], generator=draw) @ half.T for half in (left, right)))
    assert abs(maps([view("a", net, x)], batch_size=1024).between("a", "a")[0, 1]) < 0.02


def test_energy_in_the_mean_costs_nothing():
    draw = generator("mean")
    net = Linears(*(torch.randn(200, 3 * 256, generator=draw) for _ in range(2)))
    x = images(256)
    plain = maps([view("a", net, x)]).between("a", "a")
    spread = features(net, x, taps(net, SHAPE))[0].std(0).float()
    for layer in net.maps:
        layer.bias.data = 100 * spread * torch.randn(200, generator=draw).sign()
    assert np.abs(maps([view("a", net, x)]).between("a", "a") - plain).max() < 1e-4


@pytest.mark.parametrize("measure,pooled,exact", [
    ("cka", False, None), ("cka_biased", False, None), ("procrustes", False, None), ("cka", True, None),
    ("procrustes", True, None), ("cca", True, None), ("cka", True, False)])
def test_layers_that_do_not_differ_between_images_have_a_reason_and_no_number(measure, pooled, exact):
    net = made(CNN(8, 3))
    with torch.no_grad():
        net.conv2[2].bias.fill_(-1e4)  # dead ReLUs from here on; later layers give the same for every image
    found = maps([view("a", net, images(60), taps=["conv1.2", "conv2.3", "conv3.1", "head.2"])], measure,
                 batch_size=20, pooled=pooled, exact=exact)
    assert set(found.undefined) == {("a", "conv2.3"), ("a", "conv3.1"), ("a", "head.2")}
    assert "0 for every image" in found.undefined["a", "conv2.3"]
    assert "beyond rounding" in found.undefined["a", "head.2"]
    got = found.between("a", "a")
    assert np.isnan(got[1:]).all() and np.isnan(got[:, 1:]).all() and got[0, 0] == pytest.approx(1)


def test_infinite_outputs_have_a_reason():
    net = made(CNN(8, 2))
    with torch.no_grad():
        net.head[2].bias[0] = float("inf")
    for measure, pooled in (("cka", False), ("procrustes", False), ("cka", True)):
        found = maps([view("a", net, images(20), taps=["conv1.2", "head.2"])], measure, pooled=pooled)
        assert found.undefined == {("a", "head.2"): "its output is not finite"}
        assert np.isfinite(found.between("a", "a")[0, 0])


def test_a_layer_that_dies_in_one_minibatch_only():
    """One ratio over all minibatches is defined; a value for each of them is not."""
    net = made(CNN(8, 2))
    x = images(40)
    x[20:] = 0.5
    views = [view("a", net, x, taps=["conv1.2", "conv2.1"])]
    assert not maps(views, batch_size=20).undefined
    assert set(maps(views, "procrustes", batch_size=20).undefined) == {("a", "conv1.2"), ("a", "conv2.1")}


def test_faithful_maps_read_what_an_in_place_relu_leaves():
    net, x = made(WideResNet(28, 2)), images(12)
    plain, faithful = (maps([view("a", net, x)], faithful=how) for how in (False, True))
    assert len(plain.layers["a"]) == 80 and plain.layers == faithful.layers
    bn = [k for k, tap in enumerate(plain.layers["a"]) if tap.kind == "BatchNorm2d"]
    a, b = plain.between("a", "a"), faithful.between("a", "a")
    assert len(bn) == 25
    assert all(np.array_equal(b[k], b[k + 1]) and not np.allclose(a[k], a[k + 1], atol=1e-3) for k in bn)
    assert len(np.unique(b.round(9), axis=0)) == 55
    rest = [k for k in range(80) if k not in bn]
    assert np.abs(a[np.ix_(rest, rest)] - b[np.ix_(rest, rest)]).max() < 1e-6
    with pytest.raises(SettingsError, match="faithful = True"):
        maps([view("a", net, x)], faithful=True, pooled=True)


def test_in_place_relus_are_no_danger():
    """The reference's network, with in-place ReLUs, gives the plain maps in plain mode."""
    net, x = made(ResNet(16, (1, 1))), images(16)
    expected = maps([view("a", net, x)]).between("a", "a")
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert np.abs(maps([view("a", net, x)]).between("a", "a") - expected).max() < 1e-6


def test_networks_are_left_as_they_were():
    net = made(ResNet(16, (1, 1))).train()
    net.head.eval()
    next(net.parameters()).requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    learns = [p.requires_grad for p in net.parameters()]
    layout = [p.stride() for p in net.parameters()]
    random = torch.get_rng_state()
    for pooled in (False, True):
        maps([view("a", net, images(12))], pooled=pooled)
    with pytest.raises(SettingsError):
        maps([view("a", net, images(12), taps=[Tap("stem", 1)])])
    assert modes == [module.training for module in net.modules()]
    assert learns == [p.requires_grad for p in net.parameters()]
    assert layout == [p.stride() for p in net.parameters()]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_no_feature_outlives_its_hook():
    """Counted at every layer's return: how many outputs of layers are alive. These are the ones that the network itself
    still needs, however many layers it has."""
    net, x = made(WideResNet(28, 1)), images(8)
    alive, most = set(), []

    def note(module, given, output):
        if len(output) == 4:  # a minibatch, not the dry run
            alive.add(id(output))
            weakref.finalize(output, alive.discard, id(output))
            most.append(len(alive))

    handles = [m.register_forward_hook(note) for m in net.modules() if not list(m.children())]
    for pooled, passes in ((False, 2), (True, 4)):
        most.clear()
        maps([view("a", net, x)], batch_size=4, pooled=pooled)
        assert len(most) > 79 * passes and max(most) <= 5 and not alive
    for handle in handles:
        handle.remove()


def test_adversarial_images_sets_and_token_networks():
    x = (images(24) * 255).to(torch.uint8)
    data = ImageSet(x, torch.zeros(24, dtype=torch.int64), torch.arange(24) + 7, "made up", "test")
    nets = made(CNN(8, 2)), made(ViT(16, 1, heads=2, mlp=16, patch=4))
    moved = (data.pixels() + 0.03 * images(24).sub(0.5).sign()).clamp(0, 1)
    found = maps([View("clean", nets[0], data), View("moved", nets[0], moved, data.indices), View("t", nets[1], data)],
                 batch_size=8)
    same = found.between("clean", "moved").diagonal()
    assert (same > 0.9).all() and (same < 1 - 1e-6).all()
    assert found.between("clean", "t").shape == (len(taps(nets[0], SHAPE)), len(taps(nets[1], SHAPE)))
    with_pixels = maps([View("clean", nets[0], data.pixels(), data.indices)], batch_size=8)
    assert np.abs(with_pixels.between("clean", "clean") - found.between("clean", "clean")).max() < 1e-6
    pooled = maps([View("t", nets[1], data)], pooled=True)
    assert pooled.between("t", "t").diagonal() == pytest.approx(1)


@pytest.mark.parametrize("measure,exact", [("procrustes", False), ("cca", True)])
def test_only_the_wanted_pairs(two, measure, exact):
    a, b, x = two
    chosen = ["stem", "layer1.0.relu2"]
    views = [view(name, net, images(60), taps=chosen) for name, net in (("a", a), ("b", b), ("c", a))]
    every = maps(views, measure, pooled=True, exact=exact)
    some = maps(views, measure, pooled=True, exact=exact, pairs=[("b", "a"), ("c", "c")])
    for pair in (("a", "b"), ("c", "c")):
        assert np.abs(some.between(*pair) - every.between(*pair)).max() < 1e-9
    with pytest.raises(SettingsError, match="a, c"):
        some.between("a", "c")
    with pytest.raises(SettingsError, match="unknown view 'd'"):
        some.between("a", "d")


def test_maps_survive_the_store(two, tmp_path):
    from safetensors.torch import load_file, save_file

    a, b, x = two
    with torch.no_grad():
        dead = made(WideResNet(10, 1), 0)
        dead.layer1[0].bn2.bias.fill_(-1e4)
    found = maps([view("a", dead, x), view("b", b, x, taps=["stem", "head.0"])], batch_size=10,
                 pairs=[("a", "b")])
    tensors, meta = found.to_plain()
    save_file(tensors, tmp_path / "data.safetensors")
    again = Maps.from_plain(load_file(tmp_path / "data.safetensors"), json.loads(json.dumps(meta)))
    assert torch.equal(again.terms, found.terms) and found.undefined
    for name in ("measure", "views", "layers", "sizes", "undefined", "pairs", "pooled", "faithful", "exact"):
        assert getattr(again, name) == getattr(found, name)
    assert np.array_equal(again.between("a", "b", 1), found.between("a", "b", 1), equal_nan=True)


def test_impossible_maps_are_named(two):
    a, b, x = two
    good, others = view("a", a, x), torch.arange(40).flip(0)
    cases = [
        ([view("b", b, x[:30])], {}, "the 40 of view a"),
        ([View("b", b, x, others)], {}, "number 0 is 39, not 0"),
        ([View("b", b, x)], {}, "indices of view b = None"),
        ([View("b", b, x, others[:3])], {}, r"of shape \[40\]"),
        ([view("b", b, 2 * x - 1)], {}, r"in \[0, 1\]"),
        ([view("b", b, x.flatten(1))], {}, r"of shape \[N, C, H, W\]"),
        ([view("a", b, x)], {}, "names of views = a, a"),
        ([view("b", b, x, taps=["stm"])], {}, "did you mean 'stem'"),
        ([], {"batch_size": 3}, "batch_size = 3"),
        ([], {"measure": "cca"}, "pooled = False"),
        ([], {"measure": "cca", "pooled": True, "exact": False}, "exact = False"),
        ([], {"exact": True}, "exact = True"),
        ([], {"measure": "kca"}, "did you mean 'cka'"),
        ([], {"pairs": [("a", "z")]}, "unknown view 'z'"),
        ([], {"measure": "pwcca", "pooled": True}, "of layer3.0.conv1 in view a"),
    ]
    for more, options, said in cases:
        with pytest.raises(SettingsError, match=said):
            maps([good, *more], **options)
    with pytest.raises(SettingsError, match="at least 4"):
        maps([view("a", a, x[:3])])
    with pytest.raises(SettingsError, match="views = none"):
        maps([])


# ------------------------------------------------------------------------- the rounding of the activations' own type


class Shifted(nn.Module):
    """A convolution, then one whose output is its input, `scale` times, far from zero."""

    def __init__(self, shift, scale=0.1):
        super().__init__()
        with initialise_with("shifted"):
            self.conv, self.shift = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.shift.weight.data = scale * torch.eye(8)[:, :, None, None]
        self.shift.bias.data.fill_(shift)

    def forward(self, x):
        return self.shift(self.conv(x))


def between_layers(dtype, shift):
    """CKA of the two layers, 1 but for rounding."""
    return maps([view("a", Shifted(shift).to(dtype), images(64))], batch_size=64).between("a", "a")[0, 1]


@pytest.mark.parametrize("dtype, defined, lost", [
    (torch.float64, 1e6, 1e16), (torch.float32, 10, 1e8), (torch.float16, 0.1, 1e4), (torch.bfloat16, 0.0, 1e3)])
def test_what_differs_between_images_beyond_rounding_depends_on_the_networks_own_precision(dtype, defined, lost):
    assert between_layers(dtype, defined) == pytest.approx(1, abs=0.02)
    assert np.isnan(between_layers(dtype, lost))


def test_no_precision_gives_a_wrong_similarity_instead_of_none():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for shift in (0, 0.1, 1, 10, 100, 1000, 3e4):
            found = between_layers(dtype, shift)
            assert np.isnan(found) or found == pytest.approx(1, abs=0.1), (dtype, shift, found)
