"""AutoAttack and its parts: as strong as the authors' package, per image random, packed, and going on after a kill."""

import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import groupby

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.attacks import auto, search
from lib.attacks import square as squares
from lib.attacks.fab import fab, onto_plane
from lib.attacks.geometry import norm_of, project
from lib.attacks.pgd import pgd
from lib.attacks.pool import AllBroken, Pool
from lib.attacks.search import break_images
from lib.attacks.square import bump, bump_proposal, stripe_proposal, window_side
from lib.data import load
from lib.errors import SettingsError
from lib.modes import frozen_eval
from lib.runtime import ROOT, generator, initialise_with
from lib.values.attacks import APGD, PGD, AutoAttack, Square
from lib.values.data import Data
from lib.values.threats import PIXEL_NORMS, Threat

THREATS = {"linf": Threat("linf", "0.12"), "l2": Threat("l2", "0.8"), "l1": Threat("l1", 2)}
PACKAGE = {"linf": "Linf", "l2": "L2", "l1": "L1"}
NORMS = pytest.mark.parametrize("norm", PIXEL_NORMS)


def untrained():
    with initialise_with("digits net"):
        return nn.Sequential(nn.Conv2d(1, 16, 3, 2, padding=1), nn.ReLU(),
                             nn.Conv2d(16, 32, 3, 2, padding=1), nn.ReLU(),
                             nn.Flatten(), nn.Linear(128, 10)).eval()


def digits(net, count):
    """Test digits that the network classifies rightly, their labels and numbers."""
    test = load(Data("digits"), "test")
    rows = (net(test.pixels()).argmax(1) == test.labels).nonzero().squeeze(1)[:count]
    return test.pixels(rows), test.labels[rows], test.indices[rows]


@pytest.fixture(scope="module")
def net():
    """Adversarially trained for a moment: some digits break at once, some late, some never."""
    torch.set_num_threads(1)
    net, train, draw = untrained(), load(Data("digits"), "train"), generator("training")
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(4):
        for rows in torch.randperm(len(train), generator=draw)[:768].split(96):
            x = pgd(net, train.pixels(rows), train.labels[rows], THREATS["linf"], PGD(2, "0.08"), draw)
            optimiser.zero_grad()
            F.cross_entropy(net(x), train.labels[rows]).backward()
            optimiser.step()
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def right(net):
    return digits(net, 100)


class Counting(nn.Module):
    """Counts forward passes and, as one pass more each, those whose gradient is wanted; calls `after` with the number.
    """

    def __init__(self, net, after=lambda passes: None):
        super().__init__()
        self.net, self.passes, self.after = net, 0, after

    def forward(self, x):
        self.passes += len(x) * (1 + x.requires_grad)
        self.after(self.passes)
        return self.net(x)


def inside(x_adv, x, threat):
    return (norm_of(x_adv - x, threat.norm) <= float(threat.eps) + 1e-6).all() and 0 <= x_adv.min() <= x_adv.max() <= 1


def short(monkeypatch, steps=10, targets=2, queries=40):
    """The standard AutoAttack with few steps."""
    parts = {"apgd": APGD(steps, targets=targets), "fab_steps": steps, "square": Square(queries)}
    for name, part in parts.items():
        monkeypatch.setattr(AutoAttack, name, part)


def searched(net, right, threat, run, batch_size=64, precision="fp32"):
    """The pool after a stage's function."""
    x, y, indices = right
    with frozen_eval(net):
        pool = Pool(net, x, y, threat, indices, ("seed",), batch_size, precision, net(x))
        try:
            run(pool)
        except AllBroken:
            assert pool.broken.all()
    return pool


PARTS = {"APGD-CE": lambda pool: auto._apgd(pool, 10, 0), "APGD-T": lambda pool: auto._apgd(pool, 10, 0, 1),
         "FAB-T": lambda pool: fab(pool, 1, 100), "Square": lambda pool: squares.square(pool, 80)}
EACH = pytest.mark.parametrize("part", PARTS)


# -------------------------------------------------------------------------------------------------- each part by itself


@NORMS
@EACH
def test_what_a_part_breaks_is_misclassified_inside_the_ball(net, right, norm, part, capsys):
    state, threat = torch.get_rng_state(), THREATS[norm]
    pool = searched(net, right, threat, PARTS[part])
    assert 0 < pool.broken.sum() < len(right[0])
    assert inside(pool.adversarial, right[0], threat)
    assert torch.equal(net(pool.adversarial).argmax(1) != right[1], pool.broken)
    assert torch.equal(pool.adversarial[~pool.broken], right[0][~pool.broken])
    assert torch.equal(state, torch.get_rng_state()) and capsys.readouterr().out == ""


