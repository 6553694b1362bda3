"""What holds for every objective and its loss, by one example a class: a new class needs an example, and must pass."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lib.data import load
from lib.errors import SettingsError
from lib.models import AtNoise, Denoiser, build
from lib.profiles.loader import make
from lib.training import loop
from lib.training.losses import Loss, Wrapper, loss_for, losses
from lib.training.losses.clean import CleanLoss
from lib.values.architectures import MLP, AutoEncoder, DenoisingMLP, Pruned, ResNet, Stitch, UNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.keys import kinds_of
from lib.values.objectives import (
    ADMM,
    IBP,
    MART,
    TRADES,
    Adversarial,
    Aligned,
    CrossEntropy,
    CrownIBP,
    Denoising,
    FreeAdversarial,
    GradientNorm,
    MixTrain,
    Noise,
    Objective,
    Prune,
    Reconstruction,
    Rewire,
    Saliency,
    Smoothness,
    Stability,
    Targets,
    Transferred,
)
from lib.values.recipe import Choice, Optimiser, Recipe
from lib.values.threats import Threat

THREAT, ATTACK = Threat("linf", "0.1"), PGD(3, "0.05")
BASE = Recipe(Data("digits", train=64, holdout=32), ResNet(16, (1, 1)), epochs=3, batch_size=16,
              optimiser=Optimiser(lr=0.02, nesterov=False))
CHAIN = replace(BASE, arch=MLP((4, 64, 64)), epochs=16)  # linear bounds need a chain, and their rise many updates
LEARNED = Pruned(BASE.arch, "0.3", rates="learned", scores="learned", start_keep="0.31")
GRADIENT, FIXED = Pruned(BASE.arch, "0.3", scores="gradient"), Pruned(BASE.arch, "0.3")


def of(objective: Objective, base: Recipe = BASE, **changes) -> Recipe:
    return replace(base, objective=objective, **changes)


EXAMPLES = {type(recipe.objective): recipe for recipe in (
    of(CrossEntropy()),
    of(Adversarial(THREAT, ATTACK, alpha=0.5, clean_statistics=True)),
    of(TRADES(THREAT, ATTACK)),
    of(MART(THREAT, ATTACK)),
    of(FreeAdversarial(THREAT, 3)),
    of(Transferred(THREAT, ATTACK, clean=True), arch=Stitch("layer1.0"), parents=(BASE, replace(BASE, seed=1))),
    of(Noise(0.3)),
    of(Stability(0.3)),
    of(GradientNorm(0.1)),
    of(Smoothness(0.1)),
    of(IBP("0.01", start=0.0), epochs=6),
    of(CrownIBP("0.01", kappa=0.5), CHAIN),
    of(MixTrain("1e-9", share=1.0), CHAIN),  # in next to no ball no ReLU is unstable
    of(Denoising(0.1, 0.5), arch=DenoisingMLP(64, 12)),
    of(Reconstruction(0.1), arch=AutoEncoder(16, 32)),
    of(Aligned(CrossEntropy(), Targets("class mean"), 0.3, classes=2)),
    of(Prune(Adversarial(THREAT, ATTACK), gamma=5.0), arch=LEARNED, parents=(BASE,)),
    of(Saliency(CrossEntropy()), arch=GRADIENT, parents=(BASE,)),
    of(ADMM(FreeAdversarial(THREAT, 2), "0.2", rho=0.3, every=1)),
    of(Rewire(MART(THREAT, ATTACK), noise=1.0), arch=replace(FIXED, scores="random")),
)}
every = pytest.mark.parametrize("recipe", EXAMPLES.values(), ids=lambda recipe: type(recipe.objective).__name__)


def train(recipe, work=None):
    """(network, rows) of a recipe's training."""
    parents = [build(parent) for parent in recipe.parents]
    net, attacked = build(recipe, parents), parents if recipe.objective.attacks_parents else ()
    holdout = load(recipe.data, "holdout") if recipe.choice else None
    return net, loop.fit(net, recipe, load(recipe.data, "train"), "cpu", work, holdout, parents=attacked)


class Killed(Exception):
    pass


