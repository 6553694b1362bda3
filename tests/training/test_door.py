"""What a caller hands in: images, labels and networks that nobody here made, and the state in which torch is called.
Every public function that attacks, certifies, measures or compares either gives the right value or says in one sentence
why it cannot.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
import torch.nn.utils.prune as masks
from torch import nn

from lib.alignment.generation import generate, target_rate
from lib.alignment.measures import class_gradients
from lib.alignment.plane import decision_map
from lib.attacks.search import break_images
from lib.certify import intervals, linear
from lib.data.images import ImageSet
from lib.errors import SettingsError
from lib.gradients.inputs import input_gradient
from lib.gradients.scores import score
from lib.manifold.sensitivity import output_change, rho2
from lib.manifold.spaces import spanned_by
from lib.models.prune import prune
from lib.pruning.shrink import shrunk
from lib.similarity import View, compare, maps
from lib.training.certification import certified
from lib.training.evaluation import adversarial, evaluate, sweep, transferred
from lib.training.sanity import beaten_by_square, sanity
from lib.values.architectures import CNN, Pruned
from lib.values.attacks import PGD, AutoAttack, Square
from lib.values.certificates import Bounds, Smoothing
from lib.values.threats import Threat

SMOOTHING = Smoothing(0.1, 5, 20, 0.05)
THREAT, ATTACK = Threat("linf", "1/20"), PGD(5, "1/50", random_start=False)
COUNT, SIDE, CLASSES = 24, 8, 5


def seeded(make):
    """What `make` makes of a seed of its own, whoever else draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


class Plain(nn.Module):
    """A small classifier; `wrap` is applied to its first convolution."""

    def __init__(self, wrap=lambda layer: layer):
        super().__init__()
        self.conv, self.norm = wrap(nn.Conv2d(3, 6, 3, padding=1)), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * SIDE * SIDE, CLASSES)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


PIXELS = seeded(lambda: torch.rand(COUNT, 3, SIDE, SIDE))
LABELS = torch.arange(COUNT) % CLASSES
NET = seeded(Plain).eval()
BOUNDED = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES))).eval()


def image_set(images=PIXELS, labels=LABELS):
    return ImageSet(images, labels, torch.arange(len(images)), "mine", "test")


def few(count):
    return image_set(PIXELS[:count], LABELS[:count])


# ------------------------------------------------------------------------------------------------- images and labels

# Every public function with the caller's images (and labels, where it takes some) in place of x (and y).
FUNCTIONS = {
    "evaluate": lambda x, y: evaluate(NET, image_set(x, y)),
    "evaluate under attack": lambda x, y: evaluate(NET, image_set(x, y), THREAT, ATTACK),
    "sweep": lambda x, y: sweep(NET, image_set(x, y), [THREAT], [ATTACK]),
    "adversarial": lambda x, y: adversarial(NET, image_set(x, y), THREAT, ATTACK),
    "transferred": lambda x, y: transferred(NET, image_set(x, y), PIXELS),
    "sanity": lambda x, y: beaten_by_square(NET, image_set(x, y), torch.ones(COUNT, dtype=torch.bool), THREAT),
    "bounds": lambda x, y: certified(NET, image_set(x, y), THREAT, Bounds("interval")),
    "smoothing": lambda x, y: certified(NET, image_set(x, y), Threat("l2", "1/10"), SMOOTHING),
    "break_images": lambda x, y: break_images(NET, x, y, THREAT, ATTACK, torch.arange(len(x))),
    "generate": lambda x, y: generate(NET, x, y, 1, 2, 0.5),
    "target_rate": lambda x, y: target_rate(NET, x, y),
}
IMAGES_ONLY = {
    "maps": lambda x: maps([View("a", NET, x, torch.arange(len(x)))], batch_size=8),
    "intervals.verified": lambda x: intervals.verified(BOUNDED, x, LABELS, 0.1),
    "input_gradient": lambda x: input_gradient(NET, x, "predicted logit"),
    "class_gradients": lambda x: class_gradients(NET, x),
}
OUTSIDE = {  # images, and words of the sentence; these need not be in [0, 1] for gradients, which ask for no ball
    "normalised": (4 * PIXELS - 2, "normalised"),
    "floats in 0..255": (255 * PIXELS, "by 255"),
}
BAD_IMAGES = {
    "NaN": (torch.full_like(PIXELS, float("nan")), "finite"),
    "infinite": (PIXELS + float("inf"), "finite"),
    "no channels": (PIXELS[:, 0], "of shape"),
    "flat": (PIXELS.flatten(1), "of shape"),
    "integers": ((255 * PIXELS).long(), "int64"),
}
BAD_LABELS = {
    "one-hot": (F.one_hot(LABELS), "argmax"),
    "floats": (LABELS.float(), "whole numbers"),
    "negative": (LABELS - 1, "from -1"),
    "beyond the classes": (LABELS + 1, "from 1 to 5"),
}


