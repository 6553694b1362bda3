"""Geometry, losses, the training attack and the evaluation's search, on a small network and made-up images."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from lib.attacks import search
from lib.attacks.geometry import ball_noise, norm_of, project, random_start, step
from lib.attacks.pgd import adversarial_loss, pgd
from lib.attacks.pool import Pool
from lib.attacks.search import break_images
from lib.errors import SettingsError
from lib.modes import frozen_eval
from lib.runtime import generator, initialise_with
from lib.values.attacks import APGD, PGD, AutoAttack, fgsm
from lib.values.threats import PIXEL_NORMS, Threat

LINF, L2, L1 = Threat("linf", "8/255"), Threat("l2", "1/2"), Threat("l1", 3)
PIXELS = pytest.mark.parametrize("threat", [LINF, L2, L1], ids=PIXEL_NORMS)
MIDDLE = {"linf": Threat("linf", "36/255"), "l2": Threat("l2", "4/5")}  # breaks some of the images below, not all


def pictures(n, classes=10, seed=0):
    """Noisy prototypes, [n, 1, 8, 8] in [0, 1], and their labels."""
    prototypes = torch.rand(classes, 1, 8, 8, generator=generator("prototypes"))
    labels = torch.arange(n) % classes
    noise = torch.randn(n, 1, 8, 8, generator=generator("noise", seed))
    return (prototypes[labels] + 0.25 * noise).clamp(0, 1), labels


def convnet(classes=10):
    with initialise_with("test network", classes):
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                             nn.Conv2d(16, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                             nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, classes))


@pytest.fixture(scope="module")
def net():
    """Trained for some steps, so that attacks have something to break; left in train mode."""
    torch.set_num_threads(1)
    net, (images, labels) = convnet(), pictures(640)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    with torch.random.fork_rng():  # dropout
        torch.manual_seed(0)
        for _ in range(4):
            for x, y in zip(images.split(64), labels.split(64), strict=True):
                optimiser.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimiser.step()
    optimiser.zero_grad()
    return net


@pytest.fixture(scope="module")
def right(net):
    """Images that the network classifies rightly, their labels and numbers."""
    images, labels = pictures(96, seed=1)
    with frozen_eval(net):
        keep = net(images).argmax(1) == labels
    assert keep.sum() > 80
    return images[keep], labels[keep], torch.arange(96)[keep] + 1000


def inside(x_adv, x, threat):
    return (norm_of(x_adv - x, threat.norm) <= float(threat.eps) + 1e-6).all() and x_adv.min() >= 0 and x_adv.max() <= 1


# ----------------------------------------------------------------------------------------------------------- geometry


@PIXELS
def test_projection_enters_the_ball_and_leaves_what_is_inside(threat):
    x = torch.rand(8, 3, 5, 7, generator=generator("x"))
    far = x + 3 * torch.randn(x.shape, generator=generator("far"))
    near = project(far, x, threat)
    assert inside(near, x, threat)
    assert torch.allclose(project(near, x, threat), near, atol=1e-6)
    assert (norm_of(near - x, threat.norm) > 0.5 * float(threat.eps)).all()
    inner = x + 0.5 * (near - x)
    assert torch.allclose(project(inner, x, threat), inner, atol=1e-7)


def nearest(x_adv, x, threat):
    """The projection by a solver for general problems, in double precision: [d] each."""
    x_adv, x, eps = x_adv.double().numpy(), x.double().numpy(), float(threat.eps)
    room = np.concatenate([1 - x, x]) if threat.box else np.full(2 * len(x), np.inf)  # up, down
    if threat.norm == "linf":
        room = room.clip(max=eps)
    ball = {"linf": [],
            "l1": [{"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(len(v))}],
            "l2": [{"type": "ineq", "fun": lambda v: eps**2 - (v**2).sum(), "jac": lambda v: -2 * v}]}[threat.norm]
    split = len(x)
    wanted = x_adv - x

    def distance(v):
        gap = v[:split] - v[split:] - wanted
        return (gap**2).sum(), 2 * np.concatenate([gap, -gap])

    found = minimize(distance, np.zeros(2 * split), jac=True, method="SLSQP", bounds=[(0, r) for r in room],
                     constraints=ball, options={"ftol": 1e-14, "maxiter": 500})
    return torch.from_numpy(x + found.x[:split] - found.x[split:])


@pytest.mark.parametrize("threat", [Threat("linf", "1/4"), Threat("l1", 1), Threat("l1", 3), Threat("l1", 1, box=False),
                                    Threat("l2", "1/2", box=False)], ids=str)
def test_the_projection_is_the_nearest_point_of_the_ball_and_the_pixel_range(threat):
    x = torch.rand(6, 1, 2, 4, generator=generator("x"))
    far = x + torch.randn(x.shape, generator=generator("far")) * torch.logspace(-2, 0.5, 6)[:, None, None, None]
    near = project(far, x, threat)
    for one, start, found in zip(far, x, near, strict=True):
        assert torch.allclose(nearest(one.flatten(), start.flatten(), threat), found.flatten().double(), atol=1e-4)


def test_an_l1_budget_goes_to_pixels_that_can_use_it():
    x = torch.tensor([1.0, 0.5, 0.5, 0.5]).view(1, 1, 2, 2)
    far = x + torch.tensor([9.0, 0.4, 0.0, 0.0]).view(1, 1, 2, 2)
    assert torch.allclose(project(far, x, Threat("l1", "1/4")).flatten(), torch.tensor([1.0, 0.75, 0.5, 0.5]))
    moved = step(x, far - x, 0.2, Threat("l1", 1)) - x
    assert torch.allclose(moved.flatten(), torch.tensor([0.0, 0.2, 0.0, 0.0]))


def test_an_l1_step_moves_as_many_pixels_as_its_budget_can_fill():
    x = torch.full((2, 3, 6, 6), 0.5)
    grad = torch.randn(x.shape, generator=generator("grad"))
    for eps, count in (("1/10", 1), (3, 3), ("7/2", 4), (5000, 108)):
        assert ((step(x, grad, 0.1, Threat("l1", eps)) != x).flatten(1).sum(1) == count).all()


@PIXELS
def test_noise_fills_the_unit_ball(threat):
    noise = ball_noise(threat.norm, (4000, 1, 1, 2), generator("noise"))
    sizes = norm_of(noise, threat.norm)
    assert sizes.max() <= 1
    assert abs((sizes < 0.5).float().mean() - 0.25) < 0.03  # a quarter of the area


@PIXELS
def test_a_step_has_its_length_even_for_tiny_gradients_and_none_for_zero_ones(threat):
    x = torch.full((3, 1, 4, 4), 0.5)
    grad = torch.randn(x.shape, generator=generator("grad"))
    grad[1] *= 1e-30
    grad[2] = 0
    moved = norm_of(step(x, grad, 0.1, threat) - x, threat.norm)
    assert torch.allclose(moved, torch.tensor([0.1, 0.1, 0.0]), atol=1e-6)


@PIXELS
def test_random_starts_lie_in_the_ball(threat):
    x = torch.rand(8, 3, 6, 6, generator=generator("x"))
    start = random_start(x, threat, ball_noise(threat.norm, x.shape, generator("start")))
    assert inside(start, x, threat) and not torch.equal(start, x)


# ------------------------------------------------------------------------------------------------------------- losses


def test_losses_agree_with_their_formulae_and_the_package():
    from pyautoattack.autopgd_base import APGDAttack_targeted

    z, y = torch.randn(32, 6, generator=generator("z")), torch.arange(32) % 6
    t = (y + 2) % 6
    peer = APGDAttack_targeted(None, eps=0.1)
    peer.y_target = t
    assert torch.allclose(adversarial_loss("dlr", z, y), peer.dlr_loss(z, y))
    assert torch.allclose(adversarial_loss("dlr", z, y, t), peer.dlr_loss_targeted(z, y))
    assert torch.equal(adversarial_loss("cw", z, y) > 0, z.argmax(1) != y)
    assert torch.equal(adversarial_loss("ce", z, y, t), -F.cross_entropy(z, t, reduction="none"))
    p, q = z.softmax(1), z.flip(1).softmax(1)
    assert torch.allclose(adversarial_loss("kl", z.flip(1), y, reference=z), (p * (p / q).log()).sum(1), atol=1e-5)


def test_a_margin_stops_to_grow_at_its_confidence(net, right):
    z, y = 10 * torch.randn(64, 6, generator=generator("z")), torch.arange(64) % 6
    t = (y + 2) % 6
    for targets in (None, t):
        whole, cut = (adversarial_loss("cw", z, y, targets, confidence=kappa) for kappa in (None, 5.0))
        assert (whole > 5).any() and torch.equal(cut, whole.clamp(max=5))
        assert torch.equal(adversarial_loss("cw", z, y, targets, confidence=1e9), whole)
    x, y, indices = right
    threat, steps = Threat("linf", "1/2"), {"steps": 20, "step_size": "1/8", "loss": "cw"}

    def margin(attack):
        with frozen_eval(net):
            return adversarial_loss("cw", net(pgd(net, x, y, threat, attack, generator("start"))), y)

    usual, early = margin(PGD(**steps)), margin(PGD(**steps, confidence=1.0))
    assert early.median() > 0.5 and early.mean() < usual.mean() - 1, "where the loss is flat nothing moves on"
    middle = MIDDLE["linf"]
    verdicts = [break_images(net, x, y, middle, PGD(5, "9/255", loss="cw", confidence=kappa), indices)[0]
                for kappa in (None, 0, 50)]
    assert 0 < verdicts[0].sum() < len(y) and all(torch.equal(verdicts[0], other) for other in verdicts[1:])


@pytest.mark.parametrize("call", [
    lambda z, y: adversarial_loss("dlr", z[:, :2], y),
    lambda z, y: adversarial_loss("dlr", z[:, :3], y, y),
    lambda z, y: adversarial_loss("kl", z, y, y, z),
    lambda z, y: adversarial_loss("hinge", z, y),
])
def test_impossible_losses_are_refused(call):
    with pytest.raises(SettingsError):
        call(torch.randn(2, 5), torch.zeros(2, dtype=torch.int64))


# ------------------------------------------------------------------------------------------------ the training attack


@PIXELS
@pytest.mark.parametrize("loss", ["ce", "dlr", "cw", "kl"])
def test_pgd_stays_inside_and_raises_its_loss(net, right, threat, loss):
    x, y, _ = right
    attack = PGD(5, threat.eps / 4, loss=loss)
    with frozen_eval(net):
        x_adv = pgd(net, x, y, threat, attack, generator("start"))
        before, after = (adversarial_loss(loss, net(v), y, reference=net(x)).mean() for v in (x, x_adv))
    assert inside(x_adv, x, threat) and not x_adv.requires_grad
    assert after > before


def test_pgd_is_fgsm_after_one_full_step(net, right):
    x, y, _ = right
    with frozen_eval(net):
        leaf = x.clone().requires_grad_()
        grad, = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
        expected = (x + float(LINF.eps) * grad.sign()).clamp(0, 1)
        assert torch.allclose(pgd(net, x, y, LINF, fgsm(LINF)), expected, atol=1e-7)


def test_pgd_goes_towards_its_targets(net, right):
    x, y, _ = right
    targets = (y + 1) % 10
    with frozen_eval(net):
        x_adv = pgd(net, x, y, Threat("linf", "1/4"), PGD(10, "1/20", targeted=True), generator("s"), targets=targets)
        assert (net(x_adv).argmax(1) == targets).float().mean() > 0.9


def test_pgd_forms_no_weight_gradients_and_restores_flags_and_modes(net, right):
    x, y, _ = right
    net[0].weight.requires_grad_(False)
    net[4].eval()
    modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    seen = []
    hook = net[3].register_forward_hook(lambda module, inputs, output: seen.append(module.weight.requires_grad))
    try:
        pgd(net, x, y, LINF, PGD(2, "2/255"), generator("s"))
        with pytest.raises(ZeroDivisionError), frozen_eval(net):
            assert not any(m.training for m in net.modules())
            raise ZeroDivisionError
        assert seen == [False, False]
        assert all(p.grad is None for p in net.parameters())
        assert modes == [m.training for m in net.modules()] and flags == [p.requires_grad for p in net.parameters()]
    finally:
        hook.remove()
        net[0].weight.requires_grad_(True)
        net.train()


def test_pgd_keeps_the_layout_and_leaves_its_input(net):
    x = torch.rand(4, 3, 8, 8, generator=generator("x")).contiguous(memory_format=torch.channels_last)
    kept, plain = x.clone(), nn.Sequential(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(576, 4))
    for threat in (LINF, L2, L1, Threat("jpeg", 5), Threat("gabor", 50), Threat("snow", 1), Threat("linf", 0)):
        x_adv = pgd(plain, x, torch.zeros(4, dtype=torch.int64), threat, PGD(2, "1/50"), generator("s"))
        assert x_adv.is_contiguous(memory_format=torch.channels_last) and x_adv.data_ptr() != x.data_ptr()
    assert torch.equal(x_adv, x) and torch.equal(x, kept)


def test_pgd_is_repeatable_without_touching_global_randomness(net, right):
    x, y, _ = right
    state = torch.get_rng_state()
    with frozen_eval(net):
        runs = [pgd(net, x, y, LINF, PGD(2, "2/255"), generator("s", k)) for k in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.get_rng_state())


def test_pgd_runs_in_bf16(net, right):
    x, y, _ = right
    with frozen_eval(net):
        x_adv = pgd(net, x, y, LINF, PGD(3, "2/255"), generator("s"), precision="bf16")
    assert inside(x_adv, x, LINF) and x_adv.dtype == torch.float32


@pytest.mark.parametrize("attack, given", [
    (PGD(1, 1), {}), (PGD(1, 1, restarts=2), {"generator": generator("s")}),
    (PGD(1, 1, random_start=False, targeted=True), {}),
])
def test_pgd_says_what_it_lacks(net, right, attack, given):
    with pytest.raises(SettingsError):
        pgd(net, right[0], right[1], LINF, attack, **given)


# --------------------------------------------------------------------------------------------- the evaluation's search

ATTACKS = {"pgd": lambda threat: PGD(10, threat.eps / 4, restarts=2), "apgd": lambda threat: APGD(10, targets=2)}


@pytest.fixture(scope="module")
def verdicts(net, right):
    return {(name, norm): break_images(net, right[0], right[1], threat, attack(threat), right[2], ("seed",))
            for name, attack in ATTACKS.items() for norm, threat in MIDDLE.items()}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_broken_means_misclassified_inside_the_ball(net, right, verdicts, name, norm):
    x, y, _ = right
    broken, x_adv, _ = verdicts[name, norm]
    assert 0.1 < broken.float().mean() < 0.9
    assert inside(x_adv, x, MIDDLE[norm])
    with frozen_eval(net):
        assert torch.equal(net(x_adv).argmax(1) != y, broken)
    assert torch.equal(x_adv[~broken], x[~broken])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_verdicts_do_not_depend_on_batches_order_or_subset(net, right, verdicts, monkeypatch, name, norm):
    x, y, indices = right
    broken, x_adv, _ = verdicts[name, norm]
    monkeypatch.setattr(search, "BATCHES", {"cpu": 1})
    some = torch.randperm(len(x), generator=generator("order"))[:41]
    again, again_adv, _ = break_images(net, x[some], y[some], MIDDLE[norm], ATTACKS[name](MIDDLE[norm]), indices[some],
                                       ("seed",), batch_size=7)
    assert (again != broken[some]).sum() <= 1  # kernels may round differently at another batch size
    assert ((again_adv - x_adv[some]).abs().amax((1, 2, 3)) < 1e-4).float().mean() > 0.9
    other = break_images(net, x, y, MIDDLE[norm], ATTACKS[name](MIDDLE[norm]), indices, ("other",))[1]
    assert not torch.equal(other, x_adv)  # the seed matters


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_is_no_weaker_than_pgd(verdicts, norm):
    assert verdicts["apgd", norm][0].sum() >= verdicts["pgd", norm][0].sum() - 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_takes_the_steps_of_the_package(net, right, norm):
    from pyautoattack.autopgd_base import APGDAttack

    x, y, indices = right
    threat = MIDDLE[norm]
    with frozen_eval(net):
        start = Pool(net, x, y, threat, indices, ("seed",), 128, "fp32").start(torch.arange(len(x)), "apgd", "ce", 0)
        peer = APGDAttack(net, n_iter=10, norm={"linf": "Linf", "l2": "L2"}[norm], eps=float(threat.eps), device="cpu")
        peer.init_hyperparam(x)
        with torch.random.fork_rng():
            stands = peer.attack_single_run(x, y, x_init=start)[1]
    broken, *_ = break_images(net, x, y, threat, APGD(10, targets=0), indices, ("seed",))
    assert (broken == stands).sum() <= 1


def test_more_restarts_only_add(net, right, verdicts):
    x, y, indices = right
    once = break_images(net, x, y, MIDDLE["linf"], PGD(10, MIDDLE["linf"].eps / 4), indices, ("seed",))[0]
    assert (verdicts["pgd", "linf"][0] | ~once).all()


class Counting(nn.Module):
    """Counts the images that pass forward, by whether a gradient is wanted."""

    def __init__(self, net):
        super().__init__()
        self.net, self.with_gradient, self.batches = net, 0, []

    def forward(self, x):
        if x.requires_grad:
            self.with_gradient += len(x)
            self.batches.append(len(x))
        return self.net(x)


@pytest.mark.parametrize("attack", [PGD(20, "1/8"), APGD(20, targets=0)], ids=["pgd", "apgd"])
def test_broken_images_cost_nothing_and_batches_are_refilled(net, right, monkeypatch, attack):
    x, y, indices = right
    monkeypatch.setattr(search, "BATCHES", {"cpu": 16})
    counting = Counting(net)
    broken, *_ = break_images(counting, x, y, Threat("linf", "1/2"), attack, indices, batch_size=16)
    assert broken.all()
    assert counting.with_gradient < 5 * len(x)
    assert sum(size < 16 for size in counting.batches) <= 5  # one batch a step may be partly filled


def test_hits_of_a_bf16_search_are_confirmed_in_fp32(net, right, verdicts):
    x, y, indices = right
    for name, attack in ATTACKS.items():
        threat = MIDDLE["linf"]
        broken, x_adv, _ = break_images(net, x, y, threat, attack(threat), indices, ("seed",), precision="bf16")
        with frozen_eval(net):
            assert torch.equal(net(x_adv).argmax(1) != y, broken)
        assert (broken != verdicts[name, "linf"][0]).sum() <= 3


class WrongInBF16(nn.Module):
    """Rounded logits always name the wrong class, fp32 ones never."""

    def forward(self, x):
        z = F.one_hot(torch.zeros(len(x), dtype=torch.int64), 4) + 0 * x.sum((1, 2, 3))[:, None]
        return z.roll(1, 1) if torch.is_autocast_enabled("cpu") else z


@pytest.mark.parametrize("attack", [PGD(3, "1/255"), APGD(3, targets=1)], ids=["pgd", "apgd"])
def test_unconfirmed_hits_do_not_count(attack):
    x, y = torch.rand(5, 1, 8, 8, generator=generator("x")), torch.zeros(5, dtype=torch.int64)
    assert not break_images(WrongInBF16(), x, y, LINF, attack, torch.arange(5), precision="bf16")[0].any()


def test_eps_zero_gives_the_clean_verdict(net):
    x, y = pictures(40, seed=2)
    y = y.clone()
    y[:4] = (y[:4] + 1) % 10
    with frozen_eval(net):
        wrong = net(x).argmax(1) != y
    assert 0 < wrong.sum() < 40
    for attack in (PGD(3, 1), APGD(3), AutoAttack()):
        broken, x_adv, _ = break_images(net, x, y, Threat("l2", 0), attack, torch.arange(40))
        assert torch.equal(broken, wrong) and torch.equal(x_adv, x)


def test_a_targeted_search_and_other_losses(net, right):
    x, y, indices = right
    threat = Threat("linf", "1/2")
    broken, *_ = break_images(net, x, y, threat, PGD(10, "1/8", targeted=True), indices, targets=(y + 3) % 10)
    assert broken.float().mean() > 0.9
    assert break_images(net, x, y, threat, PGD(10, "1/8", loss="kl"), indices)[0].float().mean() > 0.9


def test_nothing_to_attack_is_no_error(net, right):
    none = [t[:0] for t in right]
    for attack in (PGD(1, 1), APGD(1), AutoAttack()):
        broken, x_adv, _ = break_images(net, none[0], none[1], LINF, attack, none[2])
        assert broken.shape == (0,) and x_adv.shape == none[0].shape


def test_attacks_leave_network_and_global_randomness_alone(net, right):
    x, y, indices = (t[:3] for t in right)
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    break_images(net, x, y, LINF, APGD(2, targets=1), indices)
    assert modes == [m.training for m in net.modules()] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("classes, attack", [(3, APGD(2, targets=1)), (3, AutoAttack()), (5, APGD(2, targets=5))])
def test_too_few_classes_are_refused(classes, attack):
    x, y = pictures(4, classes)
    with pytest.raises(SettingsError):
        break_images(convnet(classes), x, y, LINF, attack, torch.arange(4))


@pytest.mark.parametrize("change", [{"precision": "fp16"}, {"attack": PGD(1, 1, targeted=True)},
                                    {"targets": torch.zeros(2, dtype=torch.int64)}])
def test_impossible_searches_are_refused(net, right, change):
    x, y, indices = (t[:2] for t in right)
    settings = {"attack": PGD(1, Fraction(1, 255))} | change
    with pytest.raises(SettingsError):
        break_images(net, x, y, LINF, indices=indices, **settings)
