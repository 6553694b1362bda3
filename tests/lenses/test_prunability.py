"""The lens of pruning: the numbers of the papers' notebooks, equal shares and equal numbers, and what is undefined."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from lib.errors import SettingsError
from lib.lenses import prunability
from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, Pool
from lib.lenses.prunability import (
    DENSE,
    KEPT,
    LEFT,
    NUMBER,
    PRUNED,
    SHARE,
    VERDICTS,
    WEIGHTS,
    WHOLE,
    Prunability,
    sizes,
    trainable,
)
from lib.lenses.subject import Subject
from lib.look.work import on_request
from lib.models import network
from lib.models.links import layers as layers_of
from lib.papers.compact_robust_pruning import networks as compact
from lib.papers.harp_pruning import networks as harp
from lib.papers.settings import load as profile
from lib.profiles.networks import Training
from lib.runtime import initialise_with
from lib.store import Store
from lib.training.loop import TrainingDiverged
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet, ViT
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.threats import Threat

DIGITS = Data("digits", train=384, holdout=50, test=100)
TEST = profile("test")
STEP = TEST.sections["compact_robust_pruning"].nets[0].finetune
KEEP = Fraction(2, 5)
ATTACK = PGD(2, "0.01")
LENS = Prunability(KEEP, finetune=STEP, search=Training(1), attack=ATTACK, steps=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two normal and two robust networks that have learned something, at an eps that leaves them robust."""
    torch.set_num_threads(1)
    given = TEST.networks
    robust = replace(given.robust, epochs=8, attack=ATTACK)
    networks = replace(given, data=DIGITS, arch=ResNet(8, (1, 1)), threat=Threat("linf", "0.01"), augment="none",
                       normal=replace(given.normal, epochs=8), robust=robust)
    return Pool(Zoo(Store(tmp_path_factory.mktemp("store"))), networks, lambda repetition: repetition)


@pytest.fixture(scope="module")
def rows(copy, pool, images):
    return LENS.measure(copy, pool, images)


def wrapped(make, name, data=DIGITS):
    with initialise_with("prunability"):
        return Subject.wrap(make(), data=data, normaliser="inside", name=name)


def values(rows, network, column="value"):
    return rows[rows["network"] == network].set_index("measure")[column]


def measures(verdict):
    return [WHOLE.format(verdict=verdict), *(PRUNED.format(verdict=verdict, way=way) for way in (SHARE, NUMBER))]


# ------------------------------------------------------------------------------------------------ one implementation


def test_a_copy_of_a_reference_gets_the_numbers_of_the_compact_notebook(rows, pool):
    section = replace(TEST.sections["compact_robust_pruning"], keeps=(KEEP,), rounds=(Fraction(1, 2),))
    notebook, own, theirs = compact.Repetition(pool.networks, section, 0, pool.seed), *(
        values(rows, name) for name in ("copy", "R0"))
    for rule, way in (("dense", WHOLE), ("LWM", PRUNED)):
        condition = compact.Condition("ResNet", "robust", rule, DENSE if rule == "dense" else KEEP, "robust")
        found = pool.zoo.outcomes(notebook.recipe_of(condition), pool.threat, LENS.test(pool))
        for verdict in VERDICTS:
            measure = way.format(verdict=verdict, way=SHARE)
            assert own[measure] == theirs[measure] == found.accuracy(verdict) > 0.2
    assert own[PRUNED.format(verdict="robust", way=SHARE)] != own[WHOLE.format(verdict="robust")]


def test_references_are_pruned_as_in_the_harp_notebook_but_for_its_choice_of_an_epoch(pool):
    section = replace(TEST.sections["harp_pruning"], keeps=(KEEP,), data=None, arch=None, finetune=STEP)
    for n in range(pool.count):
        notebook = harp.Repetition(pool.networks, section, n, pool.seed)
        base = pool.recipes[f"R{n}"]
        assert notebook.pretrained("PGD-AT") == base
        for method, keep in (("LWM", KEEP), ("dense", DENSE)):
            condition = harp.Condition(method, keep)
            theirs = notebook.pruned(condition) if keep < 1 else notebook.finetuned(base, base.arch, condition)
            assert replace(theirs, choice=None, keep=()).key == LENS.recipe(pool, base, keep).key