def refused(do, word):
    with pytest.raises(SettingsError, match=word) as said:
        do()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", BAD_IMAGES | OUTSIDE)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_images_that_are_none_are_refused(function, name):
    images, word = (BAD_IMAGES | OUTSIDE)[name]
    refused(lambda: FUNCTIONS[function](images, LABELS[:len(images)]), word)


@pytest.mark.parametrize("name", BAD_LABELS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_labels_that_are_none_are_refused(function, name):
    labels, word = BAD_LABELS[name]
    if function == "break_images" and name == "beyond the classes":
        pytest.skip("the search asks its caller's network for nothing but logits")
    refused(lambda: FUNCTIONS[function](PIXELS, labels), word)


@pytest.mark.parametrize("function", IMAGES_ONLY)
def test_images_without_labels_are_checked_too(function):
    bad = dict(BAD_IMAGES) | (OUTSIDE if "gradient" not in function else {})
    for images, word in bad.values():
        if function != "intervals.verified" or images.shape == PIXELS.shape:
            refused(lambda images=images: IMAGES_ONLY[function](images), word)


def test_no_proof_outside_the_pixels():
    """A pixel of 1.5 is class 0 below 1.55; its ball of 0.1 does not meet [0, 1], and every bound would hold."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    for bound in (intervals, linear):
        for function in (bound.verified, bound.worst_margins, bound.margins):
            refused(lambda function=function: function(net, torch.full((1, 1, 1, 1), 1.5), torch.tensor([0]), 0.1),
                    "in \\[0, 1\\]")


def test_a_threat_without_the_box_takes_any_numbers():
    out = evaluate(NET, image_set(4 * PIXELS - 2), Threat("l2", "1/2", box=False), ATTACK)
    assert 0 <= out.accuracy("robust") <= out.accuracy()


def test_bytes_and_their_pixels_are_the_same_images():
    data = (255 * PIXELS).to(torch.uint8)
    one, other = (evaluate(NET, image_set(x), THREAT, ATTACK) for x in (data, data / 255))
    assert one.table.equals(other.table)


# -------------------------------------------------------------------------------------------------- logits


def nothing(x):
    return torch.full((len(x), CLASSES), float("nan"))


class Odd(nn.Module):
    """NET but for the first half of a batch's images that are dark, which get `logits`."""

    def __init__(self, value):
        super().__init__()
        self.value, self.net = value, copy.deepcopy(NET)

    def forward(self, x):
        logits = self.net(x)
        return torch.where((x.mean((1, 2, 3)) < 0.5)[:, None], torch.full_like(logits, self.value), logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("attack", [ATTACK, Square(20), AutoAttack()], ids=lambda attack: attack.title)
def test_logits_that_are_no_numbers_are_wrong_answers_and_named(value, attack):
    labels = torch.zeros(COUNT, dtype=torch.long)  # the class that argmax gives a row of NaN
    images, dark = image_set(labels=labels), PIXELS.mean((1, 2, 3)) < 0.5
    assert 0 < dark.sum() < COUNT
    out = evaluate(Odd(value), images, THREAT, attack)
    assert not out.table["clean"][dark.numpy()].any() and not out.table["robust"][dark.numpy()].any()
    assert f"{int(dark.sum())} of {COUNT} images have logits that are not finite" in out.warnings[0]


def test_no_vote_and_no_bound_from_logits_that_are_no_numbers():
    class Nothing(nn.Module):
        def forward(self, x):
            return nothing(x)

    zeros = torch.zeros(4, dtype=torch.long)
    out = certified(Nothing(), image_set(PIXELS[:4], zeros), Threat("l2", "1/10"), SMOOTHING)
    assert out.accuracy() == 0 and out.accuracy("verified") == 0
    assert not target_rate(Nothing(), PIXELS[:4], zeros).any()


def test_warnings_come_with_every_evaluation_unless_they_are_not_asked_for():
    class Probabilities(nn.Module):
        def forward(self, x):
            return NET(x).softmax(1)

    images = image_set(labels=NET(PIXELS).argmax(1).detach())
    assert any("probabilities" in said for said in evaluate(Probabilities(), images, THREAT, ATTACK).warnings)
    assert any("probabilities" in said for said in sweep(Probabilities(), images, [THREAT], [ATTACK])[0].warnings)
    assert evaluate(Probabilities(), images, THREAT, ATTACK, checked=False).warnings == []


# ------------------------------------------------------------------------------------------------ networks


class Shared(nn.Module):
    """One convolution behind which two norms stand."""

    def __init__(self):
        super().__init__()
        net, other = Plain(), Plain()
        again = nn.Conv2d(6, 6, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 1), again, net.norm, nn.ReLU(), again, other.norm)
        self.head = net.head

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class Branch(Shared):
    """A convolution whose output is also read without the norm."""

    def forward(self, x):
        x = self.body[1](self.body[0](x))
        return self.head((self.body[2](x) + x).flatten(1))


class Called(Shared):
    """The parts of a Sequential called one by one, in another order."""

    def forward(self, x):
        x = self.body[1](self.body[0](x))
        return self.head(self.body[2](x.relu()).flatten(1))


class InPlace(Plain):
    """A network that normalises its input where it lies."""

    def forward(self, x):
        return super().forward(x.sub_(0.25).mul_(2))


class OutOfPlace(Plain):
    def forward(self, x):
        return super().forward((x - 0.25) * 2)


class Unlearned(nn.Module):
    """No parameters at all."""

    def forward(self, x):
        return torch.stack([x.mean((1, 2, 3)), *(x[:, k].amax((1, 2)) for k in range(3)), x.amin((1, 2, 3))], 1)


def hooked(kind):
    net = Plain()
    if kind == "output":
        net.conv.register_forward_hook(lambda module, given, output: output.clamp(max=0.2))
    elif kind == "input":
        net.norm.register_forward_pre_hook(lambda module, given: (given[0] * 0.5,))
    else:
        net.register_forward_hook(lambda module, given, output: output.flip(1))
    sequential = nn.Sequential(net.conv, net.norm, nn.ReLU(), nn.Flatten(), net.head)
    return net if kind == "whole" else sequential


def pruned():
    net = Plain()
    masks.l1_unstructured(net.conv, "weight", 0.5)
    masks.random_unstructured(net.head, "bias", 0.5)
    return net


def trained_mode():
    return Plain().train()


NETWORKS = {
    "plain": Plain,
    "train mode": trained_mode,
    "weight_norm": lambda: Plain(parametrizations.weight_norm),
    "spectral_norm": lambda: Plain(parametrizations.spectral_norm),
    "old weight_norm": lambda: Plain(torch.nn.utils.weight_norm),
    "old spectral_norm": lambda: Plain(torch.nn.utils.spectral_norm),
    "torch's prune": pruned,
    "a convolution used twice": Shared,
    "a norm on one branch": Branch,
    "parts called one by one": Called,
    "hook on an output": lambda: hooked("output"),
    "hook on an input": lambda: hooked("input"),
    "hook on the whole": lambda: hooked("whole"),
    "in-place layers": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(216, 5)),
    "DataParallel": lambda: nn.DataParallel(Plain()),
    "without parameters": Unlearned,
    "norm without affine": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Flatten(),
                                                 nn.Linear(216, 5)),
    "norm without statistics": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False),
                                                     nn.Flatten(), nn.Linear(216, 5)),
    "channels_last": lambda: Plain().to(memory_format=torch.channels_last),
    "parameters that need no gradient": lambda: Plain().requires_grad_(False),
}


