"""The answers to the papers' questions rest on the published verdicts."""

import json
import shutil
from html import unescape

import pytest

from lib.errors import SettingsError
from lib.papers import papers
from lib.runtime import ROOT
from lib.site.answers import answers

REFERENCE = ROOT / "results" / "reference"


def test_every_published_paper_has_an_answer_that_rests_on_the_published_verdicts():
    found = answers(REFERENCE)
    assert found.keys() == {paper for paper in papers() if any(REFERENCE.glob(f"*/{paper}/claims.json"))}
    assert [line for paper, one in found.items() for line in one.outdated(paper, REFERENCE)] == []


@pytest.mark.parametrize("paper", answers(REFERENCE))
def test_the_published_pages_show_the_present_answers(paper):
    for page in (*REFERENCE.glob(f"*/{paper}/notebook.html"), REFERENCE / "index.html"):
        text = unescape(page.read_text(encoding="utf-8"))
        assert answers(REFERENCE)[paper].answer in text, f"{page}: ./run_all.sh readme writes it again"


def test_a_new_verdict_asks_for_a_new_answer(tmp_path):
    folder = tmp_path / "laptop" / "stitching"
    folder.mkdir(parents=True)
    shutil.copy(REFERENCE / "answers.yaml", tmp_path)
    claims = json.loads((REFERENCE / "laptop" / "stitching" / "claims.json").read_text(encoding="utf-8"))
    next(claim for claim in claims if claim["id"] == "C2a")["verdict"] = "weak"
    (folder / "claims.json").write_text(json.dumps(claims), encoding="utf-8")
    assert answers(tmp_path)["stitching"].outdated("stitching", tmp_path) == [
        "stitching C2a is weak at laptop, the answer rests on supported"]


@pytest.mark.parametrize(("claim", "answer", "rests", "said"), [
    ("It is.", "word " * 31, "{laptop: {C1a: weak}}", "answers.yaml: the answer of stitching = 31 words"),
    ("word " * 31, "Yes.", "{laptop: {C1a: weak}}", "answers.yaml: the claim of stitching = 31 words"),
    ("''", "Yes.", "{laptop: {C1a: weak}}", "answers.yaml: the claim of stitching = 0 words"),
    ("It is.", "Yes.", "{}", "answers.yaml: rests of stitching = {}")])
def test_claim_and_answer_are_short_and_the_answer_rests_on_something(tmp_path, claim, answer, rests, said):
    (tmp_path / "answers.yaml").write_text(
        f"stitching:\n  question: Why?\n  claim: {claim}\n  answer: {answer}\n  gates: ''\n  rests: {rests}\n",
        encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        answers(tmp_path)
    assert said in str(error.value)


def test_folders_without_answers_have_none(tmp_path):
    assert answers(tmp_path) == {}
