"""Verdicts and numbers in words, and readings, from results that were made up here."""

import re

import pytest

from lib import site as report
from lib.claims import sheet, verdict
from lib.site import words
from tests.site.made import asked, part


def test_the_page_knows_the_words_of_the_judge():
    assert {*words.VERDICTS} == {*verdict.WORST_FIRST, verdict.NOT_TESTED} and tuple(words.ASKS) == sheet.ASKS
    assert len({*words.VERDICTS.values()}) == len(words.VERDICTS), "verdicts are told apart without colour"


def brightness(colour: str) -> float:
    """The relative luminance of a colour such as #0a6640, by the Web Content Accessibility Guidelines."""
    shares = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_verdict_can_be_read_in_light_in_dark_and_on_paper():
    style = (words.TEMPLATES / "style.css").read_text()
    modes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})\b", block))
             for block in re.findall(r"(?s):root \{.*?\}", style.replace("#fff;", "#ffffff;"))]
    assert len(modes) == 3
    for colours in modes:
        for name in (one.replace(" ", "-") for one in words.VERDICTS):
            for ground in (colours[f"{name}-soft"], colours["page"]):
                dark, light = sorted((brightness(colours[name]), brightness(ground)))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


@pytest.mark.parametrize("value, text", [
    (0.12345, "0.123"), (-0.5, "−0.500"), (12.34, "12.3"), (1e-5, "1.0e−05"), (0, "0"), (2000, "2,000"), (None, "–"),
    (float("nan"), "–"), ("0.4 to 0.6", "0.4 to 0.6")])
def test_numbers(value, text):
    assert words.number(value) == text


def test_durations_and_drawing():
    texts = [words.duration(s) for s in (4.4, 61, 3599, 7300, None)]
    assert texts == ["4 s", "1 min", "1 h 00 min", "2 h 02 min", "–"]
    (at, missing, empty), marks = words.plot(
        [part(0.12, 0.08, 0.16), part(0.12, float("nan"), 0.16), part(None, None, None)])
    assert 0 < at["null"] < at["threshold"] < at["low"] < at["value"] < at["high"] < 240
    assert missing is empty is None
    assert [text for _, text in marks] == ["0", "0.05", "0.1", "0.15"] and marks[0][0] == at["null"]
    assert words.plot([part(None, None, None)]) == ([None], [])


def test_differences_of_accuracies_are_said_in_points_and_shares_in_percent():
    row = part(0.031, -0.0104, 0.072, statistic="difference")
    assert words.interval(row) == "+3.1 [−1.0, +7.2]" and words.needed(row) == "more than +2.0 points"
    assert words.needed(part(0, -0.01, 0.01, 0.03, "within", statistic="difference")) == "within ±3.0 points"
    assert words.interval(part(0.5, 0.4, 0.6, statistic="accuracy")) == "50.0 [40.0, 60.0]"


def test_one_comparison_has_one_scale():
    parts = [part(0.1, 0.05, 0.15, name="a: N→R at stem", what="more"),
             part(0.3, 0.2, 0.4, name="a: R→N at stem", what="more"),
             part(0, -0.01, 0.01, 0.03, "within", name="b: largest", what="equal")]
    nothing = part(0, 0, 0, what="not measured")
    smaller = [part(0.05, -0.1, 0.2, name="a: N→R at stem", what="more")]
    first, second, third = words.comparisons({"laptop": {"parts": parts, "asked": asked([*parts, nothing])},
                                              "smoke": {"parts": smaller, "asked": asked(smaller)}})
    assert third["asked"]["what"] == "not measured" and not third["runs"] and not third["marks"]
    assert first["asked"]["what"] == "more" and {run: len(found) for run, found in first["runs"].items()} == {
        "laptop": 2, "smoke": 1}
    places = [place for found in first["runs"].values() for _, place in found]
    assert len({place["threshold"] for place in places}) == 1, "runs are drawn to one scale"
    assert places[0]["wanted"] == [places[0]["threshold"], 240]
    (_, at), = second["runs"]["laptop"]
    assert at["wanted"] == [at["opposite"], at["threshold"]] and at["wanted"][0] < at["low"]


def test_readings_stand_beside_the_verdicts_they_were_written_for(results):
    (results.parent / "readings.yaml").write_text("""
laptop:
  stitching:
    C2: {verdict: contradicted, cause: claim, why: "a < b, whatever the seed"}
    C3: {verdict: contradicted, cause: seeds, why: written before the last run}
smoke: {stitching: {C3: {verdict: undecided, cause: size, why: of another profile}}}
""")
    report.index(results)
    second, third = ((results / "claims" / f"stitching-{key}.html").read_text() for key in ("C2", "C3"))
    assert "Our reading, it does not hold here:" in second and "a &lt; b, whatever the seed" in second
    assert "Our reading" not in third, "written for an earlier run and for another profile"
