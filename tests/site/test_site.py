"""The site: its pages, links, counts and table, from results that were made up here and from the published ones."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from lib import claims
from lib import site as report
from lib.claims import sheet
from lib.claims.verdict import asked
from lib.runtime import ROOT
from lib.site import documents, words
from lib.site.measures import ACCURACIES, STATISTICS, Measure
from lib.statistics import STATISTICS as KNOWN
from tests.site.made import Page, card, claim, part, write

CHECKS = [{"name": "networks are <trained>", "ok": True, "detail": "clean accuracy 91.0%"},
          {"name": "the attack can be trusted", "ok": False, "detail": "7 of 32 images fall to Square & co"}]


def plain(html: str) -> str:
    """The text of a piece of a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def page(root, name="index.html") -> Page:
    return Page((root / name).read_text(encoding="utf-8"))


def page_of(root, key, notebook="stitching") -> Page:
    return page(root, f"claims/{notebook}-{key}.html")


def outcome(shown: Page) -> str:
    """The verdicts at the top of a claim's page."""
    return plain(re.search(r'(?s)<ul class="outcome">(.*?)</ul>', shown.text)[1])


def made(folder, *found, **more) -> Path:
    """The site of one notebook with these claims; returns its folder."""
    write(folder, "stitching", card(**more), found)
    return report.index(folder).parent


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The site over the published runs, made anew in a copy of them."""
    place = tmp_path_factory.mktemp("site")
    root = place / "results" / "reference"
    shutil.copytree(ROOT / "results" / "reference", root)
    for name in ("docs", "claims"):  # to which documents link
        (place / name).symlink_to(ROOT / name)
    report.published(root)
    return root


def check_links(root: Path) -> None:
    """Every link and picture of every page that the site wrote leads to a file, an anchor to its place."""
    ids = {}
    own = [path for path in root.rglob("*.html") if path.name != "notebook.html"]
    for path in own:
        shown = Page(path.read_text(encoding="utf-8"))
        for address in {*shown.links, *shown.loaded} - {"data:,"}:
            url = urlsplit(address)
            if url.scheme:
                assert url.scheme in ("http", "https") and address not in shown.loaded, (path, address)
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), (path, address)
            if url.fragment and target.suffix == ".html" and target.name != "notebook.html" and "=" not in url.fragment:
                if target not in ids:
                    ids[target] = Page(target.read_text(encoding="utf-8")).ids
                assert url.fragment in ids[target], (path, address)


def test_every_link_of_the_published_site_arrives(published):
    check_links(published)
    assert max(path.stat().st_size for path in published.rglob("*.html") if path.name != "notebook.html") < 2e6
    for run in ("smoke", "laptop"):  # where the pages of notebooks lead
        assert page(published, f"{run}/index.html").links == ["../index.html"]


def test_every_link_of_a_run_s_site_arrives(results):
    (results / "stitching" / "figures" / "atlas of all.pdf").write_bytes(b"%PDF")
    found = json.loads((results / "stitching" / "claims.json").read_text())
    found[1]["figure"] = "atlas of all.pdf"
    (results / "stitching" / "claims.json").write_text(json.dumps(found))
    report.index(results)
    check_links(results)
    shown = page_of(results, "C2")
    assert "../stitching/figures/atlas%20of%20all.pdf" in shown.links and len(shown.loaded) == 2, "no picture"
    assert "../stitching/figures/curves.png" in page_of(results, "C1a").loaded


def test_a_folder_may_be_relative(results, monkeypatch):
    monkeypatch.chdir(results.parent)
    assert report.index(Path(results.name)) == results / "index.html"
    check_links(results)


def test_a_number_in_a_table_of_verdicts_leads_to_its_repetitions(published):
    for path in [published / "claims.html", *published.glob("claims/*-C*.html")]:
        text = path.read_text(encoding="utf-8")
        for table in re.findall(r'(?s)<table class="[^"]*\bverdicts\b.*?</table>', text):
            cells = re.findall(r"(?s)<td\b.*?</td>", re.sub(r"(?s)<svg.*?</svg>", "", table))
            bare = [re.sub(r'(?s)<a\b.*?</a>|<span class="need">.*?</span>', "", cell) for cell in cells]
            assert not [cell for cell in bare if re.search(r"\d", plain(cell))], path
    judged = json.loads((published / "laptop" / "stitching" / "claims.json").read_text(encoding="utf-8"))
    for one in judged:
        text = page_of(published, one["id"]).text
        for count, row in enumerate(one["parts"], 1):
            said, name = f"{words.interval(row)}{words.unit(row)}", row["name"].replace("->", "→")
            assert re.search(rf'<a class="number" href="#laptop-{count}"[^>]*>{re.escape(said)}</a>', text)
            assert f'<tr id="laptop-{count}"><th scope="row">{name}</th>' in text


def test_the_table_of_everything_holds_every_comparison(published):
    with (published / "claims.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    every = [(path, one) for path in published.glob("*/*/claims.json")
             for one in json.loads(path.read_text(encoding="utf-8"))]
    assert len(rows) == sum(max(len(one["parts"]), 1) for _, one in every)
    for path, one in every:
        mine = [row for row in rows
                if (row["run"], row["paper"], row["claim"]) == (path.parts[-3], path.parts[-2], one["id"])]
        assert {(row["verdict"], row["asks"]) for row in mine} == {(one["verdict"], one["asks"])}
        for row, judged in zip(mine, one["parts"], strict=False):
            assert float(row["value"]) == judged["value"] and float(row["needed"]) == judged["threshold"]
            assert row["null"] == ("" if judged["null_value"] is None else str(judged["null_value"]))
            assert row["verdict of the comparison"] == judged["verdict"]
        assert (published / mine[0]["page"]).is_file()


def test_the_front_page_counts_whose_question_apart_and_its_numbers_lead_to_these_claims(published):
    shown = page(published)
    rows = re.findall(r"(?s)<tr role=\"row\" id.*?</tr>", page(published, "claims.html").text)
    told = re.findall(r'href="claims\.html#([^"]+)"><span aria-hidden="true">.</span> <b>(\d+)</b> ([a-z ]+)</a>',
                      shown.text)
    assert len(told) > 40
    for query, count, verdict in told:
        wanted = {name: value for name, (value,) in parse_qs(query.replace("&amp;", "&")).items()}
        assert wanted["verdict"] == verdict
        found = [row for row in rows if data(row, "paper") == wanted.get("paper", data(row, "paper"))
                 and data(row, "asks") == wanted["asks"]
                 and json.loads(data(row, "verdicts")).get(wanted["run"]) == verdict]
        assert len(found) == int(count), query


def data(row: str, name: str) -> str:
    """The value of a row's attribute data-..., by which it is filtered."""
    return re.search(rf'data-{name}="([^"]*)"', row)[1].replace("&#34;", '"')


