"""Randomised smoothing: certificates are wrong as seldom as they say, and not more timid than they must be."""

import pytest
import torch
from scipy import stats
from torch import nn

from lib.certify.smoothing import ABSTAINED, certify, prove, proven_radius
from lib.data import ImageSet
from lib.errors import SettingsError
from lib.runtime import generator, initialise_with
from lib.values.certificates import Smoothing
from lib.values.threats import Threat

SIGMA, TRIALS = 0.5, 1500


class Halfspace(nn.Module):
    """Class 1 where w x > 0: a noisy copy is in class 1 with probability Phi(m / sigma), m = w x / |w|, and the
    smoothed classifier's answer changes at the distance |m|.
    """

    def __init__(self):
        super().__init__()
        self.w = torch.randn(9, generator=generator("w"))

    def forward(self, x):
        score = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], 1)

    def image(self, distance):
        """An image [1, 3, 3] at this signed distance from the boundary."""
        return (distance * self.w / self.w.norm()).view(1, 3, 3)


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    return Halfspace().eval()


def certified(net, distance, smoothing, trials=1, **options):
    """Certificates of one image, each from noise of its own."""
    images = net.image(distance).expand(trials, 1, 3, 3)
    return certify(net, images, smoothing, [generator("trial", n) for n in range(trials)], **options)


def chance(smoothing, p, beyond):
    """How often the radius lies beyond a number when a copy falls into the guessed class with probability p."""
    least = next(k for k in range(smoothing.many + 1) if proven_radius(k, smoothing) > beyond)
    return stats.binom.sf(least - 1, smoothing.many, p)


@pytest.mark.parametrize("distance", [0.2, 0.8])
def test_radii_exceed_the_truth_exactly_as_often_as_the_level_allows(net, distance):
    smoothing = Smoothing(SIGMA, few=20, many=150, alpha=0.05)
    answers, radii = certified(net, distance, smoothing, TRIALS)
    too_large = int(((radii > distance) & (answers == 1)).sum())
    expected = chance(smoothing, stats.norm.cdf(distance / SIGMA), distance)
    assert 0.02 < expected <= smoothing.alpha, "a level that is nearly used up"
    assert stats.binomtest(too_large, TRIALS, expected).pvalue > 1e-3
    wrong = too_large + int((answers == 0).sum())
    assert stats.binomtest(wrong, TRIALS, smoothing.alpha, alternative="greater").pvalue > 1e-3


def test_between_two_classes_it_abstains_but_for_the_errors_that_the_level_allows(net):
    """The class is guessed from other copies than those that are counted: choosing it by these errs twice as often."""
    smoothing = Smoothing(SIGMA, few=10, many=100, alpha=0.05)
    answers, radii = certified(net, 0.0, smoothing, TRIALS)
    given = answers != ABSTAINED
    assert stats.binomtest(int(given.sum()), TRIALS, chance(smoothing, 0.5, 0)).pvalue > 1e-3
    assert (radii[~given] == 0).all() and (radii[given] > 0).all()
    assert {0, 1} <= set(answers[given].tolist()), "both classes are guessed"


def test_a_guess_in_the_minority_is_never_answered(net):
    """One copy guesses the class: where it is the wrong one, the others do not agree with it."""
    answers, radii = certified(net, 0.5, Smoothing(SIGMA, few=1, many=500), 200)
    abstained = answers == ABSTAINED
    assert 10 < abstained.sum() < 70, "Phi(-1) of 200 guesses"
    assert (answers[~abstained] == 1).all() and (radii[~abstained] > 0.3).all()


def test_radii_approach_the_truth_with_more_copies(net):
    radii = [float(certified(net, 0.5, Smoothing(SIGMA, 100, many))[1]) for many in (100, 1000, 30_000)]
    assert 0 < radii[0] < radii[1] < radii[2] < 0.5 and radii[2] > 0.48


