"""Certificates as values: names, keys, and the balls that they prove."""

import pytest

from lib.errors import SettingsError
from lib.values.certificates import Bounds, Smoothing
from lib.values.keys import digest
from lib.values.threats import NORMS, Threat

BALLS = {norm: Threat(norm, 1) for norm in NORMS}


def test_titles():
    assert Bounds().title == "interval bounds" and Bounds("CROWN-IBP").title == "CROWN-IBP bounds"
    assert Smoothing(0.25).title == "smoothing (sigma 0.25, 1000 samples, alpha 0.001)"


def test_certificates_have_keys_of_their_own():
    values = [Bounds(), Bounds("CROWN-IBP"), Bounds("CROWN"), Smoothing(0.25), Smoothing(0.5), Smoothing(0.25, few=10),
              Smoothing(0.25, many=100), Smoothing(0.25, alpha=0.01)]
    assert len({digest(value) for value in values}) == len({*values}) == len(values)
    assert Bounds() == Bounds("interval") and Smoothing(1) == Smoothing(1.0)
    assert digest(Smoothing(1)) == digest(Smoothing(1.0))


@pytest.mark.parametrize("make, said", [
    (lambda: Bounds("intervals"), "did you mean 'interval'"), (lambda: Bounds("crown"), "CROWN"),
    (lambda: Smoothing(0), "sigma = 0"), (lambda: Smoothing(True), "sigma = True"),
    (lambda: Smoothing(0.25, few=0), "few = 0"), (lambda: Smoothing(0.25, many=1.5), "many = 1.5"),
    (lambda: Smoothing(0.25, alpha=0), "alpha = 0"), (lambda: Smoothing(0.25, alpha=0.5), "alpha = 0.5"),
    (lambda: Smoothing(0.25, many=9), "many = 9"),
])
def test_impossible_certificates_are_refused(make, said):
    with pytest.raises(SettingsError, match=said):
        make()


def test_certificates_fit_their_balls_only():
    for threat, certificate in [(BALLS["linf"], Bounds("CROWN")), (BALLS["l2"], Smoothing(0.25, many=10)),
                                (Threat("l2", 1, box=False), Smoothing(0.25))]:
        certificate.check(threat)
    refused = [(threat, Bounds()) for norm, threat in BALLS.items() if norm != "linf"]
    refused += [(threat, Smoothing(0.25)) for norm, threat in BALLS.items() if norm != "l2"]
    refused += [(Threat("linf", 1, box=False), Bounds()), (Threat("l2", 1, per="batch"), Smoothing(0.25))]
    for threat, certificate in refused:
        with pytest.raises(SettingsError, match="threat"):
            certificate.check(threat)