def own_answers(net, pixels=PIXELS):
    """What a network answers by itself, in eval mode, to copies of the images."""
    like = next((p.dtype for p in net.parameters()), torch.float32)
    modes = {module: module.training for module in net.modules()}
    answers = net.eval()(pixels.to(like, copy=True)).argmax(1)  # with a graph: weights that hooks compute have one
    for module, mode in modes.items():
        module.training = mode
    return answers


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_others_are_measured_as_they_are_and_left_as_they_were(name):
    net = seeded(NETWORKS[name])
    answers, before = own_answers(net), {k: v.clone() for k, v in net.state_dict().items()}
    modes, asking = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    if [*net.parameters()]:
        found = maps([View("a", net, PIXELS, torch.arange(COUNT))], batch_size=8)
        assert all(net.get_submodule(tap.name) for tap in found.layers["a"])
    answers = own_answers(net)
    images, shown = image_set(labels=answers), PIXELS.clone()
    out = evaluate(net, images, THREAT, ATTACK)
    assert out.accuracy() == 1 and torch.equal(images.images, shown)
    moved = adversarial(net, images, THREAT, ATTACK)
    assert float((moved - PIXELS).abs().max()) <= 0.05 + 1e-6
    fooled = (own_answers(net, moved) != answers).numpy()
    assert not (fooled & out.table["robust"].to_numpy()).any()
    gradient = input_gradient(net, PIXELS, "predicted logit")
    point = PIXELS.clone().requires_grad_()
    net.eval()
    expected, = torch.autograd.grad(net(point.clone()).amax(1).sum(), point)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    for module, mode in zip(net.modules(), modes, strict=True):
        module.training = mode
    assert [m.training for m in net.modules()] == modes and [p.requires_grad for p in net.parameters()] == asking
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("attack", [ATTACK, Square(50), AutoAttack()], ids=lambda attack: attack.title)
def test_a_network_that_writes_into_its_input_is_shown_a_copy(attack):
    apart, within = (seeded(kind).eval() for kind in (OutOfPlace, InPlace))
    images = image_set(labels=own_answers(apart))
    one, other = (evaluate(net, images, THREAT, attack) for net in (apart, within))
    assert one.table.equals(other.table) and torch.equal(images.images, PIXELS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_another_precision_are_attacked_in_it(dtype):
    net = seeded(Plain).eval().to(dtype)
    images = image_set(labels=own_answers(net))
    out = evaluate(net, images, THREAT, PGD(10, "1/50"))
    plain = evaluate(copy.deepcopy(net).float(), images, THREAT, PGD(10, "1/50"))
    assert out.accuracy() == 1 and abs(out.accuracy("robust") - plain.accuracy("robust")) <= 0.1
    assert next(net.parameters()).dtype == dtype


@pytest.mark.parametrize("net, images, word", [
    ("a name", PIXELS, "torch.nn.Module"),
    (nn.Linear(3, 5), PIXELS, "takes images"),
    (NET, PIXELS[:, :1], r"takes images \[1, 8, 8\]"),
    (NET, PIXELS[:, :, :4], r"takes images \[3, 4, 8\]"),
    (nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), PIXELS, "2 or more"),
    (nn.Conv2d(3, 5, 1), PIXELS, "logits"),
    (nn.Flatten(0), PIXELS, "logits"),
])
def test_networks_that_are_no_classifiers_of_the_images_are_refused(net, images, word):
    refused(lambda: evaluate(net, image_set(images)), word)
    if isinstance(net, nn.Module):
        refused(lambda: class_gradients(net, images), word)


