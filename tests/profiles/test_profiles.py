"""The profiles and how their settings are overridden."""

from dataclasses import replace

import pytest

from lib.errors import SettingsError
from lib.papers import papers
from lib.papers.settings import load
from lib.profiles import PROFILES
from lib.runtime import ROOT


def test_the_profiles_are_the_files_in_configs():
    assert sorted(PROFILES) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seeds", [1, 2])
def test_seeds_cap_every_number_of_repetitions(profile, seeds):
    names = load(profile).notebooks
    settings = load(profile, {f"{name}.seeds": seeds for name in names})
    for name in names:
        cells = papers()[name].cells(settings.networks_of(name), settings.sections[name], settings.seed)
        assert {cell.repetition for cell in cells} == {*range(seeds)}


def test_more_repetitions_of_one_kind_can_be_asked_for():
    name = "perceptually_aligned_gradients"
    section = load("smoke", {f"{name}.seeds": 2, f"{name}.toy.seeds": 4}).sections[name]
    assert (section.seeds, section.toy.seeds) == (2, 4)


def test_an_entry_of_a_list_is_reached_by_its_name():
    name = "perceptually_aligned_gradients"
    before = load("paper").sections[name]
    after = load("paper", {f"{name}.studies.CIFAR-10.training.epochs": 2}).sections[name]
    assert after.studies[0].training.epochs == 2
    assert after.studies[1:] == before.studies[1:]  # they share the training in the file
    assert replace(after.studies[0], training=before.studies[0].training) == before.studies[0]
    assert load("paper", {"stitching.attack.steps": 3}).sections["stitching"].elsewhere[2].attack.steps == 10


@pytest.mark.parametrize("name, message", [
    ("studies.CIFAR-11.training.epochs", r"unknown entry of perceptually_aligned_gradients.studies 'CIFAR-11'; did you "
                                         r"mean 'CIFAR-10'\? \(known: CIFAR-10, .*STL-10 ViT\)"),
    ("studies.CIFAR-10.training.epoch", r"unknown setting 'perceptually_aligned_gradients.studies\[CIFAR-10\].training"
                                        r".epoch'.*"),
    ("studies.CIFAR-10.weights.score.1", r".* = 2 is not possible: it must be given with all of .*score, whose .*"),
    ("studies.CIFAR-10.threats.l2.eps", r".* = 2 is not possible: it must be given with all of .*threats, whose "
                                        "entries have no names"),
])
def test_what_cannot_be_reached_is_one_sentence(name, message):
    with pytest.raises(SettingsError, match=f"^{message}$"):
        load("paper", {f"perceptually_aligned_gradients.{name}": 2})
