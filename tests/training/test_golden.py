"""The golden trainings: what fixed recipes give, for this version of the numerics; every objective has one.

When this fails and the change of results was meant, raise NUMERICS in lib/values/recipe.py (stored networks are then
made again) and note the new figures here. Tolerances are wider than differences between machines, narrower than those
that a changed loss, attack, augmentation or order of images makes.
"""

import importlib
import pkgutil
from dataclasses import is_dataclass, replace

import pytest
import torch

from lib.data import load
from lib.models import build
from lib.models.masked import masked_layers
from lib.store import Store
from lib.training.evaluation import evaluate
from lib.training.zoo import Zoo
from lib.values import objectives
from lib.values.architectures import CNN, MLP, AutoEncoder, DenoisingMLP, Pruned, ResNet, Stitch
from lib.values.attacks import APGD, PGD
from lib.values.data import Data
from lib.values.objectives import (
    ADMM,
    ATTACKED,
    IBP,
    MART,
    TARGETS,
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
    Prune,
    Reconstruction,
    Rewire,
    Saliency,
    Smoothness,
    Stability,
    Targets,
    Transferred,
)
from lib.values.recipe import NUMERICS, Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT, ATTACK, CLEAN = Threat("linf", "0.15"), PGD(2, "0.1"), CrossEntropy()
RECIPE = Recipe(
    Data("digits", train=256),
    ResNet(16, (1, 1)),
    CLEAN,
    epochs=2,
    batch_size=64,
    augment="crop",
    optimiser=Optimiser(lr=0.05),
    schedule=Schedule("onecycle"),
)
# Without ReLU and BatchNorm, machines differ so little that a network can learn until each term of its loss counts.
SMOOTH = replace(RECIPE, arch=MLP((64,), "softplus"), batch_size=32, schedule=Schedule("constant"),
                 optimiser=Optimiser("adam", lr=0.01, weight_decay=0))
BOUNDED = replace(SMOOTH, arch=MLP((64,)))  # bounds know ReLU
DENOISER = replace(SMOOTH, arch=DenoisingMLP(64, 2), objective=Denoising(0.05, 0.5, label_dropout=0.3), augment="none")
SCORED = {"sources": (DENOISER,)}
UNTRAINED = replace(RECIPE, epochs=0)
STITCHED = {"arch": Stitch("layer1.0"), "parents": (UNTRAINED, replace(UNTRAINED, seed=1)),
            "trainable": ("joint", "back")}
QUICK = {"optimiser": Optimiser("adam", lr=0.05, weight_decay=0)}
HARP = {"rates": "learned", "scores": "learned"}
SPARSE = {"arch": Pruned(SMOOTH.arch, "0.3", scores="random"), "optimiser": Optimiser(lr=0.1), "batch_size": 64}


def recipe_of(objective, base=SMOOTH, **changes) -> Recipe:
    return replace(base, objective=objective, **changes)


