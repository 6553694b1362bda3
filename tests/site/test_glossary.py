"""Which words of the glossary a page explains."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import site as report
from lib.site import glossary
from tests.site.made import CLAIMS, Page, card, write

TEXT = """# Glossary

## Networks

| word | meaning |
|---|---|
| **R**, robust | trained on adversarial images |
| N→R | a front with an end |
| key | a hash, `abc` |

## Stitching

| word | meaning |
|---|---|
| alpha (α) | a share |
| joint, stitching layer | a map |
| CKA | a similarity |
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "glossary.md"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(("text", "labels"), [
    ("a Robust net", ["R, robust"]), ("robustness, or r", []), ("keys of N→R", ["N→R", "key"]),
    ("each joint", []), ("each joint with α = 1", ["alpha (α)", "joint, stitching layer"]), ("CKA", ["CKA"]),
    ("cka", []), ("monkey", [])])
def test_words_are_explained_where_they_mean_what_the_glossary_says(source, text, labels):
    assert [entry.label for entry in glossary.used(text, source)] == labels


def test_every_row_of_the_glossary_is_found_by_each_of_its_names():
    entries = list(glossary.entries())
    assert len(entries) > 100 and all(entry.words and entry.meaning and entry.group for entry in entries)
    for entry in entries:
        assert entry.occurs(f"Here {entry.words[-1]} stands") or len(entry.words[-1]) == 1


def test_a_page_explains_its_words_but_not_those_of_its_code(tmp_path):
    place = write(tmp_path / "laptop", "stitching", card(), CLAIMS)
    cells = [new_markdown_cell("# A title\n\nThe *withheld* verdict of **N**, under FGSM."),
             new_code_cell("AutoAttack", execution_count=1)]
    nbformat.write(new_notebook(cells=cells), place / "notebook.ipynb")
    page = Page(report.render(place / "notebook.ipynb").read_text())
    words = page.text.split('<details class="words">')[1].split("</details>")[0]
    assert all(f"<dt>{word}</dt>" in words for word in ("withheld", "N, normal", "FGSM"))
    verdict = words.split("<dt>verdict</dt>")[1].split("</dd>")[0]
    assert "supported" in verdict and "href" not in verdict, "its link would lead from docs/"
    assert "AutoAttack</dt>" not in words and "../docs/glossary.html" in page.links