def test_agreement_of_all_copies_proves_the_largest_radius(net):
    smoothing = Smoothing(0.25, 10, 1000)
    answers, radii = certified(net, 50.0, smoothing)
    assert answers.tolist() == [1]
    assert radii.item() == pytest.approx(0.25 * stats.norm.ppf(0.001 ** (1 / 1000)), rel=1e-9)


@pytest.mark.parametrize("many, alpha", [(100, 0.001), (1000, 0.05), (100_000, 0.001)])
def test_the_bound_is_clopper_and_pearsons(many, alpha):
    for agreeing in (0, many // 3, many * 6 // 10, many * 9 // 10, many - 1, many):
        exact = stats.binomtest(agreeing, many, alternative="greater").proportion_ci(1 - alpha, "exact").low
        radius = proven_radius(agreeing, Smoothing(2.0, 10, many, alpha))
        assert radius == pytest.approx(max(0, 2 * stats.norm.ppf(exact)), rel=1e-8)


def test_it_goes_on_from_its_notes_and_sets_damaged_ones_aside(tmp_path):
    images = ImageSet(torch.rand(20, 1, 3, 3, generator=generator("x")), torch.zeros(20, dtype=torch.int64),
                      torch.arange(20), "mine", "test")
    options = (images, Threat("l2", "0.1"), Smoothing(SIGMA, 10, 100), ("seed",), 128)
    found, calls = prove(Halfspace().eval(), *options, tmp_path), []
    counting = Halfspace().eval()
    counting.register_forward_hook(lambda *given: calls.append(1))
    file, = tmp_path.iterdir()
    whole = file.read_bytes()
    for content in (whole, b"", whole[:200]):
        calls.clear()
        file.write_bytes(content)
        again = prove(counting, *options, tmp_path)
        assert torch.equal(again.columns["radius"], found.columns["radius"]) and bool(calls) == (content != whole)
    assert (tmp_path / f"{file.name}.damaged").read_bytes() == whole[:200] and file.read_bytes() == whole


def test_noise_leaves_the_pixel_range():
    class Outside(nn.Module):
        def forward(self, x):
            below, above = (-x).flatten(1).amax(1), x.flatten(1).amax(1) - 1
            return torch.stack([torch.zeros_like(below), below.minimum(above)], 1)

    answers, _ = certify(Outside().eval(), torch.full((1, 1, 8, 8), 0.5), Smoothing(1.0, 10, 100), [generator("noise")])
    assert answers.tolist() == [1]


def test_verdicts_depend_neither_on_batches_nor_on_order():
    with initialise_with("some network"):
        net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    images = torch.rand(12, 2, 6, 6, generator=generator("images"))
    smoothing = Smoothing(0.3, few=30, many=700)

    def run(which, batch_size):
        return certify(net, images[which], smoothing, [generator("image", n) for n in which], batch_size=batch_size)

    answers, radii = run(list(range(12)), 1000)
    assert len(set(answers.tolist())) > 1 and radii.unique().numel() > 5
    some = [7, 2, 11, 3]
    again, near = run(some, 97)
    assert torch.equal(again, answers[some]) and torch.allclose(near, radii[some], atol=1e-3)
    assert not torch.equal(run([0], 97)[1], certify(net, images[:1], smoothing, [generator("other")])[1])


def test_nothing_is_drawn_from_the_global_generator(net):
    state = torch.get_rng_state()
    certified(net, 0.5, Smoothing(SIGMA, 10, 100))
    assert torch.equal(state, torch.get_rng_state())


def test_impossible_calls_are_refused(net):
    image, smoothing = net.image(0.5)[None], Smoothing(SIGMA, 10, 100)
    with pytest.raises(SettingsError, match="generators"):
        certify(net, image, smoothing, [])
    with pytest.raises(SettingsError, match="train"):
        certify(Halfspace().train(), image, smoothing, [generator("x")])