def killed(recipe, work, monkeypatch):
    """Leave in `work` what a training leaves that dies in the second step of its second epoch."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    calls = itertools.count()

    def mortal(objective):
        loss = loss_for(objective)
        last = loss.replays * (recipe.data.n_train // recipe.batch_size + 2) - 1

        class Mortal(type(loss)):
            def __call__(self, *given):
                if next(calls) == last:
                    raise Killed
                return super().__call__(*given)

        loss.__class__ = Mortal
        return loss

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "loss_for", mortal)
        train(recipe, work)


def same(one, two) -> bool:
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def test_every_objective_has_an_example_and_a_loss():
    kinds = {kind for kind in kinds_of(Objective) if kind.__module__.startswith("lib.")}
    assert kinds == set(EXAMPLES) == set(losses.entries)


@every
def test_its_loss_is_a_wrapper_where_it_is_around_another(recipe):
    loss, inner = loss_for(recipe.objective), recipe.objective.inner
    assert isinstance(loss, Loss) and loss.spec == recipe.objective and isinstance(loss, Wrapper) == (inner is not None)
    assert inner is None or loss.inner.spec == inner


@every
def test_it_is_described_on_one_line(recipe):
    words = recipe.objective.describe()
    assert words.strip() == words != "" and "\n" not in words
    assert words.startswith(type(recipe.objective).__name__.lower()) and f", {words}, seed" in recipe.describe()


def test_profiles_know_every_objective_by_its_name():
    @dataclass
    class Section:
        objective: Objective

    tree = {"type": "Prune", "gamma": 0.5, "objective": {"type": "Noise", "sigma": 0.2}}
    assert make(Section, {"objective": tree}, "").objective == Prune(Noise(0.2), 0.5)
    assert make(Section, {"objective": "CrossEntropy"}, "").objective == CrossEntropy()
    with pytest.raises(SettingsError, match="unknown objective type 'Noize'; did you mean 'Noise'"):
        make(Section, {"objective": "Noize"}, "")


@every
def test_its_loss_is_finite_and_every_trained_weight_has_a_gradient(recipe):
    net, rows = train(recipe)
    assert all(math.isfinite(row["loss"]) for row in rows)
    learning = {name: weight.grad for name, weight in net.named_parameters() if weight.requires_grad}
    assert learning
    if isinstance(recipe.objective, Saliency):  # adds up scores, and trains nothing
        assert all(grad is None for grad in learning.values())
    else:
        assert not [name for name, grad in learning.items() if grad is None or not grad.isfinite().all()]
        assert not [name for name, grad in learning.items() if not grad.any()]


@pytest.mark.parametrize("within, said", [(120.0, "after epoch 1\n"), (0.0, "after epoch 1, step 1\n")])
@every
def test_a_killed_training_ends_with_the_same_weights(recipe, within, said, tmp_path, monkeypatch, capsys):
    """From a checkpoint between two epochs, and from one in the middle of an epoch."""
    monkeypatch.setattr(loop, "CHECKPOINT_WITHIN", within)
    killed(recipe, tmp_path, monkeypatch)
    resumed, rows = train(recipe, tmp_path)
    assert said in capsys.readouterr().out
    monkeypatch.setattr(loop, "CHECKPOINT_WITHIN", 120.0)
    straight, expected = train(recipe)
    assert same(straight, resumed)
    assert repr([{**row, "seconds": 0} for row in rows]) == repr([{**row, "seconds": 0} for row in expected])


def test_killed_within_an_epoch_dropout_and_the_moving_average_go_on(tmp_path, monkeypatch):
    def with_dropout(*given):
        net = plain(*given)
        net.stem.register_forward_hook(lambda stem, images, out: torch.dropout(out, 0.5, stem.training))
        return net

    recipe, plain = of(CrossEntropy(), ema=0.9), build
    monkeypatch.setitem(globals(), "build", with_dropout)
    monkeypatch.setattr(loop, "CHECKPOINT_WITHIN", 0.0)
    killed(recipe, tmp_path, monkeypatch)
    assert same(train(recipe, tmp_path)[0], train(recipe)[0])


# -------------------------------------------------------------------------------------------------------------- passes


class Operations(TorchDispatchMode):
    """Counts floating-point operations of what runs inside, gradients of gradients too."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.count += count(*args, **(kwargs or {}), out_val=out)
        return out


def passes_counted(recipe) -> float:
    """Operations of the whole training per image and epoch, by those of a forward pass of an image."""
    net, some = build(recipe, [build(parent) for parent in recipe.parents]), load(recipe.data, "train").pixels()
    with Operations() as forward, torch.no_grad():
        (AtNoise(net, 0.25) if isinstance(net, Denoiser) else net)(some)
    with Operations() as training:
        train(recipe)
    return training.count / forward.count / recipe.epochs


