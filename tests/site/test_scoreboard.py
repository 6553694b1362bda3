"""The scoreboard, from results that were made up here."""

import json
import re

import numpy as np
import pytest

from lib import claims
from lib import site as report
from lib.claims import sheet, verdict
from lib.site import words
from tests.site.made import Page, asked, card, claim, part, write

CHECKS = [{"name": "networks are <trained>", "ok": True, "detail": "clean accuracy 91.0%"},
          {"name": "the attack can be trusted", "ok": False, "detail": "7 of 32 images fall to Square & co"}]


def plain(html: str) -> str:
    """The text of a piece of a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def row_of(page: Page, key: str, notebook: str = "stitching") -> str:
    """The scoreboard's row of a claim, as HTML."""
    return re.search(rf'(?s)<tr role="row" id="{notebook}-{key}">.*?</tr>', page.text)[0]


def board(folder, *claims, **more) -> Page:
    """The scoreboard of one notebook with these claims."""
    write(folder, "stitching", card(**more), claims)
    return Page(report.index(folder).read_text())


def test_scoreboard(results):
    page = Page(report.index(results).read_text())
    page.check_alone(results)
    assert "0.120 [0.080, 0.160]" in page.text and "−0.050" in page.text
    assert "a &lt; b" in page.text and "needs &lt;CIFAR-10&gt;" in page.text  # text is never taken for markup
    assert "4 of\n  all 6 verdicts are decisions" in page.text and "at most about 0.1 of them" in page.text
    assert "cpu: x86_64" in page.text and "0123456789ab" in page.text and "13 min" in page.text
    assert "R→N minus untrained: 0.110, 0.130, 0.120" in page.text and "repetitions: 3 (seeds 100 to 102)" in page.text
    assert "./run_all.sh --profile laptop -p stitching.epochs=3 stitching" in page.text
    assert "./run_all.sh again --profile laptop KEY" in page.text
    outside = [link for link in page.links if not link.startswith("#")]
    assert {"stitching/notebook.html", "stitching/tables/cells.csv", "stitching/figures/curves.png"} <= set(outside)
    assert all((results / link).is_file() for link in outside)


def test_the_page_knows_the_words_of_the_judge():
    assert {*words.VERDICTS} == {*verdict.WORST_FIRST, verdict.NOT_TESTED} and tuple(words.ASKS) == sheet.ASKS
    assert len({*words.VERDICTS.values()}) == len(words.VERDICTS), "verdicts are told apart without colour"


def test_the_page_takes_what_the_judge_writes(tmp_path):
    judged = []
    for number, (values, failed) in enumerate((([.1, .11, .12], False), ([.1, .11, .12], True), ([.3], False),
                                               (None, False))):
        one = sheet.Claim(f"C{number}", "A statement.", sheet.ASKS[number % 3], 0.4, "Fig. 1", "PGD-20", ("smoke",),
                          (sheet.Part("gap", "robust minus normal", "seeds", "above", .02, 0),))
        evidence = {"gap": {"linf": np.array(values)}} if values else {}
        judged.append(claims.judge(one, evidence, "smoke", [{"name": "trained", "ok": not failed, "detail": "9 %"}]))
    place = write(tmp_path, "stitching", card(), [])
    claims.save(judged, place / "claims.json")
    page = Page(report.index(tmp_path).read_text())
    said = [plain(re.search(r'(?s)<td role="cell">(.*?)(<p|</td>)', row_of(page, f"C{n}"))[1]) for n in range(4)]
    assert said == ["✓ supported", "– not tested withheld: ✓ supported", "? undecided", "– not tested"]
    assert "0.300 " in plain(row_of(page, "C2")) and "fewer than 3 decide nothing" in row_of(page, "C2")


def test_counts_are_apart_by_whose_question_it_is(tmp_path):
    verdicts = ["supported", "supported", "weak", "contradicted"]
    write(tmp_path, "harp_pruning", card(), [claim("C1", "supported"), claim("C2", "absent", asks="control")])
    page = board(tmp_path, *(claim(f"C{n}b", one, asks="ours") for n, one in enumerate(verdicts)),
                 *(claim(f"C{n}a", one) for n, one in enumerate(verdicts)))
    tally = re.search(r'(?s)<ul class="tally">(.*?)</ul>', page.text)[1]
    assert [plain(line) for line in tally.split("</li>")] == [
        "Claims of the papers: 5 ✓ 3 supported ~ 1 weak ✗ 1 contradicted", "Controls: 1 ∅ 1 absent",
        "Our own questions: 4 ✓ 2 supported ~ 1 weak ✗ 1 contradicted", ""]
    stitching = page.text[page.text.index('<section id="stitching">'):]
    assert [plain(line) for line in re.findall(r'<tr role="row" class="group">.*?</tr>', stitching)] == [
        "Claims of the paper: 4 ✓ 2 supported ~ 1 weak ✗ 1 contradicted",
        "Our own questions: 4 ✓ 2 supported ~ 1 weak ✗ 1 contradicted"]
    assert stitching.index("Statement of C3a") < stitching.index("Statement of C0b"), "the paper's claims stand first"


