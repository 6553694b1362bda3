"""Baselines of pruning that are trainings of their own: ADMM and rewiring, by hand and on digits."""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.data import load
from lib.errors import SettingsError
from lib.models import build
from lib.models.links import layers
from lib.models.masked import largest, masked_layers
from lib.models.prune import prune
from lib.runtime import generator
from lib.training import loop
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.training.losses.admm import projection, shares
from lib.training.losses.rewire import BORN, RewireLoss, shared_out
from lib.values.architectures import CNN, Pruned
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import ADMM, TRADES, Adversarial, CrossEntropy, FreeAdversarial, GradientNorm, Prune, Rewire
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT, ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")
DIGITS, ARCH = Data("digits"), CNN(16, 2)
SPARSE = Pruned(ARCH, "0.1", scores="random")
SGD = Optimiser(lr=0.05, nesterov=False)
BASE = Recipe(DIGITS, ARCH, epochs=6, batch_size=64, optimiser=Optimiser("adam", lr=0.005, weight_decay=0))
FROM_SCRATCH = replace(BASE, arch=SPARSE, objective=Rewire(CrossEntropy()), epochs=4, optimiser=replace(SGD, lr=0.1))


def fit(recipe, *parents, work=None):
    """(network, rows) of a recipe's training on digits."""
    net = build(recipe, parents)
    rows = loop.fit(net, recipe, load(DIGITS, "train"), "cpu", work)
    return net.eval(), rows


@functools.cache
def trained():
    return fit(BASE)[0].requires_grad_(False)


def admm(**options):
    ready = {"keep": "0.2", "rho": 0.3, "every": 1}
    return replace(BASE, objective=ADMM(CrossEntropy(), **(ready | options)), parents=(BASE,), epochs=8, optimiser=SGD,
                   schedule=Schedule("cosine"))


def accuracy(net):
    images = load(DIGITS, "test")
    with torch.no_grad():
        return float((net.eval()(images.pixels()).argmax(1) == images.labels).double().mean())


def batch(count=64, seed="batch"):
    images = load(DIGITS, "train").take(slice(0, count))
    return TrainingBatch(images.pixels(), images.labels, images.indices, None, generator(seed))


def stopped_and_resumed(recipe, parents, work, monkeypatch):
    """(weights straight through, weights of a training killed after its second epoch and resumed)."""
    straight = fit(recipe, *parents)[0].state_dict()
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    real, saves = loop._Training._save, []

    class Killed(Exception):
        pass

    def save_then_die(training):
        real(training)
        saves.append(training)
        if len(saves) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_save", save_then_die)
        with pytest.raises(Killed):
            fit(recipe, *parents, work=work)
    assert (work / "checkpoint.pt").exists()
    return straight, fit(recipe, *parents, work=work)[0].state_dict()


# ----------------------------------------------------------------------------------------------------------------- ADMM