def test_the_front_page_gives_question_answer_picture_and_corrections(published):
    shown = page(published)
    for paper, one in report.answers(published).items():
        article = re.search(rf'(?s)<article class="paper" id="{paper}">.*?</article>', shown.text)[0]
        assert all(text in plain(article).replace("&#39;", "'") for text in (one.question, one.answer, one.gates))
        assert (published / one.picture).is_file() and one.picture in article and one.shows
        run = next(run for run in ("laptop", "smoke") if (published / run / paper).is_dir())
        assert {f"{run}/{paper}/notebook.html", f"claims/{paper}.html"} <= {*Page(article).links}
    assert "2026-11-29: verdicts judged anew" in shown.text
    assert "corrections.html#2026-11-29-what-readme-readings-and-notebooks-said" in shown.links


def test_an_outdated_answer_is_left_out_and_that_is_said(tmp_path):
    write(tmp_path / "laptop", "stitching", card(), [claim("C1a", "supported")])
    (tmp_path / "answers.yaml").write_text("""
stitching:
  question: Is it so?
  claim: They say that it is.
  answer: It is.
  gates: ""
  rests: {laptop: {C1a: weak}}
  picture: x.png
  shows: It is so.
""")
    report.published(tmp_path)
    text = page(tmp_path).text
    assert "Is it so?" in text and "It is." not in text and "x.png" not in text
    assert "stitching C1a is supported at laptop, the answer rests on weak" in text


