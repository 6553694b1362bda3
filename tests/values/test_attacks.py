"""Attacks as values: names, keys, prices, and the tiers that go by a name."""

from dataclasses import replace

import pytest

from lib.errors import SettingsError
from lib.values.attacks import APGD, PGD, TIERS, AutoAttack, Square, fgsm, tier, tiers
from lib.values.keys import digest, plain
from lib.values.threats import Threat

LINF = Threat("linf", "8/255")


@pytest.mark.parametrize("attack, title", [
    (PGD(20, "2/255"), "PGD-20"), (PGD(50, "2/255", restarts=10), "PGD-50 (10 restarts)"), (fgsm(LINF), "FGSM"),
    (PGD(20, "2/255", loss="cw", random_start=False), "PGD-20 (CW, no random start)"),
    (PGD(20, "2/255", loss="cw", confidence=50), "PGD-20 (CW, confidence 50)"),
    (PGD(5, "2/255", targeted=True), "PGD-5 (targeted)"),
    (APGD(20, targets=3), "APGD-CE+T (20 steps, 3 targets)"), (APGD(20, targets=0), "APGD-CE (20 steps)"),
    (APGD(100, restarts=2, targets=1), "APGD-CE+T (100 steps, 1 target, 2 restarts)"), (AutoAttack(), "AutoAttack"),
    (Square(), "Square (5000 queries)"),
])
def test_titles(attack, title):
    assert attack.title == title


def test_what_was_stored_under_attacks_is_found_again():
    """Keys as they were before there were certificates."""
    attacks = [None, PGD(20, "2/255"), fgsm(LINF), APGD(20, targets=3), Square(), AutoAttack()]
    assert [digest([LINF, attack]) for attack in attacks] == [
        "2af740ecbbb3b0d5", "a2c5ec216820d640", "4f85b052be72d528", "0a7a636e40fb7c78", "674f3a5c59985284",
        "e513e4a08f382632"]


def test_a_confidence_leaves_old_keys_alone_and_is_only_for_margins():
    cw = PGD(20, "2/255", loss="cw")
    assert "confidence" not in plain(cw) and plain(replace(cw, confidence=0))["confidence"] == 0
    for change, words in (({"loss": "ce", "confidence": 50}, "must be null for the loss ce"),
                          ({"confidence": -1}, "at least 0"), ({"confidence": "50"}, "at least 0")):
        with pytest.raises(SettingsError, match=f"attack.confidence = .*{words}"):
            replace(cw, **change)


def test_prices_of_images_that_all_stand_or_all_fall():
    attacks = [PGD(20, "2/255", restarts=2), APGD(50, restarts=5, targets=0), APGD(), Square(), AutoAttack()]
    assert [attack.passes() for attack in attacks] == [81, 501, 2001, 5001, 9730]
    assert [attack.passes(0) for attack in attacks] == pytest.approx([5, 26, 101, 251, 486.5])


@pytest.mark.parametrize("name", TIERS)
def test_tiers_step_a_quarter_of_the_ball(name):
    attack = tier(name, LINF)
    assert attack == tier(name, Threat("linf", "16/255")) or str(attack.step_size) == "2/255"
    assert (attack is None) == (name == "clean")
    with pytest.raises(SettingsError, match="pgd20"):
        tier("pgd2", LINF)


def test_a_papers_list_of_attacks_goes_by_a_name():
    fast, ten, cw, apgd, last = tiers("harp", LINF)
    assert fast == fgsm(LINF) and ten == PGD(10, "2/255") and last == AutoAttack()
    assert cw == PGD(20, "2/255", loss="cw", confidence=50) and apgd == APGD(50, restarts=5, targets=0)
    assert tiers("pgd20", LINF) == (PGD(20, "2/255"),) and tiers("clean", LINF) == (None,)
    with pytest.raises(SettingsError, match="'haarp'.*did you mean 'harp'.*autoattack") as error:
        tiers("haarp", LINF)
    assert "\n" not in str(error.value)
