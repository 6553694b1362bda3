"""Linear bounds: they hold, they are those of CROWN and Fast-Lin, and what they do not know they refuse."""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.attacks.pgd import pgd
from lib.certify import intervals, linear
from lib.certify.linear import INNER, SLOPES, crown_ibp, margins, verified, worst_margins
from lib.data import load
from lib.errors import SettingsError
from lib.models import Probe, build, network
from lib.models.masked import dense, masked_layers
from lib.models.prune import prune
from lib.models.staged import Normalise, pooled_linear
from lib.runtime import autocast, generator, initialise_with
from lib.training.loop import fit
from lib.values.architectures import CNN, MLP, CNNLarge, CNNSmall, Pruned, ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import IBP, CrossEntropy
from lib.values.recipe import Optimiser, Recipe
from lib.values.threats import Threat

EPS = 0.02
every_kind = pytest.mark.parametrize("slope, inner", [(slope, inner) for slope in SLOPES for inner in INNER])


def randomised(net):
    """Biases and BatchNorms as training might leave them; fp64, so that rounding hides nothing; eval mode."""
    with initialise_with("linear bounds"):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)  # negative ones too
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                nn.init.normal_(module.bias, 0, 0.1)
    return net.double().eval()


def made(arch, side=8):
    with initialise_with("bounds"):
        return randomised(network(arch, (2, side, side), 5))


def pruned(**options):
    return prune(made(CNNSmall()), Pruned(CNNSmall(), "0.3", **options), (2, 8, 8)).eval()


def odd():
    """Strides that leave pixels at the edges over, dilation, groups, pools of both kinds, layers without bias."""
    with initialise_with("odd"):
        return randomised(nn.Sequential(
            Normalise(2), nn.Conv2d(2, 4, 3, stride=(2, 3), padding=(0, 1)), nn.ReLU(),
            nn.Conv2d(4, 6, 2, dilation=2, groups=2, padding=2, bias=False), nn.ReLU(), nn.Dropout(0.5), nn.Identity(),
            nn.AvgPool2d((2, 3), stride=(1, 2), padding=(1, 1), count_include_pad=False),
            nn.Conv2d(6, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d((2, None)), nn.Flatten(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 5, bias=False)))


NETS = {
    "MLP": lambda: made(MLP((12, 12))),
    "CNN-small": lambda: made(CNNSmall()),
    "CNN-large": lambda: made(CNNLarge(), 4),
    "BatchNorm": lambda: made(CNN(4, 1)),
    "pruned": lambda: pruned(rates="uniform"),
    "searched": lambda: pruned(rates="learned", scores="learned"),
    "odd": odd,
}
every_net = pytest.mark.parametrize("name", NETS)
get = functools.cache(lambda name: NETS[name]())


def some(name="", count=3):
    side = {"CNN-large": 4, "odd": 9}.get(name, 8)
    count = 1 if name == "CNN-large" else count
    x = torch.rand(count, 2, side, side, generator=generator("images"), dtype=torch.float64)
    return x, torch.arange(count) % 5


def differences(net, x, labels):
    logits = net(x)
    return logits.gather(1, labels[:, None]) - logits


def points(net, x, labels, eps):
    """Images of the ball: at random, corners, and where PGD goes."""
    draw, threat = generator("points"), Threat("linf", str(eps))
    for _ in range(5):
        noise = torch.rand(x.shape, generator=draw, dtype=x.dtype) * 2 - 1
        yield (x + eps * noise).clamp(0, 1)
        yield (x + eps * noise.sign()).clamp(0, 1)
    for loss in ("ce", "cw"):
        yield pgd(net, x, labels, threat, PGD(10, str(eps / 4), loss=loss), draw)


@every_kind
@every_net
def test_bounds_hold_at_every_point_of_the_ball(name, slope, inner):
    net, (x, labels) = get(name), some(name)
    with torch.no_grad():
        lowest, worst = (bound(net, x, labels, EPS, slope, inner) for bound in (margins, worst_margins))
        for point in points(net, x, labels, EPS):
            found = differences(net, point, labels)
            assert (found >= lowest - 1e-9).all()
            assert (found.scatter(1, labels[:, None], float("inf")).amin(1) >= worst - 1e-9).all()
    assert (lowest.gather(1, labels[:, None]) == 0).all()


@every_kind
@every_net
def test_without_a_ball_bounds_are_the_margins(name, slope, inner):
    net, (x, labels) = get(name), some(name)
    with torch.no_grad():
        torch.testing.assert_close(margins(net, x, labels, 0, slope, inner), differences(net, x, labels))


def lowest_where_linear(net, x, labels, eps):
    """The least margins over the ball, [B, K], of a network that is linear on it: those of a corner each."""
    lower, upper = intervals.ball(x, eps)
    out = torch.zeros(len(x), 5, dtype=x.dtype)
    for k in range(5):
        start = x.clone().requires_grad_()
        gradient, = torch.autograd.grad(differences(net, start, labels)[:, k].sum(), start)
        with torch.no_grad():
            out[:, k] = differences(net, torch.where(gradient > 0, lower, upper), labels)[:, k]
    return out


def without_relus():
    with initialise_with("affine"):
        return randomised(nn.Sequential(Normalise(2), nn.Conv2d(2, 4, 3, 2), nn.AvgPool2d(2), nn.Conv2d(4, 3, 1),
                                        nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 6), nn.Linear(6, 5)))