def test_a_run_of_one_s_own_has_counts_without_answers(results):
    (results.parent / "answers.yaml").write_text("stitching: {}")
    report.index(results)
    shown = page(results)
    article = plain(re.search(r'(?s)<article class="paper" id="stitching">.*?</article>', shown.text)[0])
    assert "✓ 1 supported ✗ 1 contradicted ? 1 undecided – 1 not tested" in article
    assert "Not the paper’s: our controls 1 weak ; our own questions 1 absent" in article
    assert "4 of 6 verdicts are decisions" in plain(shown.text) and "at most about 0.1 of them" in plain(shown.text)
    assert "cpu: x86_64" in shown.text and "0123456789ab" in shown.text


def test_counts_are_apart_by_whose_question_it_is(tmp_path):
    verdicts = ["supported", "supported", "weak", "contradicted"]
    write(tmp_path, "harp_pruning", card(), [claim("C1", "supported"), claim("C2", "absent", asks="control")])
    made(tmp_path, *(claim(f"C{n}b", one, asks="ours") for n, one in enumerate(verdicts)),
         *(claim(f"C{n}a", one) for n, one in enumerate(verdicts)))
    totals = re.search(r'(?s)<table class="totals">.*?</table>', page(tmp_path).text)[0]
    assert [plain(line) for line in re.findall(r'<tr><th scope="row">.*?</tr>', totals)] == [
        "Claims of the papers ✓ 3 supported ~ 1 weak ✗ 1 contradicted", "Controls ∅ 1 absent",
        "Our own questions ✓ 2 supported ~ 1 weak ✗ 1 contradicted"]
    order = re.findall(r'<tr role="row" id="(.*?)"', page(tmp_path, "claims.html").text)
    assert order[:4] == [f"stitching-C{n}a" for n in range(4)], "the paper's claims stand first"
    assert page_of(tmp_path, "C3a").links.count("stitching-C0b.html") == 2, "next"


def test_the_pages_take_what_the_judge_writes(tmp_path):
    judged = []
    for number, (values, failed) in enumerate((([.1, .11, .12], False), ([.1, .11, .12], True), ([.3], False),
                                               (None, False))):
        one = sheet.Claim(f"C{number}", "A statement.", sheet.ASKS[number % 3], 0.4, "Fig. 1", "PGD-20", ("smoke",),
                          (sheet.Part("gap", "robust minus normal", "seeds", "above", .02, 0),))
        evidence = {"gap": {"linf": np.array(values)}} if values else {}
        judged.append(claims.judge(one, evidence, "smoke", [{"name": "trained", "ok": not failed, "detail": "9 %"}]))
    place = write(tmp_path, "stitching", card(), [])
    claims.save(judged, place / "claims.json")
    report.index(tmp_path)
    said = [outcome(page_of(tmp_path, f"C{n}")) for n in range(4)]
    run = tmp_path.name
    assert said == [f"{run} ✓ supported", f"{run} – not tested (withheld: supported)", f"{run} ? undecided",
                    f"{run} – not tested"]
    assert "0.300" in page_of(tmp_path, "C2").text and "fewer than 3 decide nothing" in page_of(tmp_path, "C2").text
    assert "not measured" in page_of(tmp_path, "C3").text


@pytest.mark.parametrize("word", words.VERDICTS)
def test_a_verdict_has_its_word_its_symbol_and_its_colour(tmp_path, word):
    one = part(0.03, 0.01, 0.05, verdict=word)
    text = page_of(made(tmp_path, claim("C1", word, [one] if word != "not tested" else [])), "C1").text
    colour, said = re.search(r'<span class="badge ([a-z-]+)">(.*?)</span></a>', text).groups()
    assert colour == word.replace(" ", "-") and plain(said) == f"{words.VERDICTS[word]} {word}"
    if word != "not tested":
        assert f'<span class="mark {word}"><span aria-hidden="true">{words.VERDICTS[word]}</span> {word}</span>' in text


