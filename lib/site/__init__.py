"""What is read after a run: a page per notebook, the scoreboard of claims, the table of the README.

A notebook's page is one file that loads nothing: pictures and styles are inside, formulas are MathML. The scoreboard
shows the figures that lie in its folder. Pages are made of the files that a run leaves (`claims.json`, `card.json`,
`tables/`, `figures/`), never of anything in memory, so that they can be made again at any time.
"""

from lib.site.compare import compare
from lib.site.files import about
from lib.site.page import mathml, render
from lib.site.scoreboard import claims_table_markdown, index, readme
from lib.site.shrink import few_colours, shrink

__all__ = ["about", "claims_table_markdown", "compare", "few_colours", "index", "mathml", "readme", "render", "shrink"]