VARIANTS = [
    *EXAMPLES.values(),
    of(Adversarial(THREAT, ATTACK, clean_loss=0.5)),
    of(Adversarial(THREAT, ATTACK, accumulated=True)),
    of(Transferred(THREAT, ATTACK, ("itself",), clean_statistics=True), EXAMPLES[Transferred]),
    of(CrownIBP("0.01"), CHAIN),
    of(Aligned(TRADES(THREAT, ATTACK), Targets("class mean"), 0.3, classes=1, batchnorm="eval")),
    of(Aligned(CrossEntropy(), Targets("class mean"), 0.0)),
]


@pytest.mark.parametrize("recipe", VARIANTS, ids=lambda recipe: type(recipe.objective).__name__)
def test_its_passes_are_those_counted(recipe):
    """An update is three passes, an attack step two. Within a twentieth is that most updates form no gradient for the
    images, so that the first layer has one pass less. An aligned gradient is promised to cost as much as two updates;
    it has the operations of one, or of somewhat more on a forward pass of its own. Bounds of single ReLUs are apart.
    """
    objective = recipe.objective
    updates, forwards, attacks = objective.passes(recipe.data.info.classes, recipe.batch_size)
    promised = 3 * updates + forwards + 2 * attacks
    less = 3 * objective.classes if isinstance(objective, Aligned) and objective.active else 0
    assert 0.95 * (promised - less) <= passes_counted(recipe) <= 1.05 * promised


# --------------------------------------------------------------------------------------------------------------- check


OWN = {UNet(8): Denoising, DenoisingMLP(16, 1): Denoising, AutoEncoder(8, 16): Reconstruction, LEARNED: Prune,
       GRADIENT: Saliency}


@every
@pytest.mark.parametrize("arch", OWN, ids=lambda arch: arch.name)
def test_a_network_that_one_objective_alone_trains_is_refused_to_the_others(recipe, arch):
    objective, own = recipe.objective, OWN[arch]
    if type(objective) is own:
        assert of(objective, arch=arch, parents=()).objective == objective
        return
    with pytest.raises(SettingsError, match=f"objective = {type(objective).__name__} .* {own.__name__} for") as error:
        of(objective, arch=arch, parents=())
    assert "\n" not in str(error.value)
    assert of(objective, arch=arch, parents=(), epochs=0).epochs == 0, "nothing is trained"


@pytest.mark.parametrize("kind, changes, words", [
    (Denoising, {"arch": BASE.arch}, "Denoising .* classifiers"),
    (Reconstruction, {"arch": BASE.arch}, "Reconstruction .* classifiers"),
    (Transferred, {"arch": BASE.arch, "parents": ()}, "Transferred .* without front and end"),
    (Transferred, {"parents": (BASE, replace(BASE, data=Data("mnist", train=64)))}, "end network .* attacked = mnist"),
    (Aligned, {"objective": replace(EXAMPLES[Aligned].objective, classes=11)}, "at most the 10 classes"),
    (Aligned, {"sources": (EXAMPLES[Denoising],)}, "number of sources = 1"),
    (Prune, {"arch": FIXED}, "Prune .* trains weights"),
    (Prune, {"parents": (EXAMPLES[Prune],)}, "Prune .* trains weights"),
    (Prune, {"objective": Prune(Reconstruction())}, "Reconstruction .* classifiers"),
    (Saliency, {"arch": FIXED}, "Saliency .* trains weights"),
    (ADMM, {"arch": FIXED}, "the dense network"),
    (Rewire, {"arch": FIXED}, "random scores for Rewire"),
    (Rewire, {"parents": (BASE,)}, "from scratch"),
])
def test_what_an_objective_needs_of_a_recipe(kind, changes, words):
    with pytest.raises(SettingsError, match=words) as error:
        replace(EXAMPLES[kind], **changes)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------ wrappers


@pytest.mark.parametrize("kind", [kind for kind, recipe in EXAMPLES.items() if recipe.objective.inner])
def test_a_wrapper_passes_every_hook_on(kind, tmp_path, monkeypatch):
    hooks = {name for name, value in vars(Loss).items() if callable(value) and not name.startswith("_")}
    called = set()

    class Watched(CleanLoss):
        replays, second_order = 2, True

        def __getattribute__(self, name):
            called.add(name)
            return super().__getattribute__(name)

    monkeypatch.setitem(losses.entries, CrossEntropy, Watched)
    objective = replace(EXAMPLES[kind].objective, objective=CrossEntropy())
    recipe = replace(EXAMPLES[kind], choice=Choice(), objective=objective)
    loss = loss_for(recipe.objective)
    assert (loss.replays, loss.second_order) == (2, True)
    killed(recipe, tmp_path, monkeypatch)
    train(recipe, tmp_path)
    assert hooks <= called, hooks - called