def test_a_withheld_verdict_is_shown_as_such_with_the_preconditions(tmp_path):
    rows = [part(0.12, 0.08, 0.16)]
    made(tmp_path, claim("C1", "not tested", rows, withheld="supported", preconditions=CHECKS,
                         reason="Precondition not met: the attack can be trusted (7 of 32)."),
         claim("C2", "not tested", rows, withheld="undecided", at_best="weak", preconditions=CHECKS),
         claim("C3", "supported", rows, preconditions=CHECKS[:1]))
    first, second, third = (page_of(tmp_path, key).text for key in ("C1", "C2", "C3"))
    assert "– not tested (withheld: supported)" in plain(first) and 'class="badge supported"' not in first
    assert "not tested (withheld: undecided, at best weak)" in plain(second)
    assert "Why not tested: a precondition failed" in plain(first)
    assert "✗ fails: the attack can be trusted : 7 of 32 images fall to Square &amp; co" in plain(first)
    assert "Preconditions: 1 of 2 hold" in first and "networks are &lt;trained&gt;: clean accuracy 91.0%" in first
    assert '<tbody class="not-counted">' in first and '<tbody class="not-counted">' not in third
    assert "Preconditions: 1 of 1 hold" in third and 'class="checks"' not in third
    assert "– 2 not tested" in plain(page(tmp_path).text), "a withheld verdict is not counted"


def test_undecided_at_best_weak(tmp_path):
    made(tmp_path, claim("C1", "undecided", [part(0.01, 0.005, 0.015, verdict="weak")], at_best="weak"))
    assert "? undecided, at best weak" in plain(page_of(tmp_path, "C1").text)


@pytest.mark.parametrize("one, said", [
    (part(0.031, 0.025, 0.04, statistic="difference"), "needed: more than +2.0 points · no effect: 0 points"),
    (part(0.5, 0.4, 0.6, 0.9, "below", statistic="ratio", null_value=1), "needed: less than 0.9 · no effect: 1"),
    (part(0.85, 0.82, 0.9, 0.8, null_value=None), "needed: more than 0.8 · a bar"),
    (part(0, -0.01, 0.01, 0.03, "within", statistic="difference"), "needed: within ±3.0 points"),
])
def test_a_comparison_says_what_it_needs_and_what_counts_as_no_effect(tmp_path, one, said):
    text = page_of(made(tmp_path, claim("C1", "supported", [one])), "C1").text
    assert plain(re.search(r'<span class="need">.*?</span>', text)[0]) == said
    assert ('class="null"' in text) == (one["null_value"] is not None)
    assert text.count('class="threshold"') == (2 if one["side"] == "within" else 1)


def test_a_claim_says_whose_question_it_is_and_what_the_paper_says(tmp_path):
    made(tmp_path, claim("C1a", "supported"), claim("C1b", "supported", asks="control", paper_source="our <b>"),
         claim("C1c", "supported", asks="ours", paper_value=None))
    for key, who, said in (("C1a", "Claim of the paper", "0.93 · Fig. 3"), ("C1b", "Control", "0.93 · our &lt;b&gt;"),
                           ("C1c", "Our own question", "Fig. 3")):
        text = plain(page_of(tmp_path, key).text)
        assert f"{key} · {who} Statement of {key} with a &lt; b" in text and f"The paper {said}" in text


def test_the_runs_of_a_claim_stand_next_to_each_other(tmp_path):
    for run, verdict in (("smoke", "weak"), ("laptop", "supported")):
        write(tmp_path / run, "stitching", card(profile=run), [claim("C1a", verdict, [part(0.12, 0.08, 0.16)])])
    write(tmp_path / "laptop", "harp_pruning", card(), [claim("C2", "absent")])
    report.published(tmp_path)
    text = page_of(tmp_path, "C1a").text
    assert outcome(page_of(tmp_path, "C1a")) == "laptop ✓ supported smoke ~ weak"
    assert text.count('<table class="forest') == 1 and '<tr id="smoke-1">' in text and '<tr id="laptop-1">' in text
    assert "./run_all.sh --profile smoke -p stitching.epochs=3 stitching" in text
    rows = re.findall(r'(?s)<tr role="row" id.*?</tr>', page(tmp_path, "claims.html").text)
    assert [json.loads(data(row, "verdicts")) for row in rows] == [{"laptop": "supported", "smoke": "weak"},
                                                                    {"laptop": "absent"}]
    check_links(tmp_path)