def test_without_such_networks_in_the_plan_the_lens_has_its_own_trainings():
    networks = TEST.networks
    robust, other = (networks.member("R", n, int) for n in range(2))
    as_is = Prunability()
    of_other = [as_is.recipe(Pool(Zoo(None), networks, int), other, as_is.keep)]
    assert Prunability.as_planned(of_other, robust) == Prunability.as_planned((), robust) == as_is == on_request(None)


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_the_networks_of_a_profile_are_those_of_its_notebook(name):
    settings = profile(name)
    pool = Pool(Zoo(None), settings.networks, settings.seed)
    planned = {cell.recipe.key for cell in compact.cells(settings.networks, settings.sections["compact_robust_pruning"],
                                                         settings.seed)}
    lens, section = on_request(settings), settings.sections["harp_pruning"]
    assert (lens.finetune, lens.attack, lens.search) == (section.finetune, section.attack, section.prune)
    needed = lens.recipes(pool)
    assert {one for one, recipe in needed.items() if recipe.key not in planned} == {"N0, fine-tuned", "N1, fine-tuned"}
    assert len(needed) == 8


def test_learned_scores_are_searched_as_in_the_zoo(copy, pool, images):
    lens = replace(LENS, scores="learned")
    own, theirs = (values(lens.measure(copy, pool, images), name) for name in ("copy", "R0"))
    recipe = lens.recipe(pool, pool.recipes["R0"], KEEP)
    assert recipe.parents[0].arch.scores == "learned" and recipe.parents[0].epochs == 1
    found = pool.zoo.outcomes(recipe, pool.threat, lens.test(pool))
    for verdict in VERDICTS:
        measure = PRUNED.format(verdict=verdict, way=SHARE)
        assert own[measure] == theirs[measure] == found.accuracy(verdict)


# --------------------------------------------------------------------------------------------------- shares and numbers


def test_what_is_kept_is_a_ratio_over_the_same_images(rows):
    known = 0
    for name in {*rows["network"]}:
        own = values(rows, name)
        for verdict in VERDICTS:
            whole = own[WHOLE.format(verdict=verdict)]
            for way in (SHARE, NUMBER):
                kept, pruned = own[KEPT.format(verdict=verdict, way=way)], own[PRUNED.format(verdict=verdict, way=way)]
                assert np.isnan(kept) or kept == pytest.approx(pruned / whole)
                known += np.isfinite(kept)
    assert known > 8
    own = rows[rows["measure"] == KEPT.format(verdict="robust", way=SHARE)].dropna(subset=["value"])
    assert {ROBUST, SUBJECT} <= {*own["role"]} and (own["low"] < own["value"]).all() and {*own["at"]} == {"40%"}


def test_at_one_pruned_is_unpruned(copy, pool, images):
    found = replace(LENS, keep=1).measure(copy, pool, images)
    for name in {*found["network"]}:
        own = values(found, name)
        for verdict in VERDICTS:
            assert len({own[measure] for measure in measures(verdict)}) == 1
    kept = found[found["measure"].str.startswith("kept")].dropna(subset=["value"])
    assert len(kept) > 8 and (kept["value"] == 1).all()


@pytest.mark.parametrize("width", [12, 6])
def test_a_network_of_another_size_is_pruned_to_as_many_weights(pool, images, width):
    own = wrapped(lambda: network(ResNet(width, (1, 1)), DIGITS.shape, 10), f"width {width}")
    found = LENS.measure(own, pool, images)
    mine, theirs = (values(found, name) for name in (own.name, "R0"))
    number, layers = theirs[LEFT.format(way=SHARE)], len(layers_of(own.net))
    assert theirs[LEFT.format(way=NUMBER)] == number == sum(-(-2 * size // 5) for size in sizes(
        pool.references["R0"].net))
    assert abs(mine[LEFT.format(way=NUMBER)] - number) <= layers
    assert mine[LEFT.format(way=SHARE)] == pytest.approx(KEEP * mine[WEIGHTS], abs=layers)
    assert (mine[LEFT.format(way=SHARE)] > number) == (width == 12)
    made = prunability._further(own.net, own, pool, LENS.recipe(pool, pool.recipes["R0"], LENS.keeps(
        sizes(own.net), pool)[NUMBER]))
    assert sum(int((layer.weight != 0).sum()) for layer in layers_of(made).values()) == mine[LEFT.format(way=NUMBER)]