def test_a_hook_counts_even_where_no_image_of_the_trial_shows_it():
    """The first images are black, and the hook only changes what bright ones give."""
    net = seeded(Plain).eval()
    net = nn.Sequential(net.conv, net.norm, nn.ReLU(), nn.Flatten(), net.head)
    net[0].register_forward_hook(lambda module, given, output: output * (1 - 2 * (given[0].mean((1, 2, 3)) > 0.1)
                                                                         )[:, None, None, None])
    pixels = torch.cat([torch.zeros(8, 3, SIDE, SIDE), PIXELS])
    answers = own_answers(net, pixels)
    assert evaluate(net, image_set(pixels, answers)).accuracy() == 1


def test_random_numbers_of_the_caller_are_not_used_up():
    state = torch.random.get_rng_state()
    evaluate(NET, image_set(), THREAT, PGD(3, "1/50"))
    assert torch.equal(torch.random.get_rng_state(), state)


# --------------------------------------------------------------------------------------------------- the caller's state


CONV = seeded(lambda: nn.Conv2d(3, 3, 3, padding=1))


def half_way(images, sigma, labels):
    """A denoiser."""
    return CONV(images) / 2


STEPS = 0.1 * seeded(lambda: torch.randn(2, COUNT, 3 * SIDE**2))
TANGENTS = spanned_by(seeded(lambda: torch.randn(1, 3 * SIDE**2, 5)))
LINE = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2))).eval()
SPARSE = seeded(lambda: prune(BOUNDED, Pruned(CNN(8, 1), "1/2", granularity="channels"), (3, SIDE, SIDE))).eval()