def test_a_page_shows_todays_wording_and_names_another_that_a_run_judged(tmp_path):
    worded = next(one for one in claims.load("stitching").claims if one.id == "C1a").statement
    write(tmp_path / "smoke", "stitching", card(profile="smoke"), [{**claim("C1a", "weak"), "statement": worded}])
    write(tmp_path / "laptop", "stitching", card(), [claim("C1a", "supported")])
    report.published(tmp_path)
    shown = page_of(tmp_path, "C1a").text
    heading, = re.findall(r"(?s)<h1>(.*?)</h1>", shown)
    smoke, laptop = (re.search(rf'(?s)<section id="{run}">(.*?)</section>', shown)[1] for run in ("smoke", "laptop"))
    assert plain(heading) == worded
    assert "Judged in an earlier form: “Statement of C1a" in laptop and "an earlier form" not in smoke


def test_claims_that_a_run_judged_in_an_earlier_form_are_marked_and_counted(tmp_path):
    today = {one.id: one for one in claims.load("stitching").claims}

    def as_today(name, **more):
        one = today[name]
        return {**claim(name, "supported"), "statement": one.statement, "protocol": one.protocol,
                "asked": [asked(part) for part in one.parts], **more}

    write(tmp_path / "smoke", "stitching", card(profile="smoke"), [as_today("C1a"), as_today("C2a")])
    write(tmp_path / "laptop", "stitching", card(), [
        as_today("C1a"), as_today("C2a", protocol="Another."), as_today("C3a", asked=[]),
        as_today("C1b", statement="Another."), claim("C99", "supported")])
    report.published(tmp_path)
    front = page(tmp_path, "index.html").text
    assert "4 of these claims have been corrected" in front
    assert "4 of its 5 claims" in front and "of its 2 claims" not in front
    notes = {name: plain(page_of(tmp_path, name).text) for name in ("C1a", "C1b", "C2a", "C3a", "C99")}
    corrected = "What is compared, its margin or its protocol has been corrected since."
    assert [name for name, text in notes.items() if corrected in text] == ["C2a", "C3a"]
    assert "Judged in an earlier form: “Another.”" in notes["C1b"]
    assert "This claim has been replaced since." in notes["C99"]
    assert "earlier form" not in notes["C1a"] and "since." not in notes["C1a"]


def test_a_wording_that_a_profile_keeps_is_no_earlier_form_there(tmp_path):
    one = next(one for one in claims.load("harp_pruning", "smoke") if one.until)
    shown = {**claim(one.id, "weak"), "statement": one.statement, "protocol": one.protocol,
             "asked": [asked(part) for part in one.parts]}
    for run in ("smoke", "laptop"):
        write(tmp_path / run, "harp_pruning", card(profile=run), [shown])
    report.published(tmp_path)
    text = page_of(tmp_path, one.id, "harp_pruning").text
    smoke, laptop = (re.search(rf'(?s)<section id="{run}">(.*?)</section>', text)[1] for run in ("smoke", "laptop"))
    assert "replaced since" in laptop and "since" not in smoke


def test_the_front_page_says_that_no_run_has_a_paper_s_own_scale_unless_one_has(tmp_path):
    for run, seeds in (("smoke", 3), ("laptop", 5)):
        write(tmp_path / run, "stitching", card(profile=run, seeds=seeds), [claim("C1a", "weak")])
    report.published(tmp_path)
    said = "networks are small, images few and repetitions 3 to 5"
    assert said in page(tmp_path, "index.html").text
    write(tmp_path / "paper", "stitching", card(profile="paper", seeds=3), [claim("C1a", "weak")])
    report.published(tmp_path)
    assert said not in page(tmp_path, "index.html").text


def test_warnings_stand_where_they_touch(tmp_path):
    warnings = [{"sentence": "zero <gradients>", "claims": ["C1"]}, {"sentence": "survivors", "claims": []},
                {"sentence": "the attack is weak", "claims": None}]
    made(tmp_path, claim("C1", "supported"), claim("C2", "supported"), warnings=warnings)
    first, second, every = (plain(page(tmp_path, f"{name}.html").text)
                            for name in ("claims/stitching-C1", "claims/stitching-C2", "networks"))
    assert "Warning: zero &lt;gradients&gt; Warning: the attack is weak" in first
    assert "zero" not in second and "Warning: the attack is weak" in second
    assert all(said in every for said in ("zero &lt;gradients&gt;; touches C1", "survivors; touches no claim",
                                          "the attack is weak; touches all claims"))