def test_a_network_with_fewer_weights_has_no_equal_number(pool, images):
    small = wrapped(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "small")
    found = LENS.measure(small, pool, images)
    own, notes = values(found, "small"), values(found, "small", "note")
    why = "undefined: small has 640 weights that can be pruned, fewer than the 1,990 that"
    for measure in own.index[own.index.str.endswith((NUMBER, f"{NUMBER} and fine-tuned"))]:
        assert np.isnan(own[measure]) and notes[measure].startswith(why)
    assert np.isfinite(own[PRUNED.format(verdict="robust", way=SHARE)])


# ------------------------------------------------------------------------------------------------------- undefined


class Nearest(nn.Module):
    """The class of the nearest of ten images, which are no convolution and no linear layer."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.rand(10, 64))

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.means)


class Twofold(nn.Module):
    """A network that gives an auxiliary answer in training mode, and that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        logits = self.fc(x.flatten(1)) * (1 if x.sum() > -1 else 2)
        return (logits, logits) if self.training else logits


class Standardised(nn.Conv2d):
    """A convolution that does something else with its weights."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Views(nn.Module):
    """A network that needs maps in torch's own layout."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().view(len(x), -1))


def normed():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))


def standardised():
    return nn.Sequential(Standardised(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))


def dead():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    nn.init.zeros_(net[1].weight)
    return net


@pytest.mark.parametrize("make, why", [
    (Nearest, "it has no convolution or linear layer"),
    (normed, "the weights of its layer 1 are computed from other numbers"),
    (standardised, "with masks its layers compute something else"),
    (Twofold, "in training mode it gives tuple instead of logits"),
    (dead, "layer 1 cannot be pruned: all its weights are 0"),
])
def test_what_cannot_be_pruned_is_undefined_and_said(pool, images, make, why):
    found = LENS.measure(wrapped(make, "odd"), pool, images)
    own = found[(found["role"] == SUBJECT) & (found["measure"] != WEIGHTS)]
    said = f"undefined: odd cannot be pruned and fine-tuned: {why}"
    assert own["value"].isna().all() and len(own) == 12
    assert {*own.loc[~own["measure"].str.contains("number"), "note"]} == {said}
    assert LENS.sentence(found) == f"How much of its robustness odd keeps when it is pruned is {said}."
    assert found.loc[found["role"] == ROBUST, "value"].notna().all(), "references have all values"


def vision_transformer():
    net = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)
    nn.init.normal_(net.heads.head.weight)  # torchvision begins with zeros
    return net


@pytest.mark.parametrize("make, data", [
    (Views, DIGITS),
    (lambda: network(ViT(16, 1, 2, 16, 4), DIGITS.shape, 10), DIGITS),
    (lambda: models.resnet18(num_classes=10), Data("cifar10")),
    (vision_transformer, Data("cifar10")),
    (lambda: models.mobilenet_v2(num_classes=10), Data("cifar10")),
], ids=["view", "tokens", "ResNet-18", "ViT", "MobileNet"])
def test_foreign_networks_can_be_pruned_and_trained(make, data):
    one = wrapped(lambda: make().eval(), "theirs", data)
    before = {name: tensor.clone() for name, tensor in one.net.state_dict().items()}
    net, why = trainable(one, torch.rand(4, *data.shape), ResNet(8, (1,)))
    assert why == "" and (net is one.graph.whole) == (make is Views)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.net.state_dict().items())
    assert not any(module.training for module in one.net.modules())


def test_of_a_network_that_answers_one_class_no_share_is_defined(pool, images):
    def one_class():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.999), nn.Linear(32, 10))
        with torch.no_grad():
            net[-1].weight.mul_(1e-4), net[-1].bias.zero_()[3].fill_(1e3)
        return net

    found = LENS.measure(wrapped(one_class, "always 3"), pool, images)
    own, notes = values(found, "always 3"), values(found, "always 3", "note")
    measure = KEPT.format(verdict="robust", way=SHARE)
    assert own[WHOLE.format(verdict="robust")] == pytest.approx(0.1, abs=0.05) and np.isnan(own[measure])
    assert notes[measure].startswith("undefined: unpruned, after the same fine-tuning, its robust accuracy is 1")
    assert notes[measure].endswith("not surely above 10%") and "nan" not in LENS.sentence(found)


