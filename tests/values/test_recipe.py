"""Recipes and settings: exact numbers, stable keys, one-line errors."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from lib.errors import SettingsError, fraction
from lib.papers import settings
from lib.papers.plan import plan
from lib.papers.stitching import networks
from lib.values.architectures import MLP, Probe, ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import Adversarial
from lib.values.recipe import Choice, Recipe
from lib.values.threats import Threat

BASE = Recipe(Data("digits"), ResNet(16, (1, 1)), epochs=2)
CHOOSING = replace(BASE, data=Data("digits", holdout=100), choice=Choice())


def checkpoint(epoch, epochs=0):
    run = replace(BASE, epochs=4, keep=(1, 3))
    return replace(run, parents=(run,), epochs=epochs, keep=(), checkpoint=epoch)


def test_fractions_are_exact():
    assert fraction("8/255") == Fraction(8, 255)
    assert fraction(0.1) == Fraction(1, 10)
    assert Threat("linf", "8/255").eps == Fraction(8, 255)


def test_keys_tell_networks_apart_and_nothing_else():
    assert BASE.key == replace(BASE, data=Data("digits", test=100)).key, "what is measured on does not change a network"
    different = [
        replace(BASE, seed=1),
        replace(BASE, epochs=3),
        replace(BASE, precision="bf16"),
        replace(BASE, data=Data("digits", train=500)),
        replace(BASE, arch=ResNet(32, (1, 1))),
        replace(BASE, parents=(BASE,)),
        replace(BASE, parents=(replace(BASE, seed=1),)),
        replace(BASE, objective=Adversarial(Threat("linf", "8/255"), PGD(3, "2/255"))),
    ]
    assert len({BASE.key, *(r.key for r in different)}) == len(different) + 1
    assert (
        replace(BASE, objective=Adversarial(Threat("l2", 1), PGD(3, 1), alpha=1)).key
        == replace(BASE, objective=Adversarial(Threat("l2", 1), PGD(3, 1), alpha=1.0)).key
    )


def test_what_is_kept_and_taken_tells_networks_apart_and_changes_no_other_key():
    kept = replace(BASE, epochs=4, keep=(1, 3))
    some = [BASE, replace(BASE, epochs=4), kept, replace(kept, keep=(1,)), replace(kept, seed=1), checkpoint(1),
            checkpoint(3), replace(checkpoint(1), parents=(replace(kept, seed=1),))]
    assert len({recipe.key for recipe in some}) == len(some)
    assert replace(BASE, keep=(), checkpoint=None).key == BASE.key == "01f3c974ddb7cac6"
    attack = Adversarial(Threat("linf", "0.1"), PGD(3, "0.05"))
    with_share = replace(attack, clean_loss=0.5)
    assert replace(BASE, objective=attack).key == "d8326eed154b94f3" != replace(BASE, objective=with_share).key


def test_a_network_may_be_too_large_for_the_short_side_only():
    assert Data("digits_letters").shape == (1, 16, 8) and Data("gaussian_subspace").shape == (1, 8, 16)
    assert Recipe(Data("digits_letters"), ResNet(16, (1,) * 4)).data.shape == (1, 16, 8)
    with pytest.raises(SettingsError, match="16x8 pixels; this one needs at least 16 a side"):
        Recipe(Data("digits_letters"), ResNet(16, (1,) * 5))


def test_what_was_the_only_activation_changes_no_key():
    relu, smooth = (replace(BASE, arch=MLP((32,), activation)) for activation in ("relu", "softplus"))
    assert relu.key == replace(BASE, arch=MLP((32,))).key == "380c1620ed00e8fe" != smooth.key


def test_the_last_epoch_is_kept_where_a_choice_may_throw_it_away():
    kept = replace(CHOOSING, keep=(1, 2))
    assert len({kept.key, CHOOSING.key, replace(CHOOSING, keep=(1,)).key}) == 3
    assert replace(kept, parents=(kept,), epochs=0, choice=None, keep=(), checkpoint=2).checkpoint == 2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Threat("linf", "-8/255"), ["threat.eps", "-8/255"]),
        (lambda: Threat("linf", "1/0"), ["threat.eps", "1/0"]),
        (lambda: Threat("l3", 1), ["l3", "linf"]),
        (lambda: Data("cifr10"), ["cifr10", "did you mean 'cifar10'"]),
        (lambda: Data("cifar10", train=60_000), ["data.train", "60000", "50000"]),
        (lambda: Data("cifar10", size=64), ["data.size = 64", "null for cifar10", "32 x 32"]),
        (lambda: Data("mnist_letters", size=28), ["data.size = 28", "null for mnist_letters", "56 x 28"]),
        (lambda: Recipe(Data("line_of_modes"), ResNet(16, (1, 1))), ["arch", "1x2 pixels", "2 a side"]),
        (lambda: replace(BASE, arch=Stitch("layer9.0"), parents=(BASE, BASE)), ["layer9.0", "layer2.0"]),
        (lambda: replace(BASE, arch=Probe("head"), parents=(BASE,)), ["head", "layer1.0"]),
        (lambda: replace(BASE, arch=Stitch("stem"), parents=(BASE,)), ["parents", "2"]),
        (lambda: replace(BASE, arch=ResNet(16, (1, 1, 1, 1, 1))), ["8 pixels"]),
        (lambda: replace(BASE, epochs=-1), ["epochs", "-1"]),
        (lambda: replace(BASE, batch_size=5000), ["batch_size", "5000", "1197"]),
        (lambda: PGD(3, "0"), ["attack.step_size", "0"]),
        (lambda: replace(BASE, keep=(0,)), ["keep = (0,)", "from 1 to below epochs = 2"]),
        (lambda: replace(BASE, keep=(2,)), ["keep = (2,)", "below epochs = 2"]),
        (lambda: replace(CHOOSING, keep=(3,)), ["keep = (3,)", "from 1 to epochs = 2"]),
        (lambda: replace(BASE, epochs=4, keep=(2, 1)), ["keep = (2, 1)", "increasing"]),
        (lambda: replace(BASE, epochs=4, keep=(1, 1)), ["keep = (1, 1)", "increasing"]),
        (lambda: replace(BASE, epochs=4, keep=(1.5,)), ["keep = (1.5,)", "numbers of epochs"]),
        (lambda: replace(BASE, epochs=0, keep=(1,)), ["keep = (1,)", "epochs = 0"]),
        (lambda: replace(BASE, epochs=0, checkpoint=1), ["parents = 0", "1 for a checkpoint"]),
        (lambda: checkpoint(2), ["checkpoint = 2", "an epoch that the parent keeps: (1, 3)"]),
        (lambda: checkpoint(1, epochs=1), ["epochs = 1", "0 for a checkpoint"]),
    ],
)
def test_impossible_values_are_one_sentence(make, words):
    with pytest.raises(SettingsError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text and all(w in text for w in words), text


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"stitching.sedes": 3}, ["stitching.sedes", "did you mean 'stitching.seeds'"]),
        ({"networks.threat.eps": "-8/255"}, ["networks.threat.eps = -8/255", "at least 0"]),
        ({"networks.data.name": "cifar"}, ["unknown networks.data.name 'cifar'", "did you mean 'cifar10'"]),
        ({"stitching.joints": ["stem", "layer7.0", "layer2.0", "layer3.0"]}, ["joint 'layer7.0'", "layer1.0"]),
    ({"stitching.joints": ["stem", "layer2.0", "layer3.0"]}, ["middle joint", "layer2.0"]),
    ({"stitching.joints": ["layer3.0", "layer2.0", "stem"]}, ["order of depth"]),
    ({"stitching.joints": ["stem", "layer1.0", "layer2.0", "layer2.0", "layer3.0"]}, ["different stages"]),
    ({"stitching.epochs": 0}, ["stitching.epochs = 0", "at least 1"]),
    ({"stitching.verify.targets": 20}, ["targets", "20", "10"]),
    ({"stitching.search.targeted": True}, ["targeted"]),
    ({"networks.robust.count": 1}, ["networks.robust.count", "1", "at least 4 for representation_similarity.seeds"]),
    ({"networks.precision": "fp64"}, ["fp64", "bf16"]),
    ({"networks": 5}, ["networks"]),
    ({"networks.normal": 5, "stitching.seeds": 4}, ["networks.normal"]),
    ({"networks.normal.count": "a", "stitching.seeds": 4}, ["networks.normal.count"]),
    ({"networks.data.train": None, "networks.normal.epochs": None}, ["networks.normal.epochs", "null"]),
    ({"device": "gpu"}, ["gpu", "cuda"]),
        ({"stitching.seeds": 0}, ["stitching.seeds", "0", "1 to 100"]),
        ({"stitching.seeds": "three"}, ["stitching.seeds", "three", "whole number"]),
        ({"networks.robust.attack": None, "networks.robust": {"count": 1, "epochs": 1}}, ["networks.robust.attack"]),
        ({"stitching.verify": {"type": "APDG"}}, ["APDG", "did you mean 'APGD'"]),
        ({"stitching.alphas": [0, 2]}, ["alphas"]),
        ({"device.x": 1}, ["device"]),
    ],
)
def test_bad_overrides_are_one_sentence(overrides, words):
    with pytest.raises(SettingsError) as error:
        settings.load("smoke", overrides)
    text = str(error.value)
    assert "\n" not in text and all(w in text for w in words), text


@pytest.mark.parametrize("flags, gpu, precision", [
    ("avx2 avx512f", False, "fp32"), ("avx512f avx512_bf16", False, "bf16"), ("amx_bf16 amx_tile", False, "bf16"),
    ("avx2", True, "bf16"), (None, True, "bf16"), (None, False, "fp32"),
])
def test_auto_precision_is_bf16_where_the_hardware_multiplies_in_it(monkeypatch, flags, gpu, precision):
    """flags: those of the processor; None: a system that has no /proc/cpuinfo."""
    read_text, exists = Path.read_text, Path.exists

    def cpuinfo(path, *args, **options):
        if path != Path("/proc/cpuinfo"):
            return read_text(path, *args, **options)
        if flags is None:
            raise FileNotFoundError(path)
        return f"model name : a processor\nflags : fpu {flags}\n"

    monkeypatch.setattr(Path, "read_text", cpuinfo)
    monkeypatch.setattr(Path, "exists", lambda path: gpu if path == Path("/dev/nvidia0") else exists(path))
    assert settings.load("gpu").networks.precision == precision


@pytest.mark.parametrize("head", ["fp32", "bf16"])
def test_jobs_have_the_precision_of_the_host_that_started_the_run(monkeypatch, head):
    monkeypatch.setenv("REPRO_PRECISION", head)
    assert settings.load("gpu").networks.precision == head
    assert settings.load("smoke").networks.precision == "fp32", "which is what the profile says"
    assert settings.load("laptop", {"networks.precision": "fp32"}).networks.precision == "fp32"


def test_an_impossible_precision_of_the_head_is_refused(monkeypatch):
    monkeypatch.setenv("REPRO_PRECISION", "fp16")
    with pytest.raises(SettingsError, match="unknown REPRO_PRECISION 'fp16'"):
        settings.load("gpu")


def test_unknown_profile_suggests_one():
    with pytest.raises(SettingsError, match="did you mean 'laptop'"):
        settings.load("laptp")


def test_overrides_change_the_folder_and_only_what_they_name():
    plain, other = settings.load("smoke"), settings.load("smoke", {"stitching.epochs": 1})
    assert plain.run == "smoke" and other.run.startswith("smoke+") and other.sections["stitching"].epochs == 1
    assert replace(other, sections={**other.sections, "stitching": plain.sections["stitching"]}, overrides=()) == plain


@pytest.mark.parametrize("profile", settings.profiles())
def test_every_profile_loads_and_its_plan_has_parents_first(profile):
    s = settings.load(profile)
    seen = set()
    for task in plan(s):
        assert all(p.key in seen for p in task.recipe.parents)
        assert task.recipe.key not in seen, "a network stands twice in the plan"
        seen.add(task.recipe.key)


def stitched(s):
    return networks.cells(s.networks, s.sections["stitching"], s.seed)


def test_more_seeds_make_a_larger_pool():
    s = settings.load("smoke", {"stitching.seeds": 7})
    fronts = {c.recipe.parents[0].key for c in stitched(s) if (c.condition.role, c.condition.pair) == ("pair", "N->R")}
    assert len(fronts) == 7


def test_two_networks_of_one_type_are_never_the_same():
    for c in stitched(settings.load("smoke")):
        if c.condition.pair in ("R->R2", "N->N2"):
            assert c.recipe.parents[0].key != c.recipe.parents[1].key