def test_repetitions_are_shown_and_those_without_a_number_as_missing(results):
    with (results / "stitching" / "tables" / "evidence.csv").open("a") as file:
        for seed, value in enumerate(("", "0.5", "inf")):
            file.write(f"\nC2,difference,R→N minus untrained,ratio,{seed},{value},1")
    report.index(results)
    assert "R→N minus untrained – 0.500 –" in plain(page_of(results, "C2").text)
    text = plain(page_of(results, "C1a").text)
    assert "R→N minus untrained 0.110 0.130 0.120 0.120 [0.080, 0.160]" in text
    assert "first seed 100" in text and "./run_all.sh again --profile laptop KEY" in text


def test_networks_are_counted_once(tmp_path):
    for name, keys in (("stitching", ("a1", "b2")), ("harp_pruning", ("b2", "c3"))):
        place = write(tmp_path, name, card(networks=keys), [])
        rows = "".join(f'{key},"digits MLP, seed 0 [{key}]",{seconds}\n'
                       for key, seconds in (("a1", 60), ("b2", 600)) if key in keys)
        (place / "tables" / "networks.csv").write_text(f"key,what,seconds\n{rows}")
        (place / "tables" / "cells.csv").write_text("measure,accuracy,network\nclean,0.9125,b2\nsearch,0.25,b2\n")
        (place / "tables" / "wide.csv").write_text("clean,robust l2,network\n0.8,0.125,a1\n")
    report.index(tmp_path)
    text = plain(page(tmp_path, "networks.html").text)
    assert f"{tmp_path.name}: 3 networks, 11 min of training" in text and "The time of 1 of them is not known" in text
    assert "Stitching 2 1 1 min" in text and "shared by several 1 10 min" in text
    assert "digits MLP, seed 0 harp pruning, stitching 91.2 25.0 10 min b2" in text
    assert "digits MLP, seed 0 stitching 80.0 12.5 1 min a1" in text


def test_seconds_of_measurements_are_shown_apart_by_whether_the_run_made_them(tmp_path):
    def part(made, found):
        return {"made": {"entries": 1, "seconds": made}, "found": {"entries": 1, "seconds": found}}

    costs = {"training": part(1, 2), "evaluation": part(180, 7200)}
    write(tmp_path, "stitching", card(networks=["a1"], costs=costs), [])
    write(tmp_path, "harp_pruning", card(networks=["a1"]), [])
    report.index(tmp_path)
    text = plain(page(tmp_path, "networks.html").text)
    assert "measuring in this run measuring before it" in text and "3 min 2 h 00 min" in text


def test_a_question_of_ours_is_called_ours_in_a_run_without_answers(tmp_path):
    for paper in ("across_papers", "harp_pruning"):
        write(tmp_path, paper, card(), [claim("C6", "absent", [part(0.001, -0.005, 0.015, verdict="absent")], "ours")])
    report.index(tmp_path)
    ours, theirs = (re.search(rf'(?s)<article class="paper" id="{paper}">.*?</article>', page(tmp_path).text)[0]
                    for paper in ("across_papers", "harp_pruning"))
    assert "a question of ours" in ours and "Our claims" in ours and "the paper" not in plain(ours).lower().replace(
        "across the papers", "")
    assert "Claims of the paper" in theirs and "a question of ours" not in theirs


def test_a_run_s_cost_is_the_sum_over_its_different_networks(published):
    seconds = {}
    for path in sorted(published.glob("laptop/*/tables/networks.csv")):  # the last of those that trained it again
        with path.open(newline="", encoding="utf-8") as file:
            seconds |= {row["key"]: float(row["seconds"]) for row in csv.DictReader(file)}
    said = f", {words.duration(sum(seconds.values()))} of training"
    assert f"laptop: {len(seconds)} networks{said}" in page(published, "networks.html").text
    assert f"{len(seconds)} networks</a>{said}" in page(published).text