@NORMS
@EACH
def test_an_images_verdict_does_not_depend_on_its_company(net, right, norm, part):
    whole = searched(net, right, THREATS[norm], PARTS[part])
    some = torch.randperm(len(right[0]), generator=generator("order"))[:31]
    again = searched(net, [t[some] for t in right], THREATS[norm], PARTS[part], batch_size=7)
    assert (again.broken != whole.broken[some]).sum() <= 1  # kernels may round differently at another batch size
    same = (again.adversarial - whole.adversarial[some]).flatten(1).abs().amax(1) < 1e-3
    assert same.float().mean() > 0.9


@NORMS
def test_a_bf16_square_counts_what_fp32_confirms(net, right, norm):
    few = [t[:20] for t in right]
    pool = searched(net, few, THREATS[norm], PARTS["Square"], precision="bf16")
    assert torch.equal(net(pool.adversarial).argmax(1) != few[1], pool.broken)
    exact = searched(net, few, THREATS[norm], PARTS["Square"])
    assert abs(int(pool.broken.sum()) - int(exact.broken.sum())) <= 3


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("far", [0.01, 0.3, 3], ids=["near", "with sides met", "out of reach"])
def test_the_least_move_onto_a_plane_is_that_of_the_package(norm, far):
    from pyautoattack import fab_projections

    stream = torch.Generator().manual_seed(0)
    x, w = torch.rand(30, 48, generator=stream), torch.randn(30, 48, generator=stream)
    x[:, :4], w[:, 4:8] = x[:, :4].round(), 0  # entries on a side of the box, and entries that cannot help
    b = (w * x).sum(1) + far * torch.randn(30, generator=stream) * w.abs().sum(1)
    b[0] = (w[0] * x[0]).sum()  # a point that lies on its plane
    ours, theirs = onto_plane(x, w, b, norm), getattr(fab_projections, f"projection_{norm}")(x, w, b)
    size = torch.linalg.vector_norm(ours, ord=torch.inf if norm == "linf" else 2, dim=1)
    assert torch.allclose(ours, theirs, atol=2e-5)
    assert (x + ours >= 0).all() and (x + ours <= 1).all()
    assert size[0] < 1e-6 and size[1:].min() > 0


@NORMS
def test_fab_takes_the_steps_of_the_package(net, right, norm):
    from pyautoattack.fab_pt import FABAttack_PT

    x, y, _ = right
    threat = THREATS[norm]
    peer = FABAttack_PT(net, norm=PACKAGE[norm], eps=float(threat.eps), targeted=True, device="cpu")
    peer.target_class = 2  # the label counts as the first
    nearest = peer.attack_single_run(x, y, is_targeted=True)
    theirs = net(project(nearest, x, threat)).argmax(1) != y
    assert (theirs != searched(net, right, threat, PARTS["FAB-T"]).broken).sum() <= 1


@NORMS
def test_square_is_no_weaker_than_the_package_at_equal_queries(net, right, norm):
    from pyautoattack.square import SquareAttack

    x, y, _ = right
    eps = float(THREATS[norm].eps)
    peer = SquareAttack(net, norm=PACKAGE[norm], n_queries=200, eps=eps, resc_schedule=False, device="cpu")
    with torch.random.fork_rng():
        theirs = net(peer.perturb(x, y)).argmax(1) != y
    ours = searched(net, right, THREATS[norm], lambda pool: squares.square(pool, 200)).broken
    assert ours.float().mean() >= theirs.float().mean() - 0.01


@pytest.mark.parametrize("threat", [Threat("linf", "0.01"), Threat("l2", "0.2"), Threat("l1", 2)], ids=PIXEL_NORMS)
def test_square_is_no_weaker_than_the_package_in_colour(threat):
    from pyautoattack.square import SquareAttack

    with initialise_with("colour"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)).eval()
    x = F.interpolate(torch.rand(200, 3, 5, 5, generator=generator("colour")), size=16, mode="bilinear")
    y = net(x).argmax(1)
    peer = SquareAttack(net, norm=PACKAGE[threat.norm], n_queries=100, eps=float(threat.eps), resc_schedule=False)
    with torch.random.fork_rng(), torch.no_grad():
        theirs = net(peer.perturb(x, y)).argmax(1) != y
    ours = searched(net.requires_grad_(False), (x, y, torch.arange(200)), threat,
                    lambda pool: squares.square(pool, 100)).broken
    assert 0.1 < ours.float().mean() < 0.9
    assert ours.float().mean() >= theirs.float().mean() - 0.05  # both are random