def stable():
    """Every second ReLU lets all through, the others nothing."""
    net = made(CNNSmall())
    for layer, size in ((net.conv1[0], 100), (net.conv2[0], 1e4), (net.linear1[1], 1e6)):
        layer.bias.data = size * (-1.0) ** torch.arange(len(layer.bias), dtype=torch.float64)
    return net


@every_kind
@pytest.mark.parametrize("make", [without_relus, stable])
def test_bounds_of_what_is_linear_on_the_ball_are_exact(make, slope, inner):
    net, (x, labels) = make(), some()
    exact = lowest_where_linear(net, x, labels, 0.05)
    with torch.no_grad():
        torch.testing.assert_close(margins(net, x, labels, 0.05, slope, inner), exact)
        assert intervals.margins(net, x, labels, 0.05).sum() < exact.sum() - 0.1, "which intervals are not"


def by_matrices(net, x, label, eps, slope, inner):
    """CROWN (Zhang et al. 2018, theorem 3.2) of an MLP for one image, with a matrix for everything."""
    norm, layers = net.normalise, [m for m in net.modules() if isinstance(m, nn.Linear)]
    low, up = (bound.flatten() for bound in intervals.ball(x, eps))
    mean, std = (t.expand(1, *x.shape).flatten() for t in (norm.mean, norm.std))
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    weights[0], biases[0] = weights[0] / std, biases[0] - weights[0] @ (mean / std)
    ends = []  # bounds of each ReLU layer's inputs

    def least(rows, last):
        """Lower bounds of rows @ (what layer `last` gives)."""
        constant = torch.zeros(len(rows), dtype=x.dtype)
        for k in range(last, -1, -1):
            constant, rows = constant + rows @ biases[k], rows @ weights[k]
            if k:
                lines = []
                for a, b in zip(*ends[k - 1], strict=True):
                    chord = b / (b - a) if a < 0 < b else float(a >= 0)
                    under = float(b > -a) if a < 0 < b and slope == "adaptive" else chord
                    lines.append((chord, under, -a * chord if a < 0 < b else 0.0))
                above, below, over = (torch.tensor(column, dtype=x.dtype) for column in zip(*lines, strict=True))
                constant = constant + (rows * (rows < 0)) @ over
                rows = (rows * (rows < 0)) @ above.diag() + (rows * (rows >= 0)) @ below.diag()
        return constant + torch.where(rows > 0, rows * low, rows * up).sum(1)

    a, b = low, up
    for k in range(len(layers) - 1):
        w, bias = weights[k], biases[k]
        a, b = (w.clamp_min(0) @ p + w.clamp_max(0) @ q + bias for p, q in ((a, b), (b, a)))
        if inner == "linear" and k:
            eye, open_ = torch.eye(len(w), dtype=x.dtype), (a < 0) & (b > 0)
            a, b = (torch.where(open_, torch.maximum(a, least(eye, k)), a),
                    torch.where(open_, torch.minimum(b, -least(-eye, k)), b))
        ends.append((a, b))
        a, b = a.clamp_min(0), b.clamp_min(0)
    one = torch.eye(5, dtype=x.dtype)
    return least(one[label] - one, len(layers) - 1)


