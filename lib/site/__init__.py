"""The pages that show runs: one page per notebook, the site over one run or all published ones, and tables in Markdown.

A notebook's page has its styles and formulas (MathML) in it; the other pages share one style. All show the figures of
the runs where they lie. They are made only from the files that a run leaves (`claims.json`, `card.json`,
`evidence.npz`, `tables/`, `figures/`), so that they can be made again at any time.
"""

from lib.site.answers import Answer, answers
from lib.site.compare import compare
from lib.site.compare import page as compare_page
from lib.site.files import about
from lib.site.markup import mathml
from lib.site.page import render
from lib.site.pages import index, published
from lib.site.scoreboard import runs
from lib.site.settings import write as write_settings
from lib.site.shrink import few_colours, shrink
from lib.site.tables import answers_markdown, claims_table_markdown, counts_markdown, readme, reference_markdown

__all__ = [
    "Answer",
    "about",
    "answers",
    "answers_markdown",
    "claims_table_markdown",
    "compare",
    "compare_page",
    "counts_markdown",
    "few_colours",
    "index",
    "mathml",
    "published",
    "readme",
    "reference_markdown",
    "render",
    "runs",
    "shrink",
    "write_settings",
]
