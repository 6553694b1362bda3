"""What holds for every threat, whatever its norm: a small network trained on digits, every name in NORMS."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lib.attacks.geometry import norm_of, random_start, start_noise, step
from lib.attacks.perceptual import draw
from lib.attacks.pgd import adversarial_loss, pgd
from lib.attacks.search import break_images
from lib.attacks.sweep import sweep
from lib.errors import SettingsError, fraction
from lib.runtime import generator, initialise_with
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.values.attacks import APGD, PGD, AutoAttack, fgsm
from lib.values.certificates import Bounds, Smoothing
from lib.values.keys import plain
from lib.values.objectives import Adversarial
from lib.values.threats import NORMS, PERCEPTUAL, PIXEL_NORMS, Threat

# Budgets that break some of the images below but not all, and steps that go with them.
THREATS = {"linf": Threat("linf", "1/8"), "l2": Threat("l2", "3/5"), "l1": Threat("l1", "3/2"),
           "jpeg": Threat("jpeg", 8), "jpeg_linf": Threat("jpeg_linf", 1),
           "gabor": Threat("gabor", 75), "snow": Threat("snow", 1)}
STEPS = {norm: "1/5" if norm in ("gabor", "snow") else threat.eps / 4 for norm, threat in THREATS.items()}
EVERY = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    images, labels = digits()
    with initialise_with("test network"):
        net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, padding=1), nn.ReLU(),
                            nn.Flatten(), nn.Linear(1024, 10))
    for epoch in range(8):  # by hand: the first step of a torch optimiser imports for ten seconds
        for part in torch.randperm(1200, generator=generator("order", epoch)).split(64):
            loss = F.cross_entropy(net(images[part]), labels[part])
            grads = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for p, grad in zip(net.parameters(), grads, strict=True):
                    p -= 0.2 * grad
    return net.eval()


def digits():
    """The digits at 16x16 pixels: room for a few flakes."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.tensor(found.target)


@pytest.fixture(scope="module")
def right(net):
    """Images that the network classifies rightly, their labels and numbers."""
    images, labels = (part[1500:1600] for part in digits())
    keep = net(images).argmax(1) == labels
    assert keep.sum() > 80
    return images[keep], labels[keep], torch.arange(100)[keep]


def pgd_of(norm, steps=10, **options):
    return PGD(steps, STEPS[norm], **options)


def allowed(x_adv, x, threat):
    """Whether the images are what the threat allows, as far as images tell (jpeg's coefficients: test_perceptual)."""
    inside = x_adv.min() >= 0 and x_adv.max() <= 1
    added = x_adv - x
    if threat.norm in PIXEL_NORMS:
        inside &= (norm_of(added, threat.norm) <= float(threat.eps) * (1 + 1e-5) + 1e-6).all()
    if threat.norm in ("gabor", "snow"):
        inside &= added.min() >= -1e-6
    if threat.norm == "gabor":
        inside &= added.max() <= float(threat.eps) / 255 + 1e-6
    return bool(inside)


# ---------------------------------------------------------------------------------------------------------- every norm


def test_every_norm_is_tested_here():
    assert tuple(THREATS) == NORMS


@EVERY
@pytest.mark.parametrize("steps", [0, 5])
def test_images_under_attack_are_allowed_and_their_start_too(net, right, norm, steps):
    x, y, _ = right
    x_adv = pgd(net, x, y, THREATS[norm], pgd_of(norm, steps), generator("s"))
    assert allowed(x_adv, x, THREATS[norm]) and not x_adv.requires_grad
    assert ((x_adv - x).flatten(1) != 0).any(1).all()
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@EVERY
def test_an_attack_is_repeatable_and_touches_no_global_randomness(net, right, norm):
    x, y, _ = right
    state = torch.get_rng_state()
    runs = [pgd(net, x, y, THREATS[norm], pgd_of(norm, 2), generator("s", k)) for k in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.get_rng_state())