def default_dtype():
    class Double:
        def __enter__(self):
            torch.set_default_dtype(torch.float64)

        def __exit__(self, *_):
            torch.set_default_dtype(torch.float32)

    return Double()


STATES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64 by default": default_dtype,
}
MEASURED = {
    "clean": lambda: evaluate(NET, image_set()).table["clean"].to_numpy(),
    "attack": lambda: evaluate(NET, image_set(), THREAT, ATTACK).table["robust"].to_numpy(),
    "AutoAttack": lambda: evaluate(NET, few(6), THREAT, AutoAttack()).table["robust"].to_numpy(),
    "adversarial": lambda: adversarial(NET, image_set(), THREAT, ATTACK).numpy(),
    "transferred": lambda: transferred(NET, image_set(), PIXELS.flip(0)).table["robust"].to_numpy(),
    "sanity": lambda: np.array(sanity(NET, image_set())),
    "bounds": lambda: certified(BOUNDED, image_set(), THREAT, Bounds("CROWN")).table["verified"].to_numpy(),
    "smoothing": lambda: certified(NET, few(3), Threat("l2", "1/10"), SMOOTHING).table["radius"].to_numpy(),
    "input_gradient": lambda: input_gradient(NET, PIXELS, "predicted logit").numpy(),
    "class_gradients": lambda: class_gradients(NET, PIXELS).numpy(),
    "generate": lambda: generate(NET, PIXELS, LABELS, 1, 3, 0.5).numpy(),
    "score": lambda: score(half_way, PIXELS, 0.25).numpy(),
    "sensitivity": lambda: output_change(NET, PIXELS, STEPS).numpy(),
    "rho2": lambda: rho2(BOUNDED, PIXELS[:3], TANGENTS).per_image.numpy(),
    "plane": lambda: decision_map(LINE, (-3, 3), (-3, 3)).probability,
    "shrunk": lambda: np.array([p.requires_grad and not p.is_inference() for p in shrunk(SPARSE).parameters()]),
    "compare": lambda: np.array(compare(PIXELS.flatten(1), PIXELS.flip(0).flatten(1))),
    "maps": lambda: maps([View("a", NET, PIXELS, torch.arange(COUNT))], batch_size=8).between("a", "a"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("measure", MEASURED)
def test_the_callers_state_changes_no_number(measure, state):
    expected = MEASURED[measure]()
    with STATES[state]():
        found = MEASURED[measure]()
        assert torch.is_autocast_enabled("cpu") == (state == "autocast")
    np.testing.assert_array_equal(found, expected)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


@pytest.mark.parametrize("state", STATES)
def test_a_training_is_the_same_in_any_state_of_the_caller(state, tmp_path):
    from lib.store import Store
    from lib.training.zoo import Zoo
    from lib.values.data import Data
    from lib.values.objectives import Adversarial
    from lib.values.recipe import Recipe

    recipe = Recipe(Data("digits", train=64, holdout=10, test=20), CNN(8, 1), Adversarial(THREAT, ATTACK), epochs=1,
                    batch_size=32)
    expected = Zoo(Store(tmp_path / "one"), "cpu").obtain(recipe).net.state_dict()
    with STATES[state]():
        found = Zoo(Store(tmp_path / "other"), "cpu").obtain(recipe).net.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
