"""Warnings and the claims that they touch, on made-up outcomes of three networks."""

import numpy as np
import pytest

from lib.claims.doubts import alike, touched
from lib.results import Results
from tests.kit.worlds import outcomes

SURVIVE, SQUARE, WRONG = "3 of 128 images survive", "Square breaks 7 of 32", "5 of 9 images have no finite logits"


@pytest.fixture
def made():
    """Networks a, b and c: a search and a verifying attack on each; c also alone, without an attack."""
    found = Results(None, None, None, cells=[])
    for name in "abc":
        found.outcomes[name] = {measure: outcomes(100, (name, measure), clean=.9, robust=.5)
                                for measure in ("search", "verify")}
    found.outcomes["c"]["clean"] = outcomes(100, ("c",), clean=.9)
    return found


def evidence(f):
    def mean(name, measure, column="robust"):
        return np.array([f.outcomes[name][measure].table[column].mean()])

    return {"C1": {"clean": {"a": mean("a", "verify", "clean"), "c": mean("c", "clean", "clean")}},
            "C2": {"gap": {"a": mean("a", "verify") - mean("b", "verify")}},
            "C3": {"share": {"c": mean("c", "search") / mean("c", "search")}},
            "C4": {} if mean("b", "search") < 0.1 else {"left": {"b": np.array([np.nan])}}}


@pytest.mark.parametrize("name, measure, warning, claims", [
    ("a", "verify", SURVIVE, ["C2"]), ("a", "search", SURVIVE, []), ("b", "verify", SQUARE, ["C2"]),
    ("b", "search", SQUARE, ["C4"]), ("c", "search", SURVIVE, ["C3"]), ("c", "verify", SURVIVE, []),
    ("c", "clean", WRONG, ["C1"])])
def test_a_warning_touches_the_claims_whose_evidence_rests_on_its_outcomes(made, name, measure, warning, claims):
    made.outcomes[name][measure].warnings.append(warning)
    assert touched(made, evidence) == {alike(warning): claims}
    assert made.outcomes["a"]["verify"].accuracy("robust") == .5, "the results stay as they are"


def test_warnings_that_differ_in_numbers_only_are_one(made):
    made.outcomes["a"]["verify"].warnings.append("3 of 128 images survive")
    made.outcomes["c"]["search"].warnings += ["13 of 128 images survive", SQUARE]
    assert touched(made, evidence) == {"# of # images survive": ["C2", "C3"], "Square breaks # of #": ["C3"]}


def test_without_warnings_nothing_is_computed(made):
    assert touched(made, lambda f: pytest.fail("no evidence is needed")) == {}


def test_evidence_on_several_sets_of_images_is_compared_set_by_set(made):
    def several(f):
        robust = f.outcomes["a"]["verify"].table["robust"].to_numpy(float)
        return {"C1": {"gap": {"all": (robust[None], np.ones((1, 7)))}},
                "C2": {"gap": {"all": (np.ones((1, 5)), robust * 0)}}}

    made.outcomes["a"]["verify"].warnings.append(SURVIVE)
    assert touched(made, several) == {alike(SURVIVE): ["C1"]}
