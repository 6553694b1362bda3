"""What every attack and every certificate must do. A new one is found by its base and needs a row in EXAMPLES."""

from dataclasses import dataclass

import pytest

from lib.attacks.pool import stages
from lib.certify.proof import proofs
from lib.errors import SettingsError
from lib.profiles.loader import make
from lib.values.attacks import APGD, PGD, Attack, AutoAttack, Square
from lib.values.certificates import Bounds, Certificate, Smoothing
from lib.values.keys import digest, kinds_of, plain
from lib.values.threats import Threat

LINF, L2, SNOW = Threat("linf", "8/255"), Threat("l2", "1/2"), Threat("snow", 1)

# By type a value, a threat that it is for, and one that it is not for.
EXAMPLES = {
    PGD: (PGD(20, "2/255", loss="cw", confidence=50, random_start=False), LINF, SNOW),
    APGD: (APGD(50, targets=3), L2, SNOW),
    Square: (Square(100), L2, Threat("linf", "8/255", box=False)),
    AutoAttack: (AutoAttack(), LINF, SNOW),
    Bounds: (Bounds("CROWN"), LINF, L2),
    Smoothing: (Smoothing(0.25, many=100), L2, LINF),
}


@dataclass(frozen=True)
class Section:
    """A section of a profile."""

    measure: Attack | Certificate


def table_of(base):
    return {Attack: stages, Certificate: proofs}[base]


@pytest.mark.parametrize("base, kind", [(base, kind) for base in (Attack, Certificate) for kind in kinds_of(base)])
def test_contract(base, kind):
    value, fits, does_not = EXAMPLES[kind]
    assert value.title and value.title == value.title.strip() and "\n" not in value.title
    prices = [value.passes(standing) for standing in (0, 0.5, 1)]
    assert prices[0] > 0 and prices == sorted(prices)
    assert (prices[0] == prices[2]) == (base is Certificate), "an attack stops at images that it has broken"
    value.check(fits)
    with pytest.raises(SettingsError, match="threat|attack"):
        value.check(does_not)
    assert callable(table_of(base)[value])
    read = make(Section, {"measure": plain(value)}, "section").measure
    assert read == value and type(read) is kind and digest(read) == digest(value)


def test_the_examples_are_those_that_there_are():
    assert {*EXAMPLES} == {*kinds_of(Attack), *kinds_of(Certificate)}


@pytest.mark.parametrize("base", [Attack, Certificate])
def test_what_is_forgotten_fails_loudly(base):
    said = {"title": property(lambda self: "half"), "passes": lambda self, *shares: 1, "check": lambda self, ball: None}
    for forgotten in said:
        half = type("Half", (base,), {name: method for name, method in said.items() if name != forgotten})
        with pytest.raises(TypeError, match=forgotten):
            half()
    with pytest.raises(TypeError, match="Whole has no"):
        table_of(base)[type("Whole", (base,), said)()]


def test_a_profile_that_names_no_measure_hears_which_there_are():
    with pytest.raises(SettingsError, match="PGB.*did you mean 'PGD'.*Smoothing"):
        make(Section, {"measure": {"type": "PGB"}}, "section")