# ----------------------------------------------------------------------------------------------- Square's own geometry


def test_windows_shrink_as_in_the_package():
    from pyautoattack.square import SquareAttack

    peer = SquareAttack(None, p_init=0.8, n_queries=5000, eps=1, resc_schedule=False)
    for query in (0, 10, 11, 50, 51, 200, 201, 1000, 1001, 4000, 4001, 4999):
        assert window_side(query, 32, 32, "linf") == max(round((peer.p_selection(query) * 1024) ** 0.5), 1)
    assert window_side(0, 8, 4, "linf") == 4 and window_side(4999, 32, 32, "l2") == 3


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("side", [1, 3, 4, 6, 9])
def test_a_bump_is_that_of_the_package(norm, side):
    from pyautoattack.square import SquareAttack

    theirs = SquareAttack(None, norm=PACKAGE[norm], eps=1, device="cpu").eta
    with torch.random.fork_rng():
        both = [theirs(side) for _ in range(20)]
    assert any(torch.allclose(bump(side, norm), their, atol=1e-6) for their in both)


def test_a_linf_proposal_changes_one_window_of_each_image_to_the_ends_of_the_ball():
    x = 0.5 * torch.ones(400, 3, 8, 8)
    numbers = torch.rand(400, 5, generator=generator("numbers"))
    moved = (stripe_proposal(x, x, Threat("linf", "1/4"), 3, numbers) - x).abs()
    assert ((moved == 0.25).flatten(1).sum(1) == 27).all() and set(moved.unique().tolist()) == {0, 0.25}
    touched = (moved > 0).any(1)
    assert touched.any(0).all() and not (touched == touched[0]).all()  # every pixel can be reached; places differ


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_an_l2_or_l1_proposal_changes_two_windows_and_spends_the_budget(norm):
    x = torch.full((40, 2, 9, 9), 0.5)
    threat = Threat(norm, "1/2")
    best = squares.start(x, threat, [generator("start", i) for i in range(40)])
    tried = bump_proposal(x, best, threat, 3, torch.rand(40, 7, generator=generator("numbers")))
    assert torch.allclose(norm_of(tried - x, norm), torch.tensor(0.5), atol=1e-4)
    scale = ((tried - x) / (best - x)).flatten(2)  # outside the windows at most the scale of the whole changes
    usual = scale.flatten(1).median(1).values[:, None, None]
    changed = ((scale - usual).abs() > 1e-3).flatten(1).sum(1)
    assert (changed <= 2 * 2 * 9).all() and (changed > 0).all()


def test_square_sends_no_image_twice_in_a_row_and_no_more_than_its_queries(net, right):
    for norm in PIXEL_NORMS:
        counting = Counting(net)
        pool = searched(counting, right, Threat(norm, "1/1000"), lambda pool: squares.square(pool, 50))
        assert not pool.broken.any()
        assert counting.passes <= 51 * len(right[0])  # one of them for the clean logits
    white = Counting(net)  # at this budget an end of the ball is an end of [0, 1] wherever the digit has none
    searched(white, [torch.zeros_like(right[0]), *right[1:]], Threat("linf", "1/1000"), PARTS["Square"])
    assert white.passes < 0.7 * 81 * len(right[0])


# ------------------------------------------------------------------------------------------------------- the whole