@pytest.mark.parametrize("word", words.VERDICTS)
def test_a_verdict_has_its_word_its_symbol_and_its_colour(tmp_path, word):
    one = part(0.03, 0.01, 0.05, verdict=word)
    row = row_of(board(tmp_path, claim("C1", word, [one] if word != "not tested" else [])), "C1")
    badge, = re.findall(r'<span class="badge ([a-z-]+)">(.*?)\n?</span>\n', row)
    assert badge[0] == word.replace(" ", "-") and plain(badge[1]) == f"{words.VERDICTS[word]} {word}"
    if word != "not tested":
        assert f'<span class="mark {word}"><span aria-hidden="true">{words.VERDICTS[word]}</span> {word}</span>' in row


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


def test_a_withheld_verdict_is_shown_as_such_with_the_preconditions(tmp_path):
    rows = [part(0.12, 0.08, 0.16)]
    page = board(tmp_path, claim("C1", "not tested", rows, withheld="supported", preconditions=CHECKS,
                                 reason="Precondition not met: the attack can be trusted (7 of 32)."),
                 claim("C2", "not tested", rows, withheld="undecided", at_best="weak", preconditions=CHECKS),
                 claim("C3", "supported", rows, preconditions=CHECKS[:1]))
    first, second, third = (row_of(page, key) for key in ("C1", "C2", "C3"))
    assert "– not tested withheld: ✓ supported" in plain(first) and 'class="badge supported"' not in first
    assert "withheld: ? undecided , at best weak" in plain(second)
    assert "Why not tested: a precondition failed" in plain(first)
    assert "✗ fails: the attack can be trusted : 7 of 32 images fall to Square &amp; co" in plain(first)
    assert "Preconditions: 1 of 2 hold" in first and "networks are &lt;trained&gt;: clean accuracy 91.0%" in first
    assert '<ul class="parts not-counted">' in first and '<ul class="parts">' in third
    assert "Preconditions: 1 of 1 hold" in third and 'class="checks"' not in third
    assert "– 2 not tested" in plain(page.text), "a withheld verdict is not counted"


def test_undecided_at_best_weak(tmp_path):
    page = board(tmp_path, claim("C1", "undecided", [part(0.01, 0.005, 0.015, verdict="weak")], at_best="weak"))
    assert "? undecided, at best weak" in plain(row_of(page, "C1"))


@pytest.mark.parametrize("one, said", [
    (part(0.031, 0.025, 0.04, statistic="difference"), "needed: more than +2.0 points · no effect: 0 points"),
    (part(0.5, 0.4, 0.6, 0.9, "below", statistic="ratio", null_value=1), "needed: less than 0.9 · no effect: 1"),
    (part(0.85, 0.82, 0.9, 0.8, null_value=None), "needed: more than 0.8 · a bar"),
    (part(0, -0.01, 0.01, 0.03, "within", statistic="difference"), "needed: within ±3.0 points"),
])
def test_a_comparison_says_what_it_needs_and_what_counts_as_no_effect(tmp_path, one, said):
    row = row_of(board(tmp_path, claim("C1", "supported", [one])), "C1")
    assert plain(re.search(r'<span class="need">.*?</p>', row)[0]) == said
    assert ('class="null"' in row) == (one["null_value"] is not None)
    assert row.count('class="threshold"') == (2 if one["side"] == "within" else 1)


def test_who_asks_stands_with_the_statement(tmp_path):
    page = board(tmp_path, claim("C1a", "supported"), claim("C1b", "supported", asks="control", paper_source="our <b>"),
                 claim("C1c", "supported", asks="ours", paper_value=None))
    for key, said in (("C1a", "Claim of the paper: 0.93 · Fig. 3"), ("C1b", "Control: our &lt;b&gt;"),
                      ("C1c", "Our own question: Fig. 3")):
        head = plain(row_of(page, key).split("</th>")[0])
        assert head.startswith(f"{key} Statement of {key} with a &lt; b") and said in head