def one_layer(*weights):
    """A network of one linear layer and one class: its cross-entropy is 0 whatever the weights are."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 1, bias=False))
    net[1].weight.data[0] = torch.tensor(weights)
    return net


def nothing(count=4):
    labels = torch.zeros(2, dtype=torch.int64)
    return TrainingBatch(torch.zeros(2, 1, 1, count), labels, torch.arange(2), None, generator(0))


def test_the_projection_keeps_the_largest_by_the_floor_rule():
    weight = torch.tensor([[3.0, -1.0, 0.5, 2.0, -0.1], [-4.0, 0.2, 0.3, -2.5, 1.5]])
    found = projection(weight, ADMM(CrossEntropy(), "0.3").keep)
    assert found.tolist() == [[3.0, 0.0, 0.0, 0.0, 0.0], [-4.0, 0.0, 0.0, -2.5, 0.0]]
    assert projection(weight, ADMM(CrossEntropy(), "0.35").keep).count_nonzero() == 4  # 10 - floor(6.5)


def test_admm_by_hand():
    """Two updates of Z and U for W of four weights of which two are kept, with the losses between them."""
    net, objective = one_layer(1.0, -4.0, 2.0, 0.5), loss_for(ADMM(CrossEntropy(), "0.5", rho=0.2, growth=2.0, every=2))

    def loss_and_gradient(epoch, *weights):
        net[1].weight.data[0] = torch.tensor(weights)
        net.zero_grad()
        loss, logits = objective(net, nothing(), Progress(epoch, epoch, 0.0))
        loss.backward()
        assert logits.shape == (2, 1)
        return float(loss.detach()), pytest.approx(net[1].weight.grad[0].tolist())

    # Z = (0, -4, 2, 0), U = 0
    assert loss_and_gradient(0, 1.0, -4.0, 2.0, 0.5) == (pytest.approx(0.1 * 1.25), [0.2, 0, 0, 0.1])
    row = objective.end_epoch(net)
    assert row == {"residual": pytest.approx((1.25 / 21.25) ** 0.5), "rho": 0.2}, "no update after the first epoch"
    # W - Z = (3, 0, -1, 0.5)
    assert loss_and_gradient(1, 3.0, -4.0, 1.0, 0.5) == (pytest.approx(0.1 * 10.25), [0.6, 0, -0.2, 0.1])
    assert objective.end_epoch(net) == {"residual": pytest.approx((10.25 / 26.25) ** 0.5), "rho": 0.2}
    # Z = (3, -4, 0, 0), U = (0, 0, 1, 0.5), rho = 0.4: W - Z + U = (0, 0, 2, 1), then (0, 0, 3.5, 0.5)
    assert loss_and_gradient(2, 3.0, -4.0, 1.0, 0.5) == (pytest.approx(0.2 * 5), [0, 0, 0.8, 0.4])
    objective.end_epoch(net)
    assert loss_and_gradient(3, 3.0, -4.0, 2.5, 0.0) == (pytest.approx(0.2 * 12.5), [0, 0, 1.4, 0.2])
    objective.end_epoch(net)
    # Z = P(3, -4, 3.5, 0.5) = (0, -4, 3.5, 0), U = (0, 0, 1, 0.5) + (3, 0, -1, 0) = (3, 0, 0, 0.5), rho = 0.8
    assert objective.sparse["1"][0].tolist() == [0.0, -4.0, 3.5, 0.0]
    assert objective.dual["1"][0].tolist() == [3.0, 0.0, 0.0, 0.5] and objective.rho == pytest.approx(0.8)


def test_every_convolution_and_linear_layer_is_pulled_and_nothing_else():
    """Penalty and gradient beside the wrapped objective's own, at the start, where U is 0."""
    found = {}
    for name, spec in (("plain", CrossEntropy()), ("admm", ADMM(CrossEntropy(), "0.1", rho=0.5))):
        net = build(admm(), [trained()])
        loss, _ = loss_for(spec)(net, batch(), Progress(0, 0, 0.0))
        loss.backward()
        found[name] = float(loss.detach()), net
    far = {name: layer.weight.detach() - projection(layer.weight.detach(), admm(keep="0.1").objective.keep)
           for name, layer in layers(trained()).items()}
    assert len(far) == 3
    penalty = 0.25 * sum(float(t.square().sum()) for t in far.values())
    assert penalty > 1 and found["admm"][0] == pytest.approx(found["plain"][0] + penalty, rel=1e-5)
    pairs = zip(found["admm"][1].named_parameters(), found["plain"][1].parameters(), strict=True)
    for (name, ours), plain in pairs:
        layer, _, kind = name.rpartition(".")
        pull = 0.5 * far[layer] if kind == "weight" and layer in far else 0
        assert torch.allclose(ours.grad, plain.grad + pull, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("rule", ["erk", "lamp"])
def test_every_layer_is_pulled_to_the_share_that_erk_or_lamp_give_it(rule):
    weights = {name: layer.weight.detach() for name, layer in layers(trained()).items()}
    found = shares(weights, admm(keep="0.1", rates=rule).objective)
    sparse = prune(trained(), Pruned(ARCH, "0.1", rates=rule), (1, 8, 8))
    kept = {name: int(layer.kept_mask().sum()) for name, layer in masked_layers(sparse).items()}
    assert {name: found[name] * weights[name].numel() for name in weights} == kept
    assert {name: projection(w, found[name]).count_nonzero().item() for name, w in weights.items()} == kept
    assert len({*found.values()}) == 3


def distance(net, keep):
    """||W - P(W)|| / ||W|| over the network's layers."""
    weights = [layer.weight.detach() for layer in layers(net).values()]
    apart = sum(float((w - projection(w, keep)).square().sum()) for w in weights)
    return (apart / sum(float(w.square().sum()) for w in weights)) ** 0.5


def test_admm_makes_a_network_that_stands_being_pruned():
    """Against the same training without the penalty: closer to sparse weights, and better once they are cut off."""
    accuracies = {}
    for rho in (0.3, 0.0):
        recipe = admm(rho=rho)
        net, rows = fit(recipe, trained())
        assert not masked_layers(net) and len(rows) == 8, "the network stays dense"
        assert [row["rho"] for row in rows] == pytest.approx([rho * 1.3**e for e in range(8)])
        if rho:
            start, end = distance(trained(), recipe.objective.keep), distance(net, recipe.objective.keep)
            assert end < 0.15 < 0.5 < start and rows[-1]["residual"] < 0.5 * rows[0]["residual"]
            assert end <= rows[-1]["residual"] < 0.15, "Z is sparse, so no nearer than the projection"
        tuning = replace(BASE, arch=Pruned(ARCH, "0.2"), parents=(recipe,), epochs=1, optimiser=replace(SGD, lr=0.01))
        tuned = fit(tuning, net)[0]
        kept = [float((layer.weight != 0).double().mean()) for layer in masked_layers(tuned).values()]
        assert kept == pytest.approx([0.2] * 3, abs=0.01)
        accuracies[rho] = accuracy(tuned)
    assert accuracies[0.3] > accuracies[0.0] + 0.1


@pytest.mark.parametrize("objective", [CrossEntropy(), FreeAdversarial(THREAT, 2)], ids=["plain", "free"])
def test_admm_is_resumed_to_the_same_weights(objective, tmp_path, monkeypatch):
    """Killed after the second of five epochs, with an update of Z and U behind every one."""
    recipe = replace(admm(), epochs=5, objective=ADMM(objective, "0.2", rho=0.3, every=1))
    straight, resumed = stopped_and_resumed(recipe, [trained()], tmp_path, monkeypatch)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


# ------------------------------------------------------------------------------------------------------------ rewiring


class Rewired:
    """A sparse network one update into its training, with what a test wants to look at."""

    def __init__(self, objective, optimiser=torch.optim.SGD, recipe=FROM_SCRATCH, **options):
        self.net, self.objective = build(replace(recipe, objective=objective)), loss_for(objective)
        self.optimiser = optimiser(self.net.parameters(), **({"lr": 0.1, "momentum": 0.9} | options))
        self.layers, self.steps = masked_layers(self.net), 0
        self.update()

    def update(self):
        loss, logits = self.objective(self.net, batch(seed=self.steps), Progress(0, self.steps, 0.0))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.steps += 1
        return loss, logits

    def rewire(self):
        self.objective.after_update(self.net, self.optimiser)

    def counts(self):
        return [int(layer.mask.sum()) for layer in self.layers.values()]

    def give_signs(self):
        """All active weights are brought well onto their position's side of 0, so that none is about to die."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                sign = torch.where(self.objective.positive[name], 1.0, -1.0)
                layer.dense_weight.copy_(layer.mask * sign * layer.dense_weight.abs().clamp_min(0.01))

    def cross(self, name, count):
        """The `count` active weights of a layer with the largest gradients get the wrong sign; where they are, bool of
        the weight's shape.
        """
        layer = self.layers[name]
        crossed = largest(layer.mask + layer.dense_weight.grad.abs(), count)
        with torch.no_grad():
            layer.dense_weight[crossed] *= -1
        return crossed


NAMES = ["conv1.0", "conv2.1", "head.2"]


def test_signs_are_those_of_the_first_weights_and_random_elsewhere():
    fresh, rewired = masked_layers(build(FROM_SCRATCH)), Rewired(Rewire(CrossEntropy()))
    assert list(fresh) == NAMES
    for name, layer in fresh.items():
        positive = rewired.objective.positive[name]
        assert torch.equal(positive[layer.mask], layer.dense_weight[layer.mask] > 0)
    dormant = rewired.objective.positive["conv2.1"][~fresh["conv2.1"].mask].double()
    assert abs(float(dormant.mean()) - 0.5) < 4 * 0.5 / len(dormant) ** 0.5


@pytest.mark.parametrize("scope", ["network", "layer"])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam], ids=["sgd", "adam"])
def test_what_crosses_zero_is_replaced(scope, optimiser):
    """Twenty crossings: those connections die, as many others wake at rest, and the rest is left as it was."""
    options = {"momentum": 0.9, "lr": 0.1} if optimiser is torch.optim.SGD else {"lr": 0.1}
    rewired = Rewired(Rewire(CrossEntropy(), noise=0.0, scope=scope),
                      lambda params, **_: optimiser(params, **options))
    rewired.give_signs()
    before, counts = {n: x.mask.clone() for n, x in rewired.layers.items()}, rewired.counts()
    weights = {n: x.dense_weight.detach().clone() for n, x in rewired.layers.items()}
    memories = {n: _memory(rewired, x) for n, x in rewired.layers.items()}
    crossed = {"conv1.0": rewired.cross("conv1.0", 5), "conv2.1": rewired.cross("conv2.1", 15),
               "head.2": torch.zeros_like(rewired.layers["head.2"].mask)}
    rewired.rewire()

    assert sum(rewired.counts()) == sum(counts)
    if scope == "layer":
        assert rewired.counts() == counts
    assert rewired.objective.end_epoch(rewired.net) == {"rewired": 20}
    assert rewired.objective.end_epoch(rewired.net) == {"rewired": 0}, "counted by the epoch"
    woken = 0
    for name, layer in rewired.layers.items():
        survived = before[name] & ~crossed[name]
        born = layer.mask & ~survived
        assert (layer.mask & survived).sum() == survived.sum(), "no other connection dies"
        woken += int(born.sum())
        sign = torch.where(rewired.objective.positive[name], 1.0, -1.0)
        assert torch.equal(layer.dense_weight[born], BORN * sign[born])
        assert torch.equal(layer.dense_weight[survived], weights[name][survived])
        assert not layer.dense_weight[~layer.mask].any() and not layer.weight[~layer.mask].any()
        for now, then in zip(_memory(rewired, layer), memories[name], strict=True):
            assert torch.equal(now[survived], then[survived]) and then[crossed[name]].any() == crossed[name].any()
            assert not now[~survived].any(), "what dies and what wakes has no memory"
    assert woken == 20


def _memory(rewired, layer):
    """The optimiser's memories of a layer's weights: momentum; for Adam two moments."""
    state = rewired.optimiser.state[layer.dense_weight]
    return [value.clone() for value in state.values() if torch.is_tensor(value) and value.dim()]


def test_a_connection_that_wakes_again_starts_from_rest():
    """Its first step is that of plain SGD without momentum, and what stays dormant stays exactly 0."""
    rewired = Rewired(Rewire(CrossEntropy(), noise=0.0, scope="layer"))
    rewired.give_signs()
    layer = rewired.layers["head.2"]
    died = rewired.cross("head.2", int(layer.mask.sum()))  # all 32, so that some wake where others have died before
    momentum = rewired.optimiser.state[layer.dense_weight]["momentum_buffer"]
    assert momentum[died].all()
    for _ in range(30):
        rewired.rewire()
        if (layer.mask & died).any():
            break
        rewired.give_signs()
        rewired.cross("head.2", 32)
    again = layer.mask & died
    assert again.any()
    rewired.update()
    assert layer.dense_weight.grad[again].any()
    step = layer.dense_weight[again] - torch.where(rewired.objective.positive["head.2"], BORN, -BORN)[again]
    assert torch.allclose(step, -0.1 * layer.dense_weight.grad[again])
    assert not layer.dense_weight[~layer.mask].any() and not momentum[~layer.mask].any()


def test_noise_moves_active_weights_by_its_scale_times_the_rate():
    rewired = Rewired(Rewire(CrossEntropy(), noise=0.02), lr=0.5)
    with torch.no_grad():
        for name, layer in rewired.layers.items():
            layer.dense_weight.copy_(layer.mask * torch.where(rewired.objective.positive[name], 1.0, -1.0))
    before = {n: (x.mask.clone(), x.dense_weight.detach().clone()) for n, x in rewired.layers.items()}
    rewired.rewire()
    moved = []
    for name, layer in rewired.layers.items():
        mask, weight = before[name]
        assert torch.equal(layer.mask, mask) and not layer.dense_weight[~mask].any()
        moved.append((layer.dense_weight.detach() - weight)[mask])
    moved = torch.cat(moved)
    assert len(moved) == 508 and float(moved.std()) == pytest.approx(0.5 * 0.02, rel=0.15)
    assert abs(float(moved.mean())) < 4 * 0.01 / 508**0.5


def test_frozen_layers_are_left_alone():
    rewired = Rewired(Rewire(CrossEntropy(), noise=0.1))
    rewired.layers["conv2.1"].dense_weight.requires_grad_(False)
    before = rewired.layers["conv2.1"].dense_weight.clone()
    rewired.cross("conv1.0", 10), rewired.cross("conv2.1", 0)
    rewired.rewire()
    assert torch.equal(rewired.layers["conv2.1"].dense_weight, before) and sum(rewired.counts()) == 508


def test_new_connections_are_shared_out_by_the_layers_sizes():
    sizes, draw = [1000, 3000, 6000], generator("shares")
    found = shared_out(10_000, sizes, [10**9] * 3, draw)
    assert sum(found) == 10_000
    for count, size in zip(found, sizes, strict=True):
        assert abs(count - size) < 4 * (size * (1 - size / 10_000)) ** 0.5
    assert shared_out(500, sizes, [3, 0, 10_000], draw) == [3, 0, 497], "places with room are filled"
    assert shared_out(12, sizes, [3, 4, 5], draw) == [3, 4, 5] and shared_out(0, sizes, [0, 0, 0], draw) == [0, 0, 0]


def test_every_dormant_connection_is_as_likely_to_wake():
    """In a layer of 320 weights, of which 32 are active, 8 are replaced 300 times over."""
    rewired = Rewired(Rewire(CrossEntropy(), noise=0.0, scope="layer"))
    layer, times = rewired.layers["head.2"], 300
    seen, free = torch.zeros(layer.mask.shape), torch.zeros(layer.mask.shape)
    for _ in range(times):
        rewired.give_signs()
        old = layer.mask.clone()
        rewired.cross("head.2", 8)
        fell = old & (layer.dense_weight.detach().sign() != torch.where(rewired.objective.positive["head.2"], 1, -1))
        rewired.rewire()
        free += ~old | fell
        seen += layer.mask & (~old | fell)
    expected = seen.sum() / free.sum()
    z = (seen - expected * free) / (expected * (1 - expected) * free).sqrt()
    assert float(z.abs().max()) < 4.5 and float(z.square().mean()) == pytest.approx(1, abs=0.3)


def test_rewiring_is_resumed_to_the_same_weights_and_masks(tmp_path, monkeypatch):
    straight, resumed = stopped_and_resumed(FROM_SCRATCH, [], tmp_path, monkeypatch)
    assert sum(name.endswith("mask") for name in straight) == 3
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    first = build(FROM_SCRATCH).state_dict()
    moved = [int((first[name] ^ value).sum()) for name, value in straight.items() if name.endswith("mask")]
    assert sum(moved) > 50, "the masks change"


@pytest.mark.parametrize("scope", ["network", "layer"])
def test_a_training_keeps_the_number_of_connections(scope):
    recipe = replace(FROM_SCRATCH, objective=Rewire(CrossEntropy(), scope=scope))
    net, rows = fit(recipe)
    counts = [int(layer.mask.sum()) for layer in masked_layers(net).values()]
    assert sum(counts) == 508 and (counts == [15, 461, 32]) == (scope == "layer")
    assert sum(row["rewired"] for row in rows) > 50
    for layer in masked_layers(net).values():
        assert torch.equal(layer.weight != 0, layer.mask)


def test_rewiring_is_better_than_the_masks_it_starts_from(monkeypatch):
    """Against the same training, from the same weights in the same order, with masks that stay."""
    recipe = replace(FROM_SCRATCH, epochs=60, optimiser=replace(FROM_SCRATCH.optimiser, weight_decay=5e-4), seed=3,
                     schedule=Schedule("piecewise", drops=("1/2", "3/4")))
    found = accuracy(fit(recipe)[0])
    monkeypatch.setattr(RewireLoss, "after_update", lambda *_: None)
    assert found > accuracy(fit(recipe)[0]) + 0.03


def test_a_rewired_network_is_fine_tuned_with_its_masks():
    net, _ = fit(FROM_SCRATCH)
    tuned, _ = fit(replace(FROM_SCRATCH, objective=CrossEntropy(), parents=(FROM_SCRATCH,), epochs=1), net)
    for name, layer in masked_layers(net).items():
        assert torch.equal(layer.mask, tuned.get_submodule(name).mask)
        assert not torch.equal(layer.weight, tuned.get_submodule(name).weight)


# ---------------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("outer", [functools.partial(ADMM, keep="0.1"), Rewire], ids=["admm", "rewire"])
@pytest.mark.parametrize("inner", [
    Adversarial(THREAT, ATTACK), TRADES(THREAT, ATTACK), FreeAdversarial(THREAT, 3), GradientNorm(1.0),
], ids=lambda o: type(o).__name__)
def test_every_objective_can_be_inside(outer, inner):
    spec = outer(inner)
    objective, net = loss_for(spec), build(replace(FROM_SCRATCH if isinstance(spec, Rewire) else BASE, objective=spec))
    assert objective.replays == loss_for(inner).replays and spec.passes(10, 50) == inner.passes(10, 50)
    assert objective.second_order == isinstance(inner, GradientNorm)
    loss, logits = objective(net, batch(), Progress(0, 0, 0.0))
    loss.backward()
    assert logits.shape == (64, 10) and all(p.grad is not None for p in net.parameters())
    again = loss_for(spec)
    again.load_state_dict(objective.state_dict())
    if isinstance(inner, FreeAdversarial):
        assert torch.equal(again.inner.delta, objective.state_dict()["inner"]["delta"])


def test_the_attack_sees_the_masks_as_they_are_after_rewiring():
    """Training attacks run on a copy of the network: it must follow masks too."""
    rewired = Rewired(Rewire(Adversarial(THREAT, ATTACK), noise=0.0))
    twin = rewired.objective.inner.twin
    rewired.cross("conv2.1", 200)
    rewired.rewire()
    net = rewired.net.eval()
    x = batch().images
    with torch.no_grad():
        assert torch.allclose(twin.follow()(x), net(x), atol=1e-4)


@pytest.mark.parametrize("make, message", [
    (lambda: ADMM(CrossEntropy(), "1"), "objective.keep = 1 "),
    (lambda: ADMM(CrossEntropy(), "0.1", rho=-1), "rho = -1 "),
    (lambda: ADMM(CrossEntropy(), "0.1", growth=0.5), "growth = 0.5 "),
    (lambda: ADMM(CrossEntropy(), "0.1", every=0), "every = 0 "),
    (lambda: ADMM(Prune(CrossEntropy()), "0.1"), "objective of ADMM = Prune "),
    (lambda: Prune(ADMM(CrossEntropy(), "0.1")), "objective of Prune = ADMM "),
    (lambda: Rewire(Rewire(CrossEntropy())), "objective of Rewire = Rewire "),
    (lambda: Rewire(CrossEntropy(), noise=-1), "noise = -1 "),
    (lambda: Rewire(CrossEntropy(), scope="net"), "unknown objective.scope 'net'; did you mean 'network'"),
    (lambda: replace(BASE, arch=SPARSE, objective=ADMM(CrossEntropy(), "0.1")), "the dense network.* for ADMM"),
    (lambda: replace(FROM_SCRATCH, parents=(BASE,)), "parents = 1 .*from scratch"),
    (lambda: replace(FROM_SCRATCH, arch=Pruned(ARCH, "0.1")), "random scores for Rewire"),
    (lambda: replace(FROM_SCRATCH, arch=replace(SPARSE, granularity="channels")), "by weights"),
    (lambda: replace(FROM_SCRATCH, arch=Pruned(ARCH, "0.1", scores="learned")), "Prune for"),
    (lambda: fit(replace(BASE, objective=Rewire(CrossEntropy()))), "no fixed masks of weights"),
    (lambda: loss_for(Rewire(CrossEntropy()))(
        prune(trained(), Pruned(ARCH, "0.5", "channels"), (1, 8, 8)), batch(), None), "no fixed masks of weights"),
])
def test_what_cannot_be_is_refused_in_one_sentence(make, message):
    with pytest.raises(SettingsError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_the_values_decide_the_key():
    specs = [ADMM(CrossEntropy(), k, rho=r, every=e) for k in ("0.1", "0.2") for r in (0.001, 0.01) for e in (1, 30)]
    assert len({replace(BASE, objective=spec).key for spec in specs}) == len(specs)
    specs = [Rewire(CrossEntropy(), n, s) for n in (0.0, 1e-6) for s in ("network", "layer")]
    assert len({replace(FROM_SCRATCH, objective=spec).key for spec in specs}) == len(specs)


def test_the_loss_of_rewiring_is_the_wrapped_one():
    rewired = Rewired(Rewire(CrossEntropy()))
    with torch.no_grad():
        loss, logits = rewired.objective(rewired.net, batch(), Progress(0, 1, 0.0))
    assert torch.equal(loss, F.cross_entropy(logits, batch().labels))
