"""Ways to train: each against its paper's equation on numbers worked out by hand, in its limits, and on digits."""

import copy
import functools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.attacks.geometry import start_noise
from lib.certify import linear
from lib.certify.intervals import verified
from lib.data import load
from lib.errors import OneLineError, SettingsError
from lib.models import build
from lib.models.prune import prune
from lib.runtime import autocast, generator
from lib.training import loop, price
from lib.training.evaluation import evaluate
from lib.training.loop import fit
from lib.training.losses import Progress, TrainingBatch, adversarial, loss_for
from lib.training.losses.certified import strength
from lib.values.architectures import CNN, MLP, CNNSmall, Pruned, ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import (
    ADMM,
    IBP,
    MART,
    TRADES,
    Adversarial,
    CrossEntropy,
    CrownIBP,
    FreeAdversarial,
    GradientNorm,
    MixTrain,
    Noise,
    Smoothness,
    Stability,
    Transferred,
    fgsm_rs,
)
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT, ATTACK, JUDGE = Threat("linf", "0.15"), PGD(3, "0.07"), PGD(20, "0.04")
ROBUST = {
    "adversarial": Adversarial(THREAT, ATTACK),
    "fgsm-rs": fgsm_rs(THREAT),
    "trades": TRADES(THREAT, ATTACK),
    "mart": MART(THREAT, ATTACK),
    "free": FreeAdversarial(THREAT, 3),
    "noise": Noise(0.5),
    "stability": Stability(0.35),
    "gradient norm": GradientNorm(2.0),
    "smoothness": Smoothness(1.0, 0.3),
    "ibp": IBP(THREAT.eps, kappa=0.3, end=0.7),
    "crown-ibp": CrownIBP(THREAT.eps, kappa=0.3, end=0.7),
    "mixtrain": MixTrain(THREAT.eps, images=12, weight=1.0, end=0.5, every=1),
}
CERTIFIED = ("ibp", "crown-ibp", "mixtrain")
EVERY = {"clean": CrossEntropy(), **ROBUST}
BASE = Recipe(Data("digits", test=300), MLP((64,)), epochs=10, batch_size=64,
              optimiser=Optimiser("adam", lr=0.01, weight_decay=0), schedule=Schedule("onecycle"))
NOW = Progress(0, 0, 0.9)


@pytest.fixture(scope="module")
def trained():
    """name -> (network, log, outcomes under PGD-20), each trained once."""
    images, tested = load(BASE.data, "train"), load(BASE.data, "test")

    @functools.cache
    def train(name):
        net = build(recipe := replace(BASE, objective=EVERY[name]))
        rows = fit(net, recipe, images, "cpu")
        return net.eval(), rows, evaluate(net, tested, THREAT, JUDGE, seed_parts=("judge",))

    return train


def batch(n=12, seed="batch"):
    images = load(BASE.data, "train").take(slice(0, n))
    return TrainingBatch(images.pixels(), images.labels, images.indices, None, generator(seed))


