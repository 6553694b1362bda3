"""The tables in Markdown, from results that were made up here."""

import json
import re

import pytest

from lib import site as report
from lib.errors import SettingsError
from lib.site.tables import OUTDATED
from tests.site.made import CLAIMS, card, claim, part, write

ANSWERS = """
stitching:
  question: Are they alike?
  claim: They say that it is.
  answer: In part.
  gates: The networks are small.
  rests: {laptop: {C1a: supported, C2: contradicted}}
"""
EARLIER = " (an earlier form of the claim)"  # what is made up here is not what the paper's claims say today
MARKS = "".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\nbetween\n" for name in ("answers", "counts"))


def cells(table: str) -> list[list[str]]:
    """The rows below the head of a Markdown table, cell by cell."""
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def columns(table: str) -> set[int]:
    return {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}


@pytest.fixture
def published(tmp_path):
    """The folder of published runs in a project: stitching at smoke and laptop, with an answer."""
    reference = tmp_path / "results" / "reference"
    write(reference / "smoke", "stitching", card(profile="smoke"), [claim("C1a", "undecided")])
    write(reference / "laptop", "stitching", card(), CLAIMS)
    (reference / "answers.yaml").write_text(ANSWERS)
    return reference


def test_all_claims_and_their_counts(results, tmp_path):
    withheld = claim("C1a", "not tested", [part(0.1, 0.05, 0.15)], withheld="undecided", at_best="weak")
    write(tmp_path / "smoke", "stitching", card(), [withheld])
    folders = [tmp_path / "smoke", results]
    assert cells(report.counts_markdown(folders)) == [
        ["Claims of the papers", "1: 1 not tested", "4: 1 supported, 1 contradicted, 1 undecided, 1 not tested"],
        ["Controls", "", "1: 1 weak"], ["Our own questions", "", "1: 1 absent"]]
    table = report.claims_table_markdown(folders)
    assert table.splitlines()[0] == "| Claim | The paper | smoke | laptop |" and columns(table) == {5}
    assert [line[0] for line in cells(table) if "**" in line[0]] == [
        "**stitching: claims of the paper**", "**stitching: controls**", "**stitching: our own questions**"]
    found = {line[0].split(":")[0]: line[1:] for line in cells(table) if "Statement" in line[0]}
    assert list(found) == ["C1a", "C2", "C3", "C4", "C5", "C6"]
    assert found["C1a"] == ["0.93 · Fig. 3", "– not tested (withheld: undecided, at best weak)" + EARLIER,
                            "✓ supported (2 of 2 hold)" + EARLIER]
    assert found["C2"][1:] == ["", "✗ contradicted −0.050 [−0.080, −0.030], needed more than 0.02" + EARLIER]
    assert found["C5"][0] == "", "what a paper says about our controls stands on the page only"


def test_readings_of_the_present_verdicts_stand_in_the_table(results):
    (results.parent / "readings.yaml").write_text("""
laptop:
  stitching:
    C2: {verdict: contradicted, cause: claim, why: "a < b, whatever the seed"}
    C3: {verdict: contradicted, cause: seeds, why: written before the last run}
""")
    table = report.claims_table_markdown([results])
    needed = "[−0.080, −0.030], needed more than 0.02"
    assert f"✗ contradicted −0.050 {needed}: it does not hold here{EARLIER} |" in table
    assert f"? undecided 0.030 [−0.010, 0.070], needed more than 0.02{EARLIER} |" in table


def test_an_answer_stands_with_the_verdicts_of_the_papers_own_claims_at_the_largest_profile(published):
    table, notes = report.answers_markdown(published).split("\n\n")
    (paper, question, answer, verdicts), = cells(table)
    assert paper == ("[On the Functional Similarity of Robust and Non-Robust Neural Representations]"
                     "(https://proceedings.mlr.press/v202/balogh23a.html)")
    assert (question, answer) == ("Are they alike?", "In part. ¹") and notes.endswith("¹ The networks are small.")
    assert verdicts == "✓ 1, ✗ 1, ? 1, – 1 at [laptop](results/reference/laptop/stitching/notebook.html)"


def test_an_outdated_answer_is_left_out(published):
    path = published / "laptop" / "stitching" / "claims.json"
    path.write_text(json.dumps([claim("C1a", "weak"), *CLAIMS[1:]]))
    table = report.answers_markdown(published)
    assert cells(table.split("\n\n")[0])[0][2] == OUTDATED and "In part" not in table and "¹" not in table


def test_a_paper_of_which_nothing_is_published_has_no_verdicts(published):
    (published / "answers.yaml").write_text(ANSWERS.replace("stitching", "harp_pruning"))
    assert cells(report.answers_markdown(published).split("\n\n")[0])[0][2:] == [OUTDATED, ""]


def test_the_readme_and_the_page_of_published_runs(published):
    path = published.parents[1] / "README.md"
    path.write_text(f"before\n{MARKS}after\n")
    report.readme(path)
    text, page = path.read_text(), (published / "README.md").read_text()
    assert text == "\n".join(["before", "<!-- answers:begin -->", report.answers_markdown(published),
                              "<!-- answers:end -->", "between", "<!-- counts:begin -->",
                              report.counts_markdown(report.runs(published)), "<!-- counts:end -->", "between", "after",
                              ""])
    assert page.startswith("# ") and report.claims_table_markdown(report.runs(published)) in page
    assert "[page](laptop/stitching/notebook.html)" in page and "a < b \\| c" in page
    report.readme(path)
    assert (path.read_text(), (published / "README.md").read_text()) == (text, page)


@pytest.mark.parametrize("name", ["answers", "counts"])
def test_a_readme_without_marks_is_refused(published, name):
    path = published.parents[1] / "README.md"
    path.write_text(MARKS.replace(name, "other"))
    with pytest.raises(SettingsError, match=f"no place for the {name}: it needs <!-- {name}:begin --> and"):
        report.readme(path)
    assert not (published / "README.md").exists()


def test_runs_stand_in_the_order_of_profiles(tmp_path):
    for name in ("mine", "laptop", "smoke", "paper"):
        write(tmp_path / name, "stitching", card())
    for name in ("claims", "docs"):  # the pages of the site
        (tmp_path / name).mkdir()
    (tmp_path / "answers.yaml").touch()
    assert [folder.name for folder in report.runs(tmp_path)] == ["smoke", "laptop", "paper", "mine"]