RECIPES = {
    "clean": RECIPE,
    "adversarial": recipe_of(Adversarial(THREAT, ATTACK, 0.5), RECIPE),
    "adversarial, two losses": recipe_of(
        Adversarial(Threat("l2", 1), PGD(2, "0.5"), batchnorm="train", clean_loss=0.5), RECIPE),
    "adversarial, gabor": recipe_of(
        Adversarial(Threat("gabor", 50), PGD(2, "0.5"), 0.8, clean_statistics=True), RECIPE),
    "adversarial, smooth": recipe_of(Adversarial(THREAT, ATTACK, 0.5)),
    "adversarial, accumulated": recipe_of(Adversarial(THREAT, ATTACK, accumulated=True)),
    "trades": recipe_of(TRADES(THREAT, ATTACK), RECIPE),
    "trades, smooth": recipe_of(TRADES(THREAT, ATTACK)),
    "mart": recipe_of(MART(THREAT, ATTACK, weight=50.0)),
    "free": recipe_of(FreeAdversarial(THREAT, 3)),
    "transferred": recipe_of(Transferred(THREAT, ATTACK, ATTACKED, clean=True, clean_statistics=True), RECIPE,
                             **STITCHED),
    "noise": recipe_of(Noise(0.3)),
    "stability": recipe_of(Stability(0.3)),
    "gradient norm": recipe_of(GradientNorm(1.0)),
    "smoothness": recipe_of(Smoothness(0.1, 0.3)),
    "IBP": recipe_of(IBP("0.02", kappa=0.3, end=0.7), BOUNDED),
    "CROWN-IBP": recipe_of(CrownIBP("0.02", kappa=0.3, end=0.7), BOUNDED),
    "MixTrain": recipe_of(MixTrain("0.05", share=0.7, images=4, every=1, end=0.3), BOUNDED),
    "denoising": DENOISER,
    "reconstruction": recipe_of(Reconstruction(0.2), arch=AutoEncoder(8, 16), augment="none"),
    "aligned, one image": recipe_of(Aligned(CLEAN, Targets("one image"), 0.5, classes=2), RECIPE),
    "aligned, class mean": recipe_of(
        Aligned(Adversarial(THREAT, ATTACK), Targets("class mean", centred=True), 0.2, classes=3, batchnorm="eval",
                first_weight=0.1), RECIPE),
    "aligned, nearest neighbour": recipe_of(
        Aligned(TRADES(THREAT, ATTACK), Targets("nearest neighbour", sample=10), 0.5, classes=3, gradient="logit")),
    "aligned, other classes": recipe_of(Aligned(CLEAN, Targets("class mean", permuted="classes"), 0.5, classes=2)),
    "aligned, random direction": recipe_of(Aligned(CLEAN, Targets("random direction"), 0.5)),
    "aligned, score": recipe_of(Aligned(CLEAN, Targets("score", sigma=0.2), 0.5, classes=2), **SCORED),
    "aligned, other scores": recipe_of(
        Aligned(CLEAN, Targets("score", permuted="images", sigma=0.2, draws=2), 0.5, classes=2), **SCORED),
    "prune": recipe_of(Prune(CLEAN, gamma=1.0), arch=Pruned(SMOOTH.arch, "0.4", start_keep="0.5", **HARP), **QUICK),
    "prune, channels": recipe_of(Prune(CLEAN, gamma=1.0, growing=False), **QUICK,
                                 arch=Pruned(CNN(8, 2), "0.5", "channels", start_keep="0.6", **HARP)),
    "prune, scores": recipe_of(Prune(FreeAdversarial(THREAT, 2)), arch=Pruned(SMOOTH.arch, "0.2", scores="learned"),
                               optimiser=Optimiser(lr=1.0)),
    "saliency": recipe_of(Saliency(MART(THREAT, ATTACK)),
                          arch=Pruned(SMOOTH.arch, "0.2", rates="global", scores="gradient")),
    "ADMM": recipe_of(ADMM(Adversarial(THREAT, ATTACK), "0.3", rho=0.1, growth=2.0, every=1), epochs=3),
    "rewire": recipe_of(Rewire(CLEAN, noise=0.3), **SPARSE),
    "rewire, layer": recipe_of(Rewire(MART(THREAT, ATTACK), noise=0.3, scope="layer"), **SPARSE),
}
# Figures of the trained network, for what no loss shows, by layer where there are masks. Other figures are columns of
# the training's log, by epoch.
AFTER = {
    "statistics": lambda net: [float(sum(t.abs().sum() for name, t in net.named_buffers() if "running_mean" in name))],
    "rates": lambda net: [float(layer.rate()) for layer in masked_layers(net).values()],
    "masks": lambda net: [float(layer.kept_mask().float().mean()) for layer in masked_layers(net).values()],
    "scores": lambda net: [float(layer.scores.abs().sum()) for layer in masked_layers(net).values()],
    "weights": lambda net: [float(layer.dense_weight.abs().sum()) for layer in masked_layers(net).values()],
}
GOLDEN = {1: {
    "clean": {"loss": [2.371089, 2.283727]},
    "adversarial": {"loss": [2.410222, 2.383481]},
    "adversarial, two losses": {"loss": [2.504151, 2.416393], "statistics": [60.02666]},
    "adversarial, gabor": {"loss": [2.363209, 2.308139], "statistics": [47.62939]},
    "adversarial, smooth": {"loss": [2.464531, 2.265407]},
    "adversarial, accumulated": {"loss": [7.30782, 6.77968]},
    "trades": {"loss": [2.36025, 2.30099]},
    "trades, smooth": {"loss": [2.396137, 2.209699]},
    "mart": {"loss": [2.898847, 2.447633]},
    "free": {"loss": [2.228567, 2.051323]},
    "transferred": {"loss": [9.545475, 9.321952], "statistics": [43.67271]},
    "noise": {"loss": [2.298041, 1.965863]},
    "stability": {"loss": [2.341161, 2.141529]},
    "gradient norm": {"loss": [2.471615, 2.283661]},
    "smoothness": {"loss": [2.299562, 1.993187]},
    "IBP": {"loss": [2.265282, 2.180964]},
    "CROWN-IBP": {"loss": [2.302986, 2.089143]},
    "MixTrain": {"loss": [2.332089, 2.038437]},
    "denoising": {"loss": [1.478138, 1.218476]},
    "reconstruction": {"loss": [0.1103591, 0.05716896]},
    "aligned, one image": {"loss": [7.328683, 6.982742]},
    "aligned, class mean": {"loss": [3.442017, 4.302682]},
    "aligned, nearest neighbour": {"loss": [6.573006, 5.364635]},
    "aligned, other classes": {"loss": [6.570635, 5.650795], "own cosine": [0.1617081, 0.1559162],
                               "other cosine": [0.1535989, 0.3102492]},
    "aligned, random direction": {"loss": [6.613436, 5.776542]},
    "aligned, score": {"loss": [6.385758, 5.413567], "own cosine": [0.154216, 0.2989265],
                       "other cosine": [0.1900541, 0.3129185]},
    "aligned, other scores": {"loss": [6.364423, 5.253646]},
    "prune": {"loss": [2.396725, 2.163767], "hardware_loss": [0.01681582, 0.0], "gamma": [1.0, 2.0],
              "rates": [0.3454448, 0.3583269], "scores": [1035.62, 166.5828]},
    "prune, channels": {"loss": [2.537329, 2.297513], "hardware_loss": [0.0197462, 0.0],
                        "rates": [0.4401777, 0.4406866], "scores": [1.926505, 5.374267]},
    "prune, scores": {"loss": [2.325096, 2.253073], "scores": [608.668, 96.63043]},
    "saliency": {"loss": [3.20778, 3.18179], "scores": [47.53424, 21.89478], "masks": [0.1740723, 0.365625]},
    "ADMM": {"loss": [2.88084, 3.107909, 3.197677], "residual": [0.5166971, 0.3059847, 0.4795736],
             "rho": [0.1, 0.2, 0.4]},
    "rewire": {"loss": [2.302627, 2.285424], "rewired": [660, 727], "masks": [0.3039551, 0.275],
               "weights": [100.1633, 15.13194]},
    "rewire, layer": {"loss": [2.609224, 2.571735], "rewired": [696, 838], "masks": [0.3000488, 0.3],
                      "weights": [95.98808, 9.844238]},
}}
GOLDEN_BROKEN = {1: {PGD: 42, APGD: 93}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Zoo(Store(tmp_path_factory.mktemp("store")))
    torch.set_num_threads(threads)


def figures(trained, names) -> dict[str, list[float]]:
    return {name: AFTER[name](trained.net) if name in AFTER else [row[name] for row in trained.log] for name in names}


def tolerance(recipe: Recipe, figure: str) -> float:
    """Relative; wide where BatchNorm and ReLU make much of a rounding, and for counts, which it changes by one."""
    if figure in ("rewired", "masks"):
        return 2e-2
    return 2e-3 if isinstance(recipe.arch, (ResNet, Stitch)) else 5e-4


@pytest.mark.parametrize("name", RECIPES)
def test_training_gives_what_it_gave(zoo, name):
    assert NUMERICS in GOLDEN, "note the golden figures of the new version"
    recipe, expected = RECIPES[name], GOLDEN[NUMERICS][name]
    found = figures(zoo.obtain(recipe), expected)
    assert found == {figure: pytest.approx(values, rel=tolerance(recipe, figure))
                     for figure, values in expected.items()}


def test_every_objective_has_golden_figures():
    modules = [importlib.import_module(f"lib.values.objectives.{found.name}")
               for found in pkgutil.iter_modules(objectives.__path__)]
    known = {thing for module in modules for thing in vars(module).values()
             if is_dataclass(thing) and thing.__module__ == module.__name__} - {Targets}
    trained = [recipe.objective for recipe in RECIPES.values()]
    left = {objective.__name__ for objective in known - {*map(type, trained)}}
    assert not left, f"no golden figures for {', '.join(sorted(left))}: add a recipe to RECIPES, its figures to GOLDEN"
    aligned = {objective.targets.kind for objective in trained if isinstance(objective, Aligned)}
    assert aligned == {*TARGETS}, "each kind of targets has golden figures"


@pytest.mark.parametrize("attack", [PGD(3, "0.01"), APGD(3, targets=2)], ids=["PGD", "APGD"])
def test_attacks_break_what_they_broke(attack):
    """On an untrained network, whose weights do not depend on the machine's arithmetic."""
    images = load(replace(RECIPE.data, test=200), "test")
    net = build(UNTRAINED).train()
    with torch.no_grad():  # statistics that let classes differ; its own answers as labels, so that all are right
        net(images.pixels())
        images = replace(images, labels=net.eval()(images.pixels()).argmax(1))
    found = evaluate(net, images, Threat("linf", "0.03"), attack, seed_parts=("golden",))
    broken = int((~found.table["robust"]).sum())
    assert broken == pytest.approx(GOLDEN_BROKEN[NUMERICS][type(attack)], abs=2)
