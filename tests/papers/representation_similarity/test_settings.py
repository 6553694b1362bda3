"""Similarity of representations: what the section refuses."""

import itertools

import pytest

from lib.errors import SettingsError
from tests.papers.representation_similarity.planned import RUNS, S, load


def arm(**changes):
    given = {"name": "one", "group": "procedure"} | changes
    return {f"{S}.arms": [{k: v for k, v in given.items() if v is not None}]}


def runs(**changes):
    return {f"{S}.overfitting": RUNS | changes}


@pytest.mark.parametrize("overrides, words", [
    ({"jobs": "all"}, ["unknown jobs 'all'", "none", "seeds", "networks"]),
    ({"jobs": True}, ["unknown jobs 'True'", "none", "seeds"]),
    (arm(group="procedures"), ["arms[one].group 'procedures'", "did you mean 'procedure'"]),
    (arm(training="TRADE"), ["arms[one].training 'TRADE'", "did you mean 'TRADES'"]),
    (arm(training="noise"), ["arms[one].sigma = None", "exactly for noise"]),
    (arm(sigma=0.1), ["arms[one].sigma = 0.1", "exactly for noise"]),
    (arm(group="architecture"), ["arms[one].arch", "architecture"]),
    (arm(group="data"), ["arms[one].data", "data"]),
    (arm(group=None), ["group is missing"]),
    (arm(kind="x"), ["unknown setting", "kind"]),
    ({f"{S}.arms": [{"name": "one", "group": "procedure"}] * 2}, ["arms.name = [one, one]", "different ones"]),
    ({f"{S}.arms": 3}, ["arms = 3", "a list"]),
    ({f"{S}.arm_seeds": 5}, ["arm_seeds = 5", "at most the 4 seeds"]),
    ({f"{S}.seeds": 0}, [f"{S}.seeds = 0", "1 to 100"]),
    ({f"{S}.matched.longer": 2}, ["matched.longer = 2", "more than the 2 epochs"]),
    ({f"{S}.matched.attack": {"steps": 1, "step_size": 0.1}}, ["matched.attack", "left out"]),
    ({f"{S}.untrained": 0}, [f"{S}.untrained = 0", "at least 1"]),
    ({f"{S}.batch": 3}, [f"{S}.batch = 3", "at least 4"]),
    ({f"{S}.batch": 1000}, ["images", "two minibatches of 1000", "test images"]),
    ({f"{S}.images": 5000}, [f"{S}.images = 5000", "test images"]),
    ({f"{S}.layers": "convolutions"}, [f"{S}.layers 'convolutions'", "relu", "stages"]),
    ({f"{S}.second": ["cc"]}, [f"{S}.second 'cc'", "did you mean 'cca'"]),
    ({f"{S}.search.targeted": True}, ["targeted", "false"]),
    ({f"{S}.verify.targets": 10}, [f"{S}.verify.targets = 10", "less than the 10 classes"]),
    (runs(train=0), ["overfitting.train = 0", "at least 1"]),
    (runs(train=997), ["overfitting.train = 997", "less than the 997 training images"]),
    (runs(seeds=0), ["overfitting.seeds = 0"]),
    (runs(epochs=1.5), ["overfitting.epochs", "1.5", "whole number"]),
    (runs(kept_from=1.5), ["overfitting.kept_from = 1.5", "from 0 to 1"]),
    (runs(every=15), ["overfitting.every = 15", "two epochs to be kept"]),
    ({**runs(), "networks.data.holdout": 0}, ["data.holdout of representation_similarity = 0", "held-out images"]),
])
def test_bad_settings_are_one_sentence(overrides, words):
    with pytest.raises(SettingsError) as error:
        load(overrides)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_what_is_kept_lies_late_in_training_and_before_its_end():
    for every, start in itertools.product((1, 2), (0.0, 0.5, 0.8)):
        kept = load(runs(every=every, kept_from=start)).sections[S].overfitting.kept
        assert all(n % every == 0 and max(1, 20 * start) <= n < 20 for n in kept) and len(kept) >= 2
        assert [b - a for a, b in itertools.pairwise(kept)] == [every] * (len(kept) - 1)