def test_failed_notebooks_are_named_and_their_old_claims_are_not_shown(results):
    report.index(results)
    shown = page(results)
    assert "SettingsError: no &lt;data&gt;" in shown.text and "Notebooks that failed" in shown.text
    assert {"harp_pruning/notebook.html", "killed/notebook.html"} <= set(shown.links)
    assert not [path for path in results.glob("claims/*.html") if "-H1" in path.name or "-K1" in path.name]
    assert "not-a-notebook" not in shown.text


def test_a_site_of_nothing_and_of_damaged_files(tmp_path):
    assert "No notebook has been run" in report.index(tmp_path).read_text()
    (tmp_path / "stitching").mkdir()
    (tmp_path / "stitching" / "card.json").write_text('{"status": "o')
    assert "Notebooks that failed" in report.index(tmp_path).read_text()
    assert not list(tmp_path.glob(".*")), "no half-written file is left"


def test_pages_of_claims_that_are_no_more_are_deleted(tmp_path):
    made(tmp_path, claim("C1", "supported"), claim("C2", "supported"))
    (tmp_path / "stitching" / "claims.json").write_text(json.dumps([claim("C2", "weak")]))
    report.index(tmp_path)
    assert [path.name for path in tmp_path.glob("claims/stitching-*")] == ["stitching-C2.html"]


def test_documents_are_pages_with_links_to_each_other(published):
    glossary, corrections = page(published, "docs/glossary.html"), page(published, "corrections.html")
    assert {"experiments-and-claims", "measure-clean", "measure-difference"} <= glossary.ids
    assert {"2026-11-29-what-readme-readings-and-notebooks-said", "harp"} <= corrections.ids
    assert {"../docs/glossary.html", "../corrections.html"} <= {*page(published, "claims/stitching.html").links}


def test_markup_in_a_document_is_shown_as_text(tmp_path):
    (tmp_path / "a.md").write_text("# A <b>\n\n## Two, or more\n\n<script>x</script>\n\n[far](https://example.org/x) "
                                   "[near](b.md#there) [bad](javascript:x)\n\n| a | b |\n|---|---|\n| `<i>` | 1 |\n")
    text = documents.body(tmp_path / "a.md", tmp_path / "pages" / "a.html", {})
    assert "<script" not in text and "<b>" not in text and "javascript:" not in text
    assert "&lt;script&gt;" in text and 'href="https://example.org/x"' in text
    assert 'href="../b.md#there"' in text and 'id="two-or-more"' in text and "&lt;i&gt;" in text


def test_every_measure_says_what_it_is():
    assert {*STATISTICS} == {*KNOWN}
    every = [*ACCURACIES.values(), *STATISTICS.values()]
    assert all(isinstance(one, Measure) and one.title and one.sentence.endswith(".") for one in every)
    assert not [name for name, count in Counter(one.name for one in every).items() if count > 1]


def test_pages_say_what_was_expected_before_a_frozen_run_and_what_was_changed_after(tmp_path):
    right = claim("C1a", "supported", [part(0.1, 0.05, 0.15)], expected="supported", changed_after_seeing=False)
    wrong = claim("C2a", "weak", [part(0.01, 0.005, 0.015, verdict="weak")], expected="supported",
                  changed_after_seeing=True)
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "starts.csv").write_text("started,profile\n", encoding="utf-8")
    root = made(tmp_path / "smoke", right, wrong)
    front = page(root)
    said = "Of the 2 verdicts at smoke that were predicted before the run, 1 came out as predicted."
    assert said in plain(front.text)
    assert 'href="starts.csv"' in front.text
    assert "Expected before the run: supported." in plain(page_of(root, "C1a").text)
    assert "changed after" not in page_of(root, "C1a").text
    changed = page_of(root, "C2a")
    assert "weak, changed after seeing" in outcome(changed) and "was changed after its paper was frozen" in changed.text
    rows = list(csv.DictReader((root / "claims.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["expected"], row["changed after seeing"]) for row in rows] == [("supported", "False"),
                                                                               ("supported", "True")]


def test_pages_of_a_run_that_was_not_frozen_do_not_speak_of_expectations(tmp_path):
    root = made(tmp_path / "smoke", claim("C1a", "supported", [part(0.1, 0.05, 0.15)]))
    assert "predicted" not in page(root).text.lower() and "expected before" not in page_of(root, "C1a").text.lower()