@EVERY
def test_a_start_is_the_same_inside_autocast(net, right, norm):
    """Training runs objectives inside it."""
    x, y, _ = right
    plain_start = pgd(net, x, y, THREATS[norm], pgd_of(norm, 0), generator("s"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pgd(net, x, y, THREATS[norm], pgd_of(norm, 0), generator("s")), plain_start)


@pytest.mark.parametrize("norm", PERCEPTUAL)
def test_an_attack_takes_a_scene_that_was_drawn_before(net, right, norm):
    x, y, _ = right
    scene = draw(THREATS[norm], x.shape, generator("s"))
    given = pgd(net, x, y, THREATS[norm], pgd_of(norm, 2), noise=scene)
    assert torch.equal(given, pgd(net, x, y, THREATS[norm], pgd_of(norm, 2), generator("s")))


class Constant(nn.Module):
    """Logits that depend on nothing, with a gradient of zero."""

    def forward(self, x):
        return torch.arange(10.0) + 0 * x.sum((1, 2, 3))[:, None]


@EVERY
def test_without_a_gradient_nothing_moves(right, norm):
    x, y, _ = right
    runs = [pgd(Constant(), x, y, THREATS[norm], pgd_of(norm, steps), generator("s")) for steps in (0, 3)]
    assert torch.allclose(runs[0], runs[1], atol=1e-6)


@EVERY
def test_eps_zero_is_the_image_itself_and_its_clean_verdict(net, norm):
    x, y = (part[1500:1540] for part in digits())
    threat = Threat(norm, 0)
    assert torch.equal(pgd(net, x, y, threat, pgd_of(norm), generator("s")), x)
    y = (y + (torch.arange(40) < 4)) % 10
    wrong = net(x).argmax(1) != y
    broken, x_adv, _ = break_images(net, x, y, threat, pgd_of(norm), torch.arange(40))
    assert wrong.any() and torch.equal(broken, wrong) and torch.equal(x_adv, x)


@EVERY
@pytest.mark.parametrize("loss", ["ce", "dlr", "cw", "kl"])
def test_an_attack_raises_its_loss(net, right, norm, loss):
    x, y, _ = right
    start, end = (pgd(net, x, y, THREATS[norm], pgd_of(norm, steps, loss=loss), generator("s")) for steps in (0, 8))
    before, after = (adversarial_loss(loss, net(v), y, reference=net(x)).mean() for v in (start, end))
    assert after > before


@EVERY
def test_a_targeted_attack_goes_towards_its_targets(net, right, norm):
    x, y, indices = right
    targets = (y + 3) % 10
    chances = [net(pgd(net, x, y, THREATS[norm], pgd_of(norm, steps, targeted=True), generator("s"), targets=targets))
               .log_softmax(1).gather(1, targets[:, None]).mean() for steps in (0, 8)]
    assert chances[1] > chances[0]
    broken, *_ = break_images(net, x, y, THREATS[norm], pgd_of(norm, targeted=True), indices, targets=targets)
    assert broken.any()


@pytest.fixture(scope="module")
def verdicts(net, right):
    x, y, indices = right
    return {norm: break_images(net, x, y, THREATS[norm], pgd_of(norm), indices, ("seed",)) for norm in NORMS}


@EVERY
def test_broken_means_misclassified_by_an_allowed_image(net, right, verdicts, norm):
    (x, y, _), (broken, x_adv, _) = right, verdicts[norm]
    assert 0.1 < broken.float().mean() < 0.95
    assert torch.equal(net(x_adv).argmax(1) != y, broken)
    assert allowed(x_adv[broken], x[broken], THREATS[norm]) and torch.equal(x_adv[~broken], x[~broken])


@EVERY
def test_verdicts_do_not_depend_on_batches_order_or_subset(net, right, verdicts, norm):
    x, y, indices = right
    broken, x_adv, _ = verdicts[norm]
    some = torch.randperm(len(x), generator=generator("order"))[:41]
    again, again_adv, _ = break_images(net, x[some], y[some], THREATS[norm], pgd_of(norm), indices[some], ("seed",),
                                    batch_size=7)
    assert (again != broken[some]).sum() <= 1  # kernels may round differently at another batch size
    assert ((again_adv - x_adv[some]).abs().amax((1, 2, 3)) < 1e-3).float().mean() > 0.9


@EVERY
def test_more_restarts_only_add(net, right, verdicts, norm):
    x, y, indices = right
    twice, *_ = break_images(net, x, y, THREATS[norm], pgd_of(norm, restarts=2), indices, ("seed",))
    assert (twice | ~verdicts[norm][0]).all() and twice.sum() >= verdicts[norm][0].sum()


@EVERY
def test_an_attack_breaks_clearly_more_than_a_random_start(net, right, verdicts, norm):
    x, y, indices = right
    drawn, *_ = break_images(net, x, y, THREATS[norm], pgd_of(norm, 0), indices, ("seed",))
    assert verdicts[norm][0].float().mean() > drawn.float().mean() + 0.12


@EVERY
def test_a_network_trains_on_it(net, right, norm):
    x, y, indices = right
    objective = loss_for(Adversarial(THREATS[norm], pgd_of(norm, 2)))
    loss, logits = objective(net, TrainingBatch(x, y, indices, None, generator("step")), Progress(0, 0, 0.0))
    weights, = torch.autograd.grad(loss, net[0].weight)
    assert logits.shape == (len(x), 10) and loss > F.cross_entropy(net(x), y) and weights.abs().sum() > 0


class Counting(nn.Module):
    """Counts the images that pass forward."""

    def __init__(self, net):
        super().__init__()
        self.net, self.images = net, 0

    def forward(self, x):
        self.images += len(x)
        return self.net(x)


@EVERY
def test_a_sweep_attacks_only_survivors_and_never_loses_one(net, right, norm):
    x, y, indices = right
    factors = (0, "1/4", 1, 2)
    threats = [Threat(norm, factor * THREATS[norm].eps) for factor in map(fraction, factors)]
    attacks = [pgd_of(norm, 4)] * len(threats)
    counting = Counting(net)
    broken = sweep(counting, x, y, threats, attacks, indices, ("seed",), batch_size=32)
    assert (broken[1:] >= broken[:-1]).all() and not broken[0].any() and broken[-1].any()
    together = counting.images
    counting.images = 0
    for threat, attack in zip(threats, attacks, strict=True):
        break_images(counting, x, y, threat, attack, indices, ("seed",), batch_size=32)
    assert together < counting.images
    alone, *_ = break_images(net, x, y, threats[2], attacks[2], indices, ("seed",), batch_size=32)
    assert (broken[2] | ~alone).all()


@pytest.mark.parametrize("threats, attacks", [
    ([Threat("l2", 1), Threat("linf", 1)], [PGD(1, 1)] * 2), ([Threat("l2", 2), Threat("l2", 1)], [PGD(1, 1)] * 2),
    ([Threat("l2", 1)], [PGD(1, 1)] * 2),
], ids=["norms", "falling", "unpaired"])
def test_impossible_sweeps_are_refused(net, right, threats, attacks):
    with pytest.raises(SettingsError):
        sweep(net, *right[:2], threats, attacks, right[2])


def test_a_large_targeted_budget_generates_images_of_the_targets(net, right):
    x, y, _ = right
    targets, threat = (y + 5) % 10, Threat("l2", 6)
    attack = PGD(30, "1/2", random_start=False, targeted=True)
    made = pgd(net, x, y, threat, attack, targets=targets)
    assert (net(made).argmax(1) == targets).all() and allowed(made, x, threat)
    assert (norm_of(made - x, "l2") > 3).all()  # it goes on after the first hit
    alone = torch.cat([pgd(net, *(part[k:k + 1] for part in (x, y)), threat, attack, targets=targets[k:k + 1])
                       for k in range(5)])
    assert torch.allclose(alone, made[:5], atol=1e-3)


# --------------------------------------------------------------------------------------------- the batch, and no box


BATCH = Threat("l2", 2, per="batch", box=False)


def test_a_batch_shares_one_budget_and_one_step():
    x = torch.rand(6, 1, 4, 4, generator=generator("x"))
    grad = torch.randn(x.shape, generator=generator("g")) * torch.arange(6)[:, None, None, None]
    moved = step(x, grad, 0.5, BATCH) - x
    assert norm_of(moved, "l2", "batch").item() == pytest.approx(0.5)
    assert torch.allclose(moved, 0.5 * grad / grad.norm(), atol=1e-6)
    assert torch.equal(step(x, torch.zeros_like(x), 0.5, BATCH), x)


def test_a_batch_starts_brightened_by_half_its_budget():
    x = torch.rand(6, 1, 4, 4, generator=generator("x"))
    added = random_start(x, BATCH, start_noise(BATCH, x.shape, generator("s"))) - x
    assert (added > -1e-6).all() and norm_of(added, "l2", "batch").item() == pytest.approx(1, rel=1e-4)


def test_an_attack_on_a_batch_stays_in_its_budget_but_not_in_the_pixel_range(net, right):
    x, y, _ = right
    x_adv = pgd(net, x, y, BATCH, PGD(10, "2/5"), generator("s"))
    sizes = norm_of(x_adv - x, "l2")
    assert norm_of(x_adv - x, "l2", "batch").item() == pytest.approx(2, rel=1e-3)
    assert sizes.max() > 1.5 * sizes.median()  # the share of an image is what its gradient takes
    assert x_adv.min() < 0
    boxed = pgd(net, x, y, Threat("l2", 2, per="batch"), PGD(10, "2/5"), generator("s"))
    assert boxed.min() >= 0 and boxed.max() <= 1


@pytest.mark.parametrize("norm", PIXEL_NORMS)
def test_without_a_box_images_leave_the_pixel_range_but_not_the_ball(net, right, norm):
    x, y, _ = right
    threat = Threat(norm, THREATS[norm].eps, box=False)
    x_adv = pgd(net, x, y, threat, pgd_of(norm), generator("s"))
    assert x_adv.min() < 0 or x_adv.max() > 1
    assert (norm_of(x_adv - x, norm) <= float(threat.eps) * (1 + 1e-5)).all()


# --------------------------------------------------------------------------------------------- what has no meaning


@pytest.mark.parametrize("make", [
    lambda: Threat("l3", 1), lambda: Threat("l2", -1), lambda: Threat("linf", 2), lambda: Threat("l2", 1, per="epoch"),
    lambda: Threat("linf", "1/10", per="batch"), lambda: Threat("jpeg", 1, per="batch"),
    lambda: Threat("snow", 1, box=False),
])
def test_impossible_threats_are_refused(make):
    with pytest.raises(SettingsError):
        make()


def test_the_later_fields_leave_old_keys_alone():
    assert plain(Threat("l2", "1/2")) == {"type": "Threat", "norm": "l2", "eps": "1/2"}
    assert plain(BATCH) == {"type": "Threat", "norm": "l2", "eps": "2", "per": "batch", "box": False}


@pytest.mark.parametrize("norm", PERCEPTUAL)
@pytest.mark.parametrize("attack", [APGD(2), AutoAttack()], ids=["apgd", "autoattack"])
def test_apgd_and_autoattack_refuse_perceptual_threats(net, right, norm, attack):
    with pytest.raises(SettingsError, match=norm):
        break_images(net, *right[:2], THREATS[norm], attack, right[2])


@pytest.mark.parametrize("threat, attack", [
    (BATCH, PGD(1, 1)), (Threat("l2", 1, box=False), APGD(2)), (THREATS["jpeg"], fgsm(THREATS["jpeg"])),
    (Threat("linf", "1/8"), Bounds()), (Threat("l2", 1), Smoothing(0.25)),
], ids=["batch", "box", "start", "bounds", "smoothing"])
def test_searches_that_cannot_be_are_refused(net, right, threat, attack):
    with pytest.raises(SettingsError):
        break_images(net, *right[:2], threat, attack, right[2])


@pytest.mark.parametrize("norm", PERCEPTUAL)
@pytest.mark.parametrize("given", [{}, {"generator": generator("s"), "noise": torch.zeros(1, 1, 16, 16)}],
                         ids=["nothing", "pixels"])
def test_a_perceptual_attack_needs_a_generator_and_no_pixel_start(net, right, norm, given):
    with pytest.raises(SettingsError):
        pgd(net, *right[:2], THREATS[norm], pgd_of(norm), **given)
