"""What is read after a run: a page per notebook, the scoreboard of claims, the table of the README.

Every page is one file that loads nothing: pictures and styles are inside, formulas are MathML. Pages are made of the
files that a run leaves (`claims.json`, `card.json`, `tables/`, `figures/`), never of anything in memory, so that they
can be made again at any time.
"""

from lib.report.page import mathml, render
from lib.report.scoreboard import claims_table_markdown, index, readme

__all__ = ["claims_table_markdown", "index", "mathml", "readme", "render"]