@every_kind
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
def test_bounds_are_those_of_crown_written_with_matrices(slope, inner, eps):
    net, (x, labels) = made(MLP((14, 11, 9))), some()
    with torch.no_grad():
        found = margins(net, x, labels, eps, slope, inner)
        expected = [by_matrices(net, image, label, eps, slope, inner) for image, label in zip(x, labels, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-8, atol=1e-8)


def test_one_relu_by_hand():
    """x in [0.4, 0.7] gives the ReLU [-0.1, 0.2]: (0.2 > 0.1) slope 1 below, else 2/3; the chord 2/3 (x - 0.4)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, bias=False)).eval()
    net[1].weight.data, net[1].bias.data = torch.tensor([[1.0]]), torch.tensor([-0.5])
    net[3].weight.data = torch.tensor([[0.0], [1.0]])
    x, labels = torch.full((2, 1, 1, 1), 0.55), torch.tensor([1, 0])
    for inner in INNER:
        adaptive, parallel = (margins(net, x, labels, 0.15, slope, inner) for slope in ("adaptive", "parallel"))
        torch.testing.assert_close(adaptive, torch.tensor([[-0.1, 0.0], [0.0, -0.2]]))
        torch.testing.assert_close(parallel, torch.tensor([[-1 / 15, 0.0], [0.0, -0.2]]))


def test_tighter_bounds_inside_give_tighter_bounds():
    for name in ("MLP", "CNN-small", "BatchNorm", "odd"):
        net, (x, labels) = get(name), some(name, 8)
        with torch.no_grad():
            parallel = [margins(net, x, labels, EPS, "parallel", inner) for inner in INNER]
            interval = intervals.margins(net, x, labels, EPS)
        assert (parallel[1] >= parallel[0] - 1e-9).all(), "a narrower triangle lies in the wider one's parallelogram"
        assert parallel[1].mean() > interval.mean() + 0.01


@pytest.fixture(scope="module")
def trained():
    """Networks for digits, in fp32: one trained on clean images, one with interval bounds, and test images."""
    recipe = Recipe(Data("digits", train=600, test=100), CNNSmall(), epochs=4, batch_size=50,
                    optimiser=Optimiser("adam", 0.005, weight_decay=0))
    nets = []
    for objective in (CrossEntropy(), IBP("0.06", end=0.8)):
        net = build(recipe)
        fit(net, replace(recipe, objective=objective), load(recipe.data, "train"), "cpu")
        nets.append(net.eval())
    images = load(recipe.data, "test")
    return (*nets, images.pixels(), images.labels)


@pytest.mark.parametrize("which, eps", [(0, 0.01), (1, 0.015)], ids=["clean", "interval"])
def test_on_trained_networks_linear_bounds_prove_more(trained, which, eps):
    net, x, labels = trained[which], *trained[2:]
    with torch.no_grad():
        linear_, interval = margins(net, x, labels, eps, inner="linear"), intervals.margins(net, x, labels, eps)
    assert linear_.mean() > interval.mean()
    by_interval = intervals.verified(net, x, labels, eps)
    by_crown_ibp, by_crown = (verified(net, x, labels, eps, inner=inner) for inner in INNER)
    assert (by_interval <= by_crown_ibp).all() and (by_interval <= by_crown).all()
    assert by_crown.sum() > by_crown_ibp.sum() > by_interval.sum() > 0
    attacked = pgd(net, x, labels, Threat("linf", str(eps)), PGD(20, str(eps / 8)), generator("proof"))
    with torch.no_grad():
        right = net(attacked).argmax(1) == labels
    assert right[by_crown].all() and by_crown.float().mean() > 0.5


def test_only_what_intervals_leave_open_is_bounded_linearly(trained, monkeypatch):
    net, x, labels = trained[1:]
    asked, real = [], linear.worst_margins
    monkeypatch.setattr(linear, "worst_margins", lambda net, x, *rest: asked.append(len(x)) or real(net, x, *rest))
    found, by_interval = verified(net, x, labels, 0.01), intervals.verified(net, x, labels, 0.01)
    with torch.no_grad():
        wrong = net(x).argmax(1) != labels
        expected = by_interval | (real(net, x, labels, 0.01, "adaptive", "linear") > 0)
    assert asked == [int((~by_interval & ~wrong).sum())] and 0 < asked[0] < len(x) and wrong.any() and by_interval.any()
    assert torch.equal(found, expected)
    assert torch.equal(verified(net, x, labels, 0), ~wrong) and len(asked) == 1, "of points intervals leave nothing"


@every_kind
def test_gradients_are_those_of_finite_differences(slope, inner):
    with initialise_with("tiny"):
        net = randomised(nn.Sequential(
            nn.Conv2d(1, 2, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)))
    x = torch.rand(2, 1, 4, 4, generator=generator("tiny"), dtype=torch.float64)
    names, values = zip(*net.named_parameters(), strict=True)

    def bound(*weights):
        for name, weight in zip(names, weights, strict=True):
            holder, _, leaf = name.rpartition(".")
            net.get_submodule(holder)._parameters[leaf] = weight
        return margins(net, x, torch.tensor([0, 2]), 0.2, slope, inner)

    assert torch.autograd.gradcheck(bound, [v.detach().clone().requires_grad_() for v in values], eps=1e-7, atol=1e-5)


@every_kind
def test_chunks_and_what_is_computed_twice_change_nothing(monkeypatch, slope, inner):
    net, (x, labels) = made(CNNSmall()), some()

    def learned():
        net.zero_grad()
        found = margins(net, x, labels, EPS, slope, inner)
        found.square().sum().backward()
        return [found.detach(), *(p.grad.clone() for p in net.parameters())]

    whole, sizes, real = learned(), [], linear._Chain._backward
    monkeypatch.setattr(linear._Chain, "_backward", lambda chain, backs, coefs, images: (
        sizes.append(len(images)) or real(chain, backs, coefs, images)))
    monkeypatch.setattr(linear, "AT_ONCE", {"cpu": 2 * 5 * 256})
    in_chunks, chunks = learned(), len(sizes)
    monkeypatch.setattr(linear, "KEPT", 0)
    twice = learned()
    torch.testing.assert_close(in_chunks, whole)
    torch.testing.assert_close(twice, whole)
    assert chunks > 1 and max(sizes) <= 5 and len(sizes) == 3 * chunks, "once, then once more for the gradient"


def test_pruned_networks_have_the_bounds_of_their_weights():
    for name in ("pruned", "searched"):
        net, (x, labels) = get(name), some()
        with torch.no_grad():
            torch.testing.assert_close(margins(net, x, labels, EPS, inner="linear"),
                                       margins(dense(net), x, labels, EPS, inner="linear"))
    net = pruned(rates="learned", scores="learned")
    worst_margins(net, x, labels, EPS, inner="linear").sum().backward()
    for layer in masked_layers(net).values():
        assert layer.scores.grad.abs().sum() > 0 and layer.quota.grad.abs() > 0


def test_crown_ibp_lies_between_linear_and_interval_bounds():
    net, (x, labels) = get("CNN-small"), some()
    with torch.no_grad():
        linear_, interval = margins(net, x, labels, EPS), intervals.margins(net, x, labels, EPS)
        for beta in (0.0, 0.3, 1.0):
            torch.testing.assert_close(crown_ibp(net, x, labels, EPS, beta), beta * linear_ + (1 - beta) * interval)


@pytest.mark.parametrize("inner", INNER)
def test_in_training_batchnorm_takes_the_statistics_of_the_middles(inner):
    net, (x, labels) = made(CNN(4, 1)).train(), some(count=6)
    before = {name: value.clone() for name, value in net.named_buffers()}
    found = margins(net, x, labels, 0, inner=inner)
    worst_margins(net, x, labels, EPS, inner=inner).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert all(p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(found, differences(net, x, labels))


def test_autocast_does_not_blur_the_bounds():
    net, (x, labels) = made(CNNSmall()).float(), some()
    plain = margins(net, x.float(), labels, EPS, inner="linear")
    with autocast("cpu", "bf16"):
        assert torch.equal(margins(net, x.float(), labels, EPS, inner="linear"), plain)
        assert crown_ibp(net, x.float(), labels, EPS, 0.5).dtype == torch.float32


def test_probed_networks_have_bounds():
    net = made(CNN(4, 1))
    probed = Probe(net.front("conv1"), randomised(pooled_linear(4, 5))).eval()
    x, labels = some()
    with torch.no_grad():
        lowest = margins(probed, x, labels, EPS, inner="linear")
        for point in points(probed, x, labels, EPS):
            assert (differences(probed, point, labels) >= lowest - 1e-9).all()


class Doubled(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight * 2)


class Smooth(nn.ReLU):
    def forward(self, x):
        return F.softplus(x)


def ending(*modules):
    return nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize("net, words", [
    (ending(nn.MaxPool2d(2)), ["unknown module for linear bounds 'MaxPool2d'", "known: ", "Conv2d"]),
    (ending(Smooth()), ["unknown module for linear bounds 'Smooth'"]),
    (ending(Doubled(2, 2, 1)), ["unknown module for linear bounds 'Doubled'"]),
    (made(ResNet(4, (1, 1))), ["unknown module for linear bounds 'BasicBlock'"]),
    (ending(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), ["padding_mode of Conv2d = circular", "zeros"]),
    (ending(nn.Conv2d(2, 2, 3, padding="same")), ["padding of Conv2d = same", "numbers"]),
    (ending(nn.AvgPool2d(2, divisor_override=3)), ["divisor_override of AvgPool2d = 3", "None"]),
    (nn.Sequential(nn.Linear(8, 3), nn.Flatten(), nn.Linear(48, 5)), ["input of Linear", "[B, features]"]),
    (nn.Sequential(nn.Flatten(), nn.ReLU()), ["with ReLU at its end", "ends in a linear layer"]),
], ids=lambda value: value[0][:40] if isinstance(value, list) else "")
def test_networks_without_linear_bounds_are_named(net, words):
    x, labels = some()
    with pytest.raises(SettingsError) as error:
        margins(net.double().eval(), x, labels, EPS)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_unknown_kinds_and_train_mode_are_refused():
    net, (x, labels) = made(MLP((4,))), some()
    for bound in (margins, worst_margins, verified):
        with pytest.raises(SettingsError, match="unknown slope 'paralel'; did you mean 'parallel'"):
            bound(net, x, labels, EPS, slope="paralel")
        with pytest.raises(SettingsError, match=r"unknown inner 'crown' \(known: interval, linear\)"):
            bound(net, x, labels, EPS, inner="crown")
    with pytest.raises(SettingsError, match="net.training = True"):
        verified(net.train(), x, labels, EPS)