def test_warnings_stand_where_they_touch(tmp_path):
    warnings = [{"sentence": "zero <gradients>", "claims": ["C1"]}, {"sentence": "survivors", "claims": []},
                {"sentence": "the attack is weak", "claims": None}]
    page = board(tmp_path, claim("C1", "supported"), claim("C2", "supported"), warnings=warnings)
    head = re.search(r'(?s)<ul class="warnings">(.*?)</ul>', page.text)[1]
    assert [plain(line) for line in head.split("</li>")][:2] == [
        "Warning: survivors; touches no claim", "Warning: the attack is weak; touches all claims"]
    assert "Warning: zero &lt;gradients&gt;" in plain(row_of(page, "C1"))
    assert page.text.count("zero &lt;gradients&gt;") == 1 and "Warning" not in row_of(page, "C2")


def test_repetitions_without_a_number_are_shown_as_missing(results):
    with (results / "stitching" / "tables" / "evidence.csv").open("a") as file:
        for seed, value in enumerate(("", "0.5", "inf")):
            file.write(f"\nC2,difference,R→N minus untrained,ratio,{seed},{value},1")
    page = Page(report.index(results).read_text())
    assert "R→N minus untrained: –, 0.500, –" in page.text


def test_scoreboard_of_failed_notebooks(results):
    page = Page(report.index(results).read_text())
    assert "SettingsError: no &lt;data&gt;" in page.text and "Notebooks that failed: 2" in page.text
    assert {"harp_pruning/notebook.html", "killed/notebook.html"} <= set(page.links)
    # claims of an earlier run say nothing about this one
    assert "Statement of H1" not in page.text and "Statement of K1" not in page.text
    assert "not-a-notebook" not in page.text


def test_scoreboard_of_nothing_and_of_damaged_files(tmp_path):
    assert "No notebook has been run" in report.index(tmp_path).read_text()
    (tmp_path / "stitching").mkdir()
    (tmp_path / "stitching" / "card.json").write_text('{"status": "o')
    assert "Notebooks that failed" in report.index(tmp_path).read_text()
    assert not list(tmp_path.glob(".*")), "no half-written file is left"


def test_figures_are_shown_from_where_they_lie(results):
    (results / "stitching" / "figures" / "atlas.pdf").write_bytes(b"%PDF")
    claims = [claim("C1", "supported"), claim("C2", "supported"), claim("C3", "supported", figure="atlas.pdf")]
    (results / "stitching" / "claims.json").write_text(json.dumps(claims))
    page = Page(report.index(results).read_text())
    assert [address for address in page.loaded if "stitching" in address] == ["stitching/figures/curves.png"], "once"
    assert "image/png" not in page.text
    assert {"stitching/figures/curves.png", "stitching/figures/atlas.pdf"} <= {*page.links}


@pytest.mark.parametrize("value, text", [
    (0.12345, "0.123"), (-0.5, "−0.500"), (12.34, "12.3"), (1e-5, "1.0e−05"), (0, "0"), (2000, "2,000"), (None, "–"),
    (float("nan"), "–"), ("0.4 to 0.6", "0.4 to 0.6")])
def test_numbers(value, text):
    assert words.number(value) == text


def test_durations_and_drawing():
    texts = [words.duration(s) for s in (4.4, 61, 3599, 7300, None)]
    assert texts == ["4 s", "1 min", "1 h 00 min", "2 h 02 min", "–"]
    at, missing, empty = words.plot(
        [part(0.12, 0.08, 0.16), part(0.12, float("nan"), 0.16), part(None, None, None)])
    assert 0 < at["null"] < at["threshold"] < at["low"] < at["value"] < at["high"] < 120
    assert missing is empty is None


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
    first, second, third = words.comparisons({"parts": parts, "asked": asked([*parts, nothing])})
    assert third["asked"]["what"] == "not measured" and not third["parts"] and not third["places"]
    assert first["asked"]["what"] == "more" and len(first["parts"]) == 2
    assert first["places"][0]["threshold"] == first["places"][1]["threshold"]
    assert first["places"][0]["wanted"] == [first["places"][0]["threshold"], 120]
    at = second["places"][0]
    assert at["wanted"] == [at["opposite"], at["threshold"]] and at["wanted"][0] < at["low"]


def test_readings_stand_beside_the_verdicts_they_were_written_for(results):
    (results.parent / "readings.yaml").write_text("""
laptop:
  stitching:
    C2: {verdict: contradicted, cause: claim, why: "a < b, whatever the seed"}
    C3: {verdict: contradicted, cause: seeds, why: written before the last run}
smoke: {stitching: {C3: {verdict: undecided, cause: size, why: of another profile}}}
""")
    page = report.index(results).read_text()
    assert "Our reading, it does not hold here:" in page and "a &lt; b, whatever the seed" in page
    assert "before the last run" not in page and "another profile" not in page
