"""The pages that show a run: one page per notebook, the scoreboard of claims, and the tables in Markdown.

A notebook's page is one file that loads nothing else: pictures and styles are embedded, formulas are MathML. The
scoreboard shows the figures in its folder. Pages are made only from the files that a run leaves (`claims.json`,
`card.json`, `tables/`, `figures/`), so that they can be made again at any time.
"""

from lib.site.answers import Answer, answers
from lib.site.compare import compare
from lib.site.files import about
from lib.site.page import mathml, render
from lib.site.scoreboard import index
from lib.site.settings import write as write_settings
from lib.site.shrink import few_colours, shrink
from lib.site.tables import answers_markdown, claims_table_markdown, counts_markdown, readme, reference_markdown, runs

__all__ = [
    "Answer",
    "about",
    "answers",
    "answers_markdown",
    "claims_table_markdown",
    "compare",
    "counts_markdown",
    "few_colours",
    "index",
    "mathml",
    "readme",
    "reference_markdown",
    "render",
    "runs",
    "shrink",
    "write_settings",
]