def test_autoattack_is_its_parts_in_order_each_on_the_survivors(net, right, monkeypatch):
    short(monkeypatch)
    runs = []
    for part in ("_apgd", "fab", "square"):
        full = getattr(auto, part)

        def noted(pool, full=full, part=part, **options):
            runs.append((part, options.get("rank"), pool.indices.tolist()))
            full(pool, **options)

        monkeypatch.setattr(auto, part, noted)
    found = break_images(net, *right[:2], THREATS["linf"], AutoAttack(), right[2], ("seed",), batch_size=8)
    order = [key for key, _ in groupby(run[:2] for run in runs)]
    assert order == [("_apgd", None), ("_apgd", 1), ("_apgd", 2), ("fab", 1), ("fab", 2), ("square", None)]
    stands = [sum((indices for part, rank, indices in runs if (part, rank) == key), []) for key in order]
    assert stands[0] == right[2].tolist() and len(stands[0]) > len(stands[1]) > len(stands[-1])
    for before, after in zip(stands, stands[1:], strict=False):
        assert set(after) <= set(before)
    assert set(right[2][~found.broken].tolist()) <= set(stands[-1])
    names = Counter(found.broken_by)
    assert names["APGD-CE"] and names["APGD-T"] and names[""] == (~found.broken).sum()
    assert [name != "" for name in found.broken_by] == found.broken.tolist()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_agrees_with_the_package_at_fewer_passes(net, right, norm, monkeypatch):
    from pyautoattack import AutoAttack as Package

    x, y, indices = (t[:40] for t in right)
    monkeypatch.setattr(AutoAttack, "fab_steps", 10)
    monkeypatch.setattr(AutoAttack, "square", Square(100))
    ours, theirs, threat = Counting(net), Counting(net), THREATS[norm]
    broken = break_images(ours, x, y, threat, AutoAttack(), indices, ("seed",)).broken
    peer = Package(theirs, norm=PACKAGE[norm], eps=float(threat.eps), seed=0)
    peer.fab.n_iter, peer.square.n_queries = 10, 100
    logging.getLogger("auto-attack").setLevel(logging.CRITICAL)
    with torch.random.fork_rng():
        _, answers = peer.run_standard_evaluation(x, y, batch_size=64)
    assert (broken == (answers == y)).sum() <= 1
    assert ours.passes < theirs.passes


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_that_stand_cost_the_passes_that_autoattack_is_priced_by(net, right, norm, monkeypatch):
    short(monkeypatch, 5, 9, 10)
    counting = Counting(net)
    x, y, indices = (t[:20] for t in right)
    assert not break_images(counting, x, y, Threat(norm, "1/1000"), AutoAttack(), indices).broken.any()
    spared = 10  # at most: queries that change nothing are not sent
    assert AutoAttack().passes() - spared < counting.passes / len(x) <= AutoAttack().passes()


def test_easy_images_cost_a_few_passes(net, right):
    for norm, eps in (("linf", "1/2"), ("l2", 4)):
        counting = Counting(net)
        found = break_images(counting, *right[:2], Threat(norm, eps), AutoAttack(), right[2])
        assert found.broken.all() and counting.passes < 20 * len(right[0])


@pytest.mark.parametrize("attack", [PGD(20, "0.01", restarts=3), APGD(20, restarts=2, targets=3), Square(200),
                                    AutoAttack()], ids=lambda attack: type(attack).__name__)