def test_a_training_that_diverges_is_said(pool, images, monkeypatch):
    def diverges(*given):
        raise TrainingDiverged("the loss of step 3 is inf; lower optimiser.lr")

    pool.references, {name: pool.zoo.obtain(recipe) for name, recipe in LENS.recipes(pool).items()}
    monkeypatch.setattr(prunability, "fit", diverges)
    found = LENS.measure(wrapped(lambda: network(ResNet(8, (2, 1)), DIGITS.shape, 10), "new"), pool, images)
    assert {*values(found, "new", "note").drop(WEIGHTS).loc[lambda note: ~note.index.str.contains("left")]} == {
        "undefined: the loss of step 3 is inf"}


def test_a_network_that_is_pruned_only_in_part_is_doubted(pool, images):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.ones(1920)), nn.Linear(64, 10, bias=False)

        def forward(self, x):
            return self.fc(x.flatten(1)) * self.scale.mean()

    assert prunability._in_part(wrapped(Table, "table")) == (
        "only 25% of its 2,560 parameters are weights of convolutions and linear layers, and nothing else is pruned")
    assert prunability._in_part(pool.references["R0"]) == ""


# ------------------------------------------------------------------------------------------------- sentence and store


def test_the_sentence_says_shares_and_what_has_none(rows):
    made = rows.copy()
    for verdict in VERDICTS:
        kept = made["measure"].isin([KEPT.format(verdict=verdict, way=way) for way in (SHARE, NUMBER)])
        made.loc[kept, ["value", "low", "high", "note"]] = [0.9, 0.8, 1.0, ""]
    whole = values(made, "copy")[WHOLE.format(verdict="robust")]
    assert LENS.sentence(made) == (
        f"With 40% of its weights copy keeps 90% (80% to 100%) of the robust accuracy, {whole:.0%}, that it has "
        "unpruned after the same fine-tuning, where robust references keep 90%, normal ones 90% and its untrained twin "
        "90%; with as many weights as the references then have: 90% (80% to 100%).")
    lost = made["role"].isin([NORMAL]) & made["measure"].str.startswith("kept")
    made.loc[lost, ["value", "low", "high", "note"]] = [np.nan, np.nan, np.nan, "undefined: so"]
    assert "normal ones an undefined share and" in LENS.sentence(made)


def test_networks_are_pruned_once_for_all_images(rows, copy, pool, images, monkeypatch):
    monkeypatch.setattr(prunability, "fit", None)
    assert (LENS.measure(copy, pool, images.take(slice(0, 40)))["images"] == 40).all()


def test_a_training_that_was_killed_is_resumed(pool, images, monkeypatch):
    own = wrapped(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), "killed")
    seen = []

    def killed(net, recipe, given, device, work):
        seen.append(work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(prunability, "fit", killed)
        LENS.measure(own, pool, images)
    fit = prunability.fit
    monkeypatch.setattr(prunability, "fit", lambda *given: seen.append(given[-1]) or fit(*given))
    LENS.measure(own, pool, images)
    assert seen[0] == seen[1] and "lens-network" in seen[0].name


@pytest.mark.parametrize("options, words", [
    ({"keep": 0}, "keep = 0 is not possible: it must be a share above 0 and at most 1"),
    ({"keep": "3/2"}, "keep = 3/2"), ({"keep": "much"}, "keep = 'much' is not a number"),
    ({"scores": "largest"}, "scores = largest"), ({"finetune": 3}, "finetune = 3"),
    ({"finetune": Training(0)}, "finetune = "), ({"search": TEST.networks.robust}, "search = "),
    ({"attack": PGD(2, "0.1", targeted=True)}, "attack = "), ({"attack": 2}, "attack = 2"), ({"steps": 0}, "steps = 0"),
])
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(SettingsError) as error:
        Prunability(**options)
    assert str(error.value).startswith(words)