def line(weights=(0.0, 1.0, 2.0)):
    """Logits w x of one pixel x."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, len(weights), bias=False))
    net[1].weight.data = torch.tensor(weights)[:, None]
    return net


def pixels(*values, labels=None):
    x = torch.tensor(values).view(-1, 1, 1, 1)
    y = torch.tensor(labels or [0] * len(values))
    return TrainingBatch(x, y, torch.arange(len(y)), None, generator("pixels"))


def seen_by(net):
    """What `net` is given in train mode, a tensor a call."""
    seen = []
    net.register_forward_pre_hook(lambda module, x: seen.append(x[0].detach().clone()) if module.training else None)
    return seen


@pytest.mark.parametrize("name", EVERY)
def test_learns_digits(trained, name):
    net, rows, outcomes = trained(name)
    assert outcomes.accuracy("clean") > 0.75
    assert rows[-1]["accuracy"] > rows[0]["accuracy"] + 0.1
    if name not in CERTIFIED:  # whose loss becomes harder
        assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("name", ROBUST)
def test_makes_more_robust_than_training_on_clean_images(trained, name):
    robust, normal = (trained(which)[2].accuracy("robust") for which in (name, "clean"))
    assert robust > normal + 0.2


@pytest.mark.parametrize("name", CERTIFIED)
def test_what_certified_training_certifies_no_attack_breaks(trained, name):
    net, _, outcomes = trained(name)
    images = load(BASE.data, "test")
    held = torch.from_numpy(outcomes.table["robust"].to_numpy(copy=True))
    proof = linear.verified if name == "mixtrain" else verified
    proved = proof(net, images.pixels(), images.labels, THREAT.eps)
    assert proved.float().mean() > 0.3
    assert not (proved & ~held).any()
    normal = trained("clean")[0]
    assert proof(normal, images.pixels(), images.labels, THREAT.eps).float().mean() < 0.05


NO_BALL = Threat("linf", 0)
PLAIN = {
    "no adversarial images": Adversarial(THREAT, ATTACK, 0.0),
    "adversarial images in no ball": Adversarial(NO_BALL, ATTACK),
    "accumulated in no ball": Adversarial(NO_BALL, ATTACK, accumulated=True),
    "TRADES, beta 0": TRADES(THREAT, ATTACK, 0.0),
    "TRADES in no ball": TRADES(NO_BALL, ATTACK),
    "free in no ball": FreeAdversarial(NO_BALL),
    "no noise": Noise(0.0),
    "stability, beta 0": Stability(0.5, 0.0),
    "stability without noise": Stability(0.0),
    "gradient norm, weight 0": GradientNorm(0.0),
    "smoothness, weight 0": Smoothness(0.0),
    "smoothness without noise": Smoothness(1.0, 0.0),
    "IBP, kappa 1": IBP("0.1", kappa=1.0),
    "IBP in no ball": IBP(0),
    "CROWN-IBP, kappa 1": CrownIBP("0.1", kappa=1.0),
    "CROWN-IBP in no ball": CrownIBP(0),
    "CROWN-IBP before the rise": CrownIBP("0.1", start=0.95, end=1.0),
    "CROWN-IBP in next to no ball": CrownIBP("1e-9", end=1.0),
    "MixTrain, share 0": MixTrain("0.1", share=0.0),
    "MixTrain, weight 0": MixTrain("0.1", weight=0.0),
}


def gradients(spec, net, progress=NOW):
    net.zero_grad()
    loss = loss_for(spec)(net, batch(), progress)[0]
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize("spec", PLAIN.values(), ids=PLAIN)
def test_without_its_strength_it_is_cross_entropy(spec):
    net = build(replace(BASE, arch=CNN(16, 1))).eval()
    torch.testing.assert_close(gradients(spec, net), gradients(CrossEntropy(), net), rtol=1e-4, atol=1e-6)


def test_boosted_cross_entropy_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [-1.0, 3.0, 2.0], [0.0, 40.0, 0.0]])
    p = logits[:2].double().softmax(1)
    by_hand = [-math.log(p[0, 0]) - math.log(1 - p[0, 1]), -math.log(p[1, 2]) - math.log(1 - p[1, 1])]
    found = adversarial.boosted_cross_entropy(logits, torch.tensor([0, 2, 0]))
    assert found[:2].tolist() == pytest.approx(by_hand)
    assert found[2] == pytest.approx(80 - math.log(2), rel=1e-5), "p_1 rounds to 1, the loss is finite all the same"


def test_mart_by_hand():
    """x = 0.5 goes to 0.6, its logits from (0, 0.5, 1) to (0, 0.6, 1.2); the label's p from 0.18632 to 0.16281."""
    net, clean = line(), pixels(0.5)
    spec = MART(Threat("linf", "0.1"), PGD(1, "0.2"), weight=5.0)
    boosted, divergence, missed = 2.592890, 0.0029035, 0.813676
    loss, logits = loss_for(spec)(net, clean, NOW)
    assert loss.item() == pytest.approx(boosted + 5 * divergence * missed, abs=2e-6)
    torch.testing.assert_close(logits, torch.tensor([[0.0, 0.6, 1.2]]))
    assert loss_for(replace(spec, weight=0.0))(net, pixels(0.5), NOW)[0].item() == pytest.approx(boosted, abs=2e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_clean_and_adversarial_losses_by_hand(share):
    """x = 0.5 goes to 0.6, its logits from (0, 0.5, 1) to (0, 0.6, 1.2); the label's p from 0.18632 to 0.16281."""
    spec = Adversarial(Threat("linf", "0.1"), PGD(1, "0.2"), clean_loss=share)
    loss, logits = loss_for(spec)(line(), pixels(0.5), NOW)
    clean, adversarial_ = math.log(1 + math.exp(.5) + math.e), math.log(1 + math.exp(.6) + math.exp(1.2))
    assert loss.item() == pytest.approx(share * clean + (1 - share) * adversarial_, abs=2e-6)
    torch.testing.assert_close(logits, torch.tensor([[0.0, 0.6, 1.2]]), msg="accuracy is that on adversarial images")


def test_a_clean_loss_is_of_the_clean_batch_by_itself():
    """Two passes in train mode, so that BatchNorm sees each batch's own statistics; the gradient is that of both."""
    net, clean = build(replace(BASE, arch=CNN(16, 1))).train(), batch()
    seen = seen_by(net)
    loss_for(Adversarial(THREAT, ATTACK, clean_loss=0.5))(net, clean, NOW)[0].backward()
    assert len(seen) == 2 and torch.equal(seen[0], clean.images) and not torch.equal(seen[1], clean.images)
    assert (seen[1] - clean.images).abs().max() <= float(THREAT.eps) + 1e-6
    both = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    sum(F.cross_entropy(net(images), clean.labels) / 2 for images in seen[:2]).backward()
    torch.testing.assert_close(both, [p.grad for p in net.parameters()], rtol=1e-4, atol=1e-6)
    one, two = (Adversarial(THREAT, ATTACK, clean_loss=share).passes(10, 50) for share in (0.0, 0.5))
    assert (one.updates, two.updates) == (1, 2) and one.attacks == two.attacks


def test_half_clean_half_adversarial_learns_digits():
    recipe = replace(BASE, objective=Adversarial(THREAT, ATTACK, clean_loss=0.5))
    net, tested = build(recipe), load(BASE.data, "test")
    fit(net, recipe, load(BASE.data, "train"), "cpu")
    got = evaluate(net.eval(), tested, THREAT, JUDGE, seed_parts=("judge",))
    assert got.accuracy("clean") > 0.75 and got.accuracy("robust") > 0.3


def test_an_accumulated_loss_by_hand():
    """x = 0.5 goes to 0.55 and 0.6: the sum of the cross-entropies of all three, of label 0."""
    spec = Adversarial(Threat("linf", "0.1"), PGD(2, "0.05", random_start=False), accumulated=True)
    loss, logits = loss_for(spec)(line(), pixels(0.5), NOW)
    by_hand = sum(math.log(1 + math.exp(x) + math.exp(2 * x)) for x in (.5, .55, .6))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    torch.testing.assert_close(logits, torch.tensor([[0.0, 0.6, 1.2]]), msg="accuracy is that on the last images")


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
@pytest.mark.parametrize("threat", [Threat("l2", 1, box=False), Threat("l2", 8, "batch", box=False), THREAT], ids=str)
def test_an_accumulated_gradient_is_that_of_an_update_whose_gradients_were_not_set_to_zero(threat, batchnorm):
    """The attack's backward passes reach the weights too, as does the one at the images that it ends with."""
    steps, eps = 3, float(threat.eps)
    size = eps / 2
    net, clean = build(replace(BASE, arch=CNN(16, 1))).train(), batch()
    attacked = copy.deepcopy(net).train(batchnorm == "train")
    loss_for(Adversarial(threat, PGD(steps, threat.eps / 2), batchnorm=batchnorm, accumulated=True))(net, clean, NOW)[
        0].backward()
    ours = [p.grad for p in net.parameters()]

    again = generator("batch")
    torch.randperm(len(clean.labels), generator=again)  # which images are attacked: all
    moved, passed = eps * start_noise(threat, clean.images.shape, again), []
    for _ in range(steps):
        x = (clean.images + moved).clamp(0, 1) if threat.box else clean.images + moved
        passed.append(x.detach().requires_grad_())
        gradient, = torch.autograd.grad(F.cross_entropy(attacked(passed[-1]), clean.labels), passed[-1])
        if threat.norm == "linf":
            moved = (passed[-1] - clean.images + size * gradient.sign()).clamp(-eps, eps)
        else:
            together = (1, 2, 3) if threat.per == "image" else (0, 1, 2, 3)
            moved = moved + size * gradient / gradient.square().sum(together, keepdim=True).sqrt()
            moved = moved * (eps / moved.square().sum(together, keepdim=True).sqrt()).clamp(max=1)
        moved = moved.detach()
    last = (clean.images + moved).clamp(0, 1) if threat.box else clean.images + moved
    naive = build(replace(BASE, arch=CNN(16, 1))).train()
    for images in (*passed, last):
        F.cross_entropy(naive(images.detach()), clean.labels).backward()
    for one, other in zip(ours, naive.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-3, atol=1e-4)
    alone = build(replace(BASE, arch=CNN(16, 1))).train()
    F.cross_entropy(alone(last.detach()), clean.labels).backward()
    assert sum(p.norm() for p in ours) > 2 * sum(p.grad.norm() for p in alone.parameters())


def test_an_accumulated_loss_costs_a_pass_for_every_step():
    one, all_ = (Adversarial(THREAT, ATTACK, accumulated=given).passes(10, 50) for given in (False, True))
    assert (one.updates, all_.updates) == (1, 1 + ATTACK.steps) and one.attacks == all_.attacks


@pytest.mark.parametrize("changes", [{"alpha": 0.5}, {"clean_loss": 0.5}, {"threat": Threat("gabor", 10)}])
def test_an_impossible_accumulated_loss_is_one_sentence(changes):
    with pytest.raises(SettingsError, match="accumulated = True is not possible") as error:
        Adversarial(**{"threat": THREAT, "attack": ATTACK, "accumulated": True, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes, words", [
    ({"clean_loss": 1}, ["clean_loss = 1", "from 0 to below 1"]),
    ({"clean_loss": -0.1}, ["clean_loss = -0.1", "from 0 to below 1"]),
    ({"clean_loss": "half"}, ["clean_loss = half"]),
    ({"clean_loss": 0.5, "alpha": 0.5}, ["alpha = 0.5", "1 where clean_loss is given"]),
])
def test_an_impossible_clean_loss_is_one_sentence(changes, words):
    with pytest.raises(SettingsError) as error:
        Adversarial(THREAT, ATTACK, **changes)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


# ----------------------------------------------------------------------------------- images made against other networks

# of label 0, x falls by one and rises by the other
MOVING = {"front": line((2.0, 1.0, 0.0)), "end": line((0.0, 1.0, 2.0))}
STEP = Threat("linf", "0.1"), PGD(1, "0.2")


def transferred(against=("front", "end"), **options):
    loss = loss_for(Transferred(*STEP, against, **options))
    loss.with_parents(MOVING.values())
    return loss


@pytest.mark.parametrize("against, clean, xs", [
    (("front",), False, [.4]), (("end",), False, [.6]), (("itself",), False, [.6]), (("front",), True, [.4, .5]),
    (("front", "end"), False, [.4, .6]), (("itself", "end", "front"), True, [.4, .6, .6, .5])])
def test_transferred_losses_by_hand(against, clean, xs):
    """x = 0.5 of label 0 goes to 0.4 by the front network and to 0.6 by the end and by the network itself."""
    loss, logits = transferred(against, clean=clean)(line((0.0, 1.0, 3.0)), pixels(0.5), NOW)
    by_hand = sum(math.log(1 + math.exp(x) + math.exp(3 * x)) for x in xs)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    torch.testing.assert_close(logits, torch.tensor([[0.0, xs[0], 3 * xs[0]]]))


def test_images_against_the_network_itself_alone_are_adversarial_training():
    net, attack = build(replace(BASE, arch=CNN(16, 1))).train(), replace(ATTACK, random_start=False)
    one, two = (loss_for(spec)(copy.deepcopy(net), batch(), NOW)[0].item() for spec in (
        Transferred(THREAT, attack, ("itself",), clean_statistics=True),
        Adversarial(THREAT, attack, clean_statistics=True)))
    assert one == two


@pytest.mark.parametrize("clean, clean_statistics, passes", [(False, False, 2), (True, False, 3), (False, True, 3)])
def test_transferred_images_pass_one_batch_after_the_other(clean, clean_statistics, passes):
    """So that BatchNorm sees each batch's own statistics; the attacked networks stay as they are."""
    net, others = (build(replace(BASE, arch=CNN(16, 1), seed=seed)).train() for seed in (0, 1))
    before = copy.deepcopy(others.state_dict())
    seen, clear = seen_by(net), batch()
    loss = loss_for(Transferred(THREAT, ATTACK, clean=clean, clean_statistics=clean_statistics))
    loss.with_parents([others, others])
    loss(net, clear, NOW)[0].backward()
    assert len(seen) == passes and net.conv1[1].num_batches_tracked == passes
    same = [torch.equal(images, clear.images) for images in seen]
    assert same == ([True] * clean_statistics + [False, False] + [True] * clean)
    moved = [images for images in seen if not torch.equal(images, clear.images)]
    assert not torch.equal(*moved), "each attack draws its own start"
    assert all((images - clear.images).abs().max() <= float(THREAT.eps) + 1e-6 for images in moved)
    assert others.training and all(torch.equal(v, others.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in others.parameters())


def test_what_is_attacked_is_one_value_in_any_order():
    one, two = (Transferred(*STEP, against) for against in (("front", "end"), ("end", "front")))
    assert one == two and hash(one) == hash(two)


def test_without_the_networks_to_attack_there_is_no_training():
    with pytest.raises(OneLineError, match="the end network that the objective attacks is missing"):
        loss_for(Transferred(*STEP, ("end",)))(line(), pixels(0.5), NOW)


PARENT = Recipe(Data("digits"), ResNet(16, (1, 1)))


@pytest.mark.parametrize("make, words", [
    (lambda: Transferred(*STEP, ()), r"against = \[\] .* must be one or more different ones"),
    (lambda: Transferred(*STEP, ("end", "end")), "against = .* must be one or more different ones"),
    (lambda: Transferred(*STEP, ("fronts",)), "unknown objective.against 'fronts'; did you mean 'front'"),
    (lambda: Transferred(STEP[0], PGD(1, "0.2", restarts=2)), "attack.restarts = 2"),
    (lambda: ADMM(Transferred(*STEP), keep="0.5"), "objective of ADMM = Transferred .* attacks the network it trains"),
    (lambda: replace(BASE, objective=Transferred(*STEP)), "objective = Transferred .* without front and end for MLP"),
    (lambda: Recipe(Data("digits"), Stitch("stem"), Transferred(*STEP, ("end",)),
                    parents=(PARENT, replace(PARENT, data=Data("mnist")))),
     "data of the end network that is attacked = mnist .* digits, whose images"),
])
def test_an_impossible_transferred_objective_is_one_sentence(make, words):
    with pytest.raises(SettingsError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_network_of_another_task_may_be_stitched_where_it_is_not_attacked():
    other = replace(PARENT, data=Data("mnist"))
    recipe = Recipe(Data("digits"), Stitch("stem"), Transferred(*STEP, ("front",)), parents=(PARENT, other))
    assert recipe.describe().startswith("digits stitch at stem") and "transferred from front" in recipe.describe()


def test_stability_by_hand():
    net, clean = line(), pixels(0.5, 0.2, labels=[0, 2])
    noise = 0.3 * torch.randn(2, 1, 1, 1, generator=generator("pixels"))
    p, q = ((x.flatten()[:, None].double() * torch.tensor([0.0, 1.0, 2.0])).softmax(1)
            for x in (clean.images, clean.images + noise))
    by_hand = -(p[0, 0].log() + p[1, 2].log()) / 2 + 6 * (p * (p / q).log()).sum() / 2
    assert loss_for(Stability(0.3))(net, clean, NOW)[0].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_smoothness_by_hand():
    """h(x) - h(x + n) = -n (0, 1, 2), of squared length 5 n^2."""
    net, clean = line(), pixels(0.5, 0.2)
    noise = 0.3 * torch.randn(2, generator=generator("pixels"))
    ce = loss_for(CrossEntropy())(net, clean, NOW)[0].item()
    loss = loss_for(Smoothness(0.7, 0.3))(net, clean, NOW)[0].item()
    assert loss == pytest.approx(ce + 0.7 * 5 * noise.square().mean().item(), rel=1e-5)


def test_noise_is_gaussian_of_sigma_and_not_cut():
    net, clean = build(BASE).train(), batch(500)
    seen = seen_by(net)
    loss_for(Noise(0.5))(net, clean, NOW)
    moved = seen[0] - clean.images
    assert moved.std().item() == pytest.approx(0.5, rel=0.02) and abs(moved.mean().item()) < 0.01
    assert seen[0].min() < -0.5 and seen[0].max() > 1.5


def test_gradient_norm_by_hand_and_its_own_gradient():
    """At x = 0.5 with label 0, d CE / dx = sum_k p_k w_k = 0.30720 + 2 * 0.50648."""
    net, objective = line(), loss_for(GradientNorm(3.0))
    loss = objective(net, pixels(0.5), NOW)[0]
    assert loss.item() == pytest.approx(1.68028 + 3 * 1.32016**2, rel=1e-4)
    loss.backward()
    ends = []
    for h in (0.01, -0.01):
        moved = line((0.0, 1.0, 2.0 + h))
        ends.append(objective(moved, pixels(0.5), NOW)[0].item())
    assert net[1].weight.grad[2].item() == pytest.approx((ends[0] - ends[1]) / 0.02, rel=1e-3)


def test_gradient_norm_of_the_papers_coefficient():
    """Theirs: lambda 1e5 / B times the sum of squares of the gradient of the batch's mean loss; BN in train mode."""
    net, clean, strength = build(replace(BASE, arch=CNN(16, 1))).train(), batch(16), 0.02
    images = clean.images.clone().requires_grad_()
    ce = F.cross_entropy(net(images), clean.labels)
    theirs = ce + strength * 1e5 / 16 * torch.autograd.grad(ce, images)[0].square().sum()
    ours = loss_for(GradientNorm(strength * 1e5 / 16**2))(net, clean, NOW)[0]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4) and ours > ce * 1.01


def test_ibp_by_hand():
    """x in [0.4, 0.6] and label 0: the margins of the worst case are -0.6 and -1.2, whose cross-entropy is 1.81520."""
    net, spec = line(), IBP("0.1", kappa=0.25)
    assert loss_for(spec)(net, pixels(0.5), NOW)[0].item() == pytest.approx(0.25 * 1.68028 + 0.75 * 1.81520, rel=1e-5)
    before = loss_for(spec)(net, pixels(0.5), Progress(0, 0, 0.05))[0].item()
    assert before == pytest.approx(1.68028, rel=1e-5)


def test_ibp_becomes_harder_linearly_between_start_and_end():
    spec = IBP("0.2", kappa=0.5, start=0.2, end=0.6)
    assert [strength(spec, share) for share in (0, 0.2, 0.6, 0.99)] == [(0, 1), (0, 1), (0.2, 0.5), (0.2, 0.5)]
    assert strength(spec, 0.3) == pytest.approx((0.05, 0.875))
    at_once = replace(spec, start=0.0, end=0.0)
    assert strength(at_once, 0.0) == (0.2, 0.5)


def test_ibp_trains_networks_with_batchnorm():
    """With running statistics in the bounds this training falls back to an accuracy of 0.6 and certifies nothing."""
    adam = Optimiser("adam", 0.005, weight_decay=0)
    recipe = replace(BASE, arch=CNN(16, 2), objective=IBP("0.05", end=0.7), epochs=15, optimiser=adam)
    net, images = build(recipe), load(BASE.data, "test")
    fit(net, recipe, load(recipe.data, "train"), "cpu")
    assert evaluate(net, images).accuracy() > 0.8
    assert verified(net.eval(), images.pixels(), images.labels, 0.05).float().mean() > 0.05


def hat():
    """Logits (0, relu(x - 0.5)) of one pixel x. For x in [0.4, 0.7] the ReLU's input lies in [-0.1, 0.2], so z_1 - z_0
    is at least 0 by intervals, -0.1 by the lower line of slope 1 (0.2 > 0.1), -1/15 by that of the chord's slope 2/3.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, bias=False))
    net[1].weight.data, net[1].bias.data = torch.tensor([[1.0]]), torch.tensor([-0.5])
    net[3].weight.data = torch.tensor([[0.0], [1.0]])
    return net


def worst_loss(margin):
    """The cross-entropy of two classes at a margin."""
    return math.log(1 + math.exp(-margin))


@pytest.mark.parametrize("share, beta", [(0.5, 0.5), (0.9, 0.0)])
@pytest.mark.parametrize("kappa", [0.0, 0.25])
def test_crown_ibp_by_hand(share, beta, kappa):
    """x = 0.55 of label 1 in the ball of 0.15; its margin is 0.05."""
    spec = CrownIBP("0.15" if share > 0.8 else "0.3", kappa=kappa, start=0.2, end=0.8)
    loss, logits = loss_for(spec)(hat(), pixels(0.55, labels=[1]), Progress(0, 0, share))
    by_hand = kappa * worst_loss(0.05) + (1 - kappa) * worst_loss(-0.1 * beta)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(logits.detach(), torch.tensor([[0.0, 0.05]]))


def test_crown_ibp_ends_as_interval_training():
    net, late = build(BASE), replace(NOW, share=0.8)
    spec = CrownIBP("0.1", kappa=0.4, end=0.7)
    torch.testing.assert_close(gradients(spec, net, late), gradients(IBP("0.1", kappa=0.4, end=0.7), net, late))
    before, after = (gradients(spec, net, replace(NOW, share=share))[0].item() for share in (0.6999, 0.7))
    assert before == pytest.approx(after, rel=1e-3), "linear bounds fade out"


def test_crown_ibp_without_natural_cross_entropy_still_feeds_running_statistics():
    """The logits' own gradient is not asked for; BatchNorm sees the clean batch all the same."""
    net, clean = build(replace(BASE, arch=CNN(16, 1))).train(), batch()
    loss, logits = loss_for(CrownIBP("0.05", end=0.95))(net, clean, NOW)
    loss.backward()
    assert net.conv1[1].num_batches_tracked == 1 and not logits.requires_grad
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_mixtrain_by_hand():
    """x = 0.55 of label 1 in the ball of 0.15: the parallel line below the ReLU bounds the margin by -1/15."""
    spec = MixTrain("0.3", share=1.0, images=1, weight=3.0, start=0.0, end=1.0)
    loss, logits = loss_for(spec)(hat(), pixels(0.55, labels=[1]), Progress(0, 0, 0.5))
    assert loss.item() == pytest.approx(worst_loss(0.05) + 3 * worst_loss(-1 / 15), rel=1e-5)
    torch.testing.assert_close(logits.detach(), torch.tensor([[0.0, 0.05]]))


def test_mixtrain_bounds_some_batches_and_some_images(monkeypatch):
    asked, real = [], linear.margins

    def watched(net, images, labels, eps, *how):
        asked.append((images, labels, eps, how))
        return real(net, images, labels, eps, *how)

    monkeypatch.setattr(linear, "margins", watched)
    net, objective, whole = build(BASE), loss_for(MixTrain("0.1", share=0.7, images=3)), batch()
    for k in range(200):
        objective(net, replace(whole, generator=generator("mix", k)), NOW)
    assert len(asked) == pytest.approx(140, abs=25), "3.9 standard deviations"
    places = [[(whole.images == image).flatten(1).all(1).nonzero().item() for image in images]
              for images, *_ in asked]
    assert all(len(set(some)) == 3 for some in places) and {p for some in places for p in some} == set(range(12))
    assert all(torch.equal(labels, whole.labels[p]) for p, (_, labels, *_) in zip(places, asked, strict=True))
    assert {(eps, how) for *_, eps, how in asked} == {(0.1, ("parallel", "linear"))}
    asked.clear()
    loss_for(MixTrain("0.1", share=1.0, images=50))(net, whole, NOW)
    assert sorted(asked[0][1].tolist()) == sorted(whole.labels.tolist()), "a small batch is taken whole"


def test_mixtrains_weight_grows_once_eps_stands():
    """Of 20 epochs the first 5 raise eps; then 0.1, 0.1, 0.2, 0.2, 0.4, ... up to 3."""
    objective = loss_for(MixTrain("0.1", weight=0.1, growth=2.0, every=2, most=3.0, end=0.25))
    weights = [objective.weight(Progress(e, 10 * e + u, (e + u / 10) / 20)) for e in range(20) for u in (0, 9)]
    expected = [0.1] * 14 + [0.2] * 4 + [0.4] * 4 + [0.8] * 4 + [1.6] * 4 + [3.0] * 10
    assert weights == pytest.approx(expected)


def test_mixtrain_resumes_with_its_weight():
    straight = loss_for(MixTrain("0.1", weight=0.1, growth=2.0, every=1, end=0.25))
    for epoch in range(4):
        straight.weight(Progress(epoch, epoch, epoch / 8))
    resumed = loss_for(straight.spec)
    resumed.load_state_dict(straight.state_dict())
    later = Progress(5, 5, 5 / 8)
    assert straight.weight(later) == resumed.weight(later) == pytest.approx(0.8)
    assert loss_for(straight.spec).weight(later) != pytest.approx(0.8)


@pytest.mark.parametrize("objective", [CrownIBP(THREAT.eps), MixTrain(THREAT.eps, images=2, every=1, end=0.5)], ids=str)
def test_certified_training_resumes_bit_for_bit(objective, tmp_path, monkeypatch):
    recipe = replace(BASE, data=Data("digits", train=64), objective=objective, epochs=4, batch_size=32)
    images = load(recipe.data, "train")
    straight, resumed = build(recipe), build(recipe)
    whole = fit(straight, recipe, images, "cpu")
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_keep", stop_after(4))
        with pytest.raises(KeyboardInterrupt):
            fit(build(recipe), recipe, images, "cpu", tmp_path)
    rows = fit(resumed, recipe, images, "cpu", tmp_path)
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def stop_after(epochs):
    def keep(training, done):
        if done == epochs:
            raise KeyboardInterrupt

    return keep


@pytest.mark.parametrize("name", ["crown-ibp", "mixtrain"])
def test_certified_training_of_pruned_networks_revives_nothing(name):
    net = prune(build(replace(BASE, arch=CNNSmall())), Pruned(CNNSmall(), "0.3", rates="uniform"), (1, 8, 8))
    zero = {n: p == 0 for n, p in net.named_parameters()}
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    loss = loss_for(replace(EVERY[name], start=0.0, end=1.0))(net, batch(), replace(NOW, share=0.5))[0]
    loss.backward()
    optimiser.step()
    pruned = [name for name in zero if name.endswith("weight")]
    assert all(0.6 < zero[n].float().mean() < 0.8 for n in pruned)
    assert all((p[zero[n]] == 0).all() for n, p in net.named_parameters() if n in pruned)
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("make, words", [
    (lambda: CrownIBP("1.5"), ["objective.eps = 3/2", "from 0 to 1"]),
    (lambda: CrownIBP("0.1", kappa=2), ["kappa = 2"]),
    (lambda: CrownIBP("0.1", start=0.6, end=0.5), ["start = 0.6", "at most end (0.5)"]),
    (lambda: MixTrain("0.1", share=1.5), ["share = 1.5", "from 0 to 1"]),
    (lambda: MixTrain("0.1", images=0), ["images = 0", "at least 1"]),
    (lambda: MixTrain("0.1", weight=-1), ["weight = -1"]),
    (lambda: MixTrain("0.1", growth=0.5), ["growth = 0.5", "at least 1"]),
    (lambda: MixTrain("0.1", every=0), ["every = 0", "at least 1"]),
    (lambda: MixTrain("0.1", weight=2.0, most=1.0), ["most = 1.0", "weight (2.0)"]),
    (lambda: MixTrain("0.1", end=1.2), ["end = 1.2", "from 0 to 1"]),
])
def test_an_impossible_certified_objective_is_one_sentence(make, words):
    with pytest.raises(SettingsError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_certified_training_is_priced_by_its_bounds(monkeypatch):
    interval, rising = IBP("0.1").passes(10, 50), CrownIBP("0.1", kappa=0.5, end=0.5).passes(10, 50)
    assert rising.updates == interval.updates + 10 * 0.5
    natural = CrownIBP("0.1", end=0.5).passes(10, 50)
    assert (natural.updates, natural.forwards) == (rising.updates - 1, 1), "the logits alone, without their gradient"
    assert MixTrain("0.1", share=0.0).passes(10, 50) == CrossEntropy().passes(10, 50)
    few, all_ = (MixTrain("0.1", images=5).passes(10, size).updates - 1 for size in (50, 5))
    assert all_ == pytest.approx(10 * few)
    recipe = replace(BASE, objective=MixTrain("0.1"))
    assert price.training(replace(recipe, batch_size=128)) < price.training(recipe)
    assert IBP("0.1").relus(10) == 0 and MixTrain("0.1", share=0.5, images=5).relus(10) == 0.5
    dear = price.training(recipe)
    monkeypatch.setattr(price, "UNSTABLE", 0)
    assert price.training(recipe) < dear, "its ReLUs are bounded one by one"


def test_free_training_by_hand():
    """delta starts at 0, steps by eps along the gradient that the loop's backward pass leaves, and is cut to the ball;
    the next batch starts where it stands.
    """
    net, objective = line().train(), loss_for(FreeAdversarial(Threat("linf", "0.1"), 2))
    seen = seen_by(net)
    assert objective.replays == 2
    for x, label in ((0.5, 0), (0.5, 0), (0.95, 0), (0.95, 2), (0.3, 2)):
        objective(net, pixels(x, labels=[label]), NOW)[0].backward()
    # label 0 pushes up, label 2 down; 0.95 + 0.1 is cut to 1, where no gradient comes through
    assert [x.item() for x in seen] == pytest.approx([0.5, 0.6, 1.0, 1.0, 0.4])
    assert objective.state_dict()["delta"].item() == pytest.approx(0.0, abs=1e-7)


def test_free_training_stays_in_its_ball():
    net, objective = build(BASE).train(), loss_for(FreeAdversarial(Threat("l2", "0.5"), 2))
    seen = seen_by(net)
    for k in range(4):
        clean = batch(seed=k)
        objective(net, clean, NOW)[0].backward()
        length = objective.delta.detach().flatten(1).norm(dim=1)
        assert length.max() <= 0.5 + 1e-6 and (k == 0) == bool((length == 0).all())
        assert seen[k].min() >= 0 and seen[k].max() <= 1


def test_free_training_resumes_with_the_perturbation_as_it_stood():
    spec, net = FreeAdversarial(THREAT, 2), build(BASE).train()
    straight, resumed, seen = loss_for(spec), loss_for(spec), seen_by(net)
    for _ in range(3):
        straight(net, batch(), NOW)[0].backward()
    resumed.load_state_dict(straight.state_dict())
    assert straight.state_dict()["delta"].abs().max() > 0
    for objective in (straight, resumed):
        objective(net, batch(), NOW)
    assert torch.equal(seen[-1], seen[-2])


def test_free_training_updates_at_every_replay():
    recipe = replace(BASE, arch=CNN(16, 1), data=Data("digits", train=64), objective=FreeAdversarial(THREAT, 3),
                     epochs=2, batch_size=32)
    net = build(recipe)
    fit(net, recipe, load(recipe.data, "train"), "cpu")
    assert net.conv1[1].num_batches_tracked == 2 * 2 * 3


@pytest.mark.parametrize("batchnorm, attacked", [("eval", 0), ("train", 3)])
@pytest.mark.parametrize("kind, learned", [(Adversarial, 1), (TRADES, 2), (MART, 2)])
def test_batchnorm_in_train_mode_sees_the_attack_too(kind, learned, batchnorm, attacked):
    net = build(replace(BASE, arch=CNN(16, 1))).train()
    reference = kind is TRADES and batchnorm == "train"  # the clean prediction that the attack leaves
    loss_for(kind(THREAT, ATTACK, batchnorm=batchnorm))(net, batch(), NOW)
    assert net.conv1[1].num_batches_tracked == learned + attacked + reference
    assert net.training and all(p.requires_grad for p in net.parameters())
    net.eval()
    loss_for(kind(THREAT, ATTACK, batchnorm=batchnorm))(net, batch(), NOW)
    assert not net.training and net.conv1[1].num_batches_tracked == learned + attacked + reference


@pytest.mark.parametrize("kind", [Adversarial, TRADES, MART])
@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_the_attack_on_frozen_batchnorm_is_the_same_in_both_modes(kind, batchnorm):
    """With the network in eval mode the folded twin and the network are the same function."""
    net = build(replace(BASE, arch=CNN(16, 1))).eval()
    loss = [loss_for(kind(THREAT, ATTACK, batchnorm=b))(net, batch(), NOW)[0].item() for b in ("eval", batchnorm)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)


def test_an_attack_out_of_memory_is_split_where_images_do_not_depend_on_each_other(monkeypatch, capsys):
    net, real, sizes = build(BASE).eval(), adversarial.pgd, []

    def tight(attacked, images, *args, **options):
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("made up")
        return real(attacked, images, *args, **options)

    whole = [loss_for(spec)(net, batch(), NOW)[0].item() for spec in (ROBUST["adversarial"], ROBUST["trades"])]
    monkeypatch.setattr(adversarial, "pgd", tight)
    parts = [loss_for(spec)(net, batch(), NOW)[0].item() for spec in (ROBUST["adversarial"], ROBUST["trades"])]
    assert parts == pytest.approx(whole, rel=1e-5) and sizes[0] == 12 and max(sizes[-3:]) == 3
    assert "out of memory" in capsys.readouterr().out
    together = Adversarial(Threat("l2", 1, per="batch"), ATTACK)
    for spec in (together, Adversarial(THREAT, ATTACK, batchnorm="train")):
        with pytest.raises(torch.OutOfMemoryError):
            loss_for(spec)(net, batch(), NOW)


@pytest.mark.parametrize("spec", EVERY.values(), ids=EVERY)
def test_draws_come_from_the_batch_alone(spec):
    net, before = build(BASE).train(), torch.get_rng_state()
    one, two = (loss_for(spec)(net, batch(), NOW)[0].item() for _ in range(2))
    assert one == two and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("spec", EVERY.values(), ids=EVERY)
def test_bf16_gives_an_fp32_loss_near_that_of_fp32(spec):
    losses = {}
    for precision in ("fp32", "bf16"):
        net = build(BASE).train()
        with autocast("cpu", precision):
            loss, logits = loss_for(spec)(net, batch(), replace(NOW, precision=precision))
        loss.backward()
        assert loss.dtype == logits.dtype == torch.float32 and logits.shape == (12, 10)
        assert all(p.grad.isfinite().all() for p in net.parameters())
        losses[precision] = loss.item()
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)


@pytest.mark.parametrize("kind", [TRADES, MART, FreeAdversarial])
def test_perceptual_threats_are_refused_where_a_start_is_given_in_pixels(kind):
    with pytest.raises(SettingsError, match=rf"threat.norm = gabor .*{kind.__name__}"):
        kind(Threat("gabor", 10), *([ATTACK] if kind is not FreeAdversarial else []))


def test_an_attack_that_cannot_search_within_the_threat_is_refused():
    with pytest.raises(SettingsError, match="attack.random_start"):
        Adversarial(Threat("gabor", 10), replace(ATTACK, random_start=False))