def test_images_that_stand_cost_what_they_are_priced_at(attack):
    """On a network whose logits hardly move."""
    torch.set_num_threads(1)
    with initialise_with("robust"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()
    with torch.no_grad():
        net[1].weight.mul_(0.01)
        net[1].bias.copy_(5 * F.one_hot(torch.tensor(3), 10))
    counting = Counting(net)
    x = 0.2 + 0.6 * torch.rand(1, 3, 4, 4, generator=generator("robust"))
    found = break_images(counting, x, torch.tensor([3]), Threat("linf", "0.05"), attack, torch.arange(1))
    assert not found.broken.any()
    assert counting.passes == pytest.approx(attack.passes(standing=1.0), rel=0.15)


def test_an_image_wrong_without_attack_is_named_so(net, right):
    x, y, indices = (t[:4].clone() for t in right)
    y[1] = (y[1] + 1) % 10
    found = break_images(net, x, y, Threat("linf", "1/1000"), Square(2), indices)
    assert found.broken_by == ["", "clean", "", ""] and torch.equal(found.adversarial, x)


def test_few_classes_and_small_images_work():
    with initialise_with("few"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    x = torch.rand(6, 1, 3, 4, generator=generator("few"))
    y = net(x).argmax(1)
    for threat in (Threat("linf", "1/2"), Threat("l2", 2), Threat("l1", 6)):
        assert break_images(net, x, y, threat, AutoAttack(), torch.arange(6)).broken.all()
        assert break_images(net, x, y, threat, Square(500), torch.arange(6)).broken.float().mean() > 0.5


def test_impossible_attacks_are_refused(net, right):
    x, y, indices = right
    with pytest.raises(SettingsError, match="attack.queries"):
        Square(0)
    with pytest.raises(SettingsError, match="threat.norm"):
        break_images(net, x, y, Threat("jpeg", 1), Square(5), indices)


# ------------------------------------------------------------------------------------------------------ going on


class Stopped(Exception):
    pass


def same(found, other):
    return (found.broken_by == other.broken_by and torch.equal(found.broken, other.broken)
            and (found.adversarial is None or torch.equal(found.adversarial, other.adversarial)))


@pytest.mark.parametrize("keep_images", [True, False])
def test_a_search_stopped_after_any_unit_goes_on_to_the_same_verdicts(net, right, monkeypatch, tmp_path, keep_images):
    short(monkeypatch, 5, 1, 10)
    x, y, indices = (t[:32] for t in right)
    options = {"batch_size": 10, "keep_images": keep_images}

    def attack(net, work=None):
        return break_images(net, x, y, THREATS["linf"], AutoAttack(), indices, ("seed",), work=work, **options)

    whole = Counting(net)
    expected = attack(whole)
    units, save = [], search.Notes.save

    def stop_after(number):
        def saving(self, *args):
            save(self, *args)
            units.append(number)
            if units.count(number) == number:
                raise Stopped
        return saving

    for number in range(1, 100):
        work = tmp_path / str(number)
        monkeypatch.setattr(search.Notes, "save", stop_after(number))
        counting = Counting(net)
        try:
            attack(counting, work)
            break
        except Stopped:
            monkeypatch.setattr(search.Notes, "save", save)
            assert same(attack(counting, work), expected)
            assert counting.passes == whole.passes + len(x)  # the clean logits are worked out again, and no unit
    assert number > 6


def test_a_search_of_pgd_with_restarts_goes_on_too(net, right, tmp_path):
    x, y, indices = right
    attack = PGD(5, "0.03", restarts=3)

    def dies(passes):
        if passes > 1200:
            raise Stopped

    with pytest.raises(Stopped):
        break_images(Counting(net, dies), x, y, THREATS["linf"], attack, indices, work=tmp_path, batch_size=16)
    rest = Counting(net)
    found = break_images(rest, x, y, THREATS["linf"], attack, indices, work=tmp_path, batch_size=16)
    assert same(found, break_images(net, x, y, THREATS["linf"], attack, indices, batch_size=16))
    again = Counting(net)
    assert same(found, break_images(again, x, y, THREATS["linf"], attack, indices, work=tmp_path, batch_size=16))
    assert 0 == again.passes < rest.passes and set(found.broken_by) == {"", "PGD"}


def test_other_searches_do_not_go_on_from_it_and_a_torn_file_is_dropped(net, right, tmp_path, caplog):
    x, y, indices = (t[:30] for t in right)
    attack, threat = Square(30), THREATS["linf"]
    found = break_images(net, x, y, threat, attack, indices, ("seed",), work=tmp_path)
    file, = tmp_path.iterdir()
    with initialise_with("another"):
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    calls = [(net, threat, attack, ("other",)), (net, Threat("linf", "0.1"), attack, ("seed",)),
             (net, threat, Square(31), ("seed",)), (other, threat, attack, ("seed",))]
    for number, (network, *rest) in enumerate(calls):
        break_images(network, x, y, rest[0], rest[1], indices, rest[2], work=tmp_path)
        assert len(list(tmp_path.iterdir())) == number + 2
    whole = file.read_bytes()
    foreign = next(path for path in tmp_path.iterdir() if path != file).read_bytes()
    for content in (whole[:len(whole) // 2], b"", foreign):
        caplog.clear()
        file.write_bytes(content)
        assert same(break_images(net, x, y, threat, attack, indices, ("seed",), work=tmp_path), found)
        assert "starts over" in caplog.text and file.read_bytes() == whole


def attack_and_be_killed(weights, work, at):
    """What the killed process runs: an AutoAttack that dies after `at` passes."""
    net = untrained()
    net.load_state_dict(torch.load(weights))

    def after(passes):
        if passes >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        short(patch)
        x, y, indices = digits(net, 64)
        break_images(Counting(net, after), x, y, THREATS["linf"], AutoAttack(), indices, ("seed",), batch_size=8,
                     work=work)


@pytest.mark.slow
def test_after_kill_9_at_most_one_unit_is_repeated_and_no_verdict_changes(net, monkeypatch, tmp_path):
    short(monkeypatch)
    x, y, indices = digits(net, 64)
    whole = Counting(net)
    expected = break_images(whole, x, y, THREATS["linf"], AutoAttack(), indices, ("seed",), batch_size=8)
    weights, work, at = tmp_path / "weights.pt", tmp_path / "work", whole.passes // 2
    torch.save(net.state_dict(), weights)
    code = ("import sys; sys.path.insert(0, 'tests/attacks'); from pathlib import Path; import test_autoattack; "
            f"test_autoattack.attack_and_be_killed({str(weights)!r}, Path({str(work)!r}), {at})")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == -signal.SIGKILL
    rest = Counting(net)
    found = break_images(rest, x, y, THREATS["linf"], AutoAttack(), indices, ("seed",), batch_size=8, work=work)
    assert same(found, expected)
    unit = 16 * 2 * 11  # two batches, ten steps of APGD and the start, a forward and a backward pass each
    assert rest.passes <= whole.passes - at + len(x) + unit
