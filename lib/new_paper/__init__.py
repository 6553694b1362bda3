"""`./run_all.sh new-paper NAME`: the skeleton of a further paper, small but complete. It trains a normal and a robust
network of the common pool, attacks both and judges one claim. Its author replaces one part after another.
"""

from __future__ import annotations

import keyword
import re
from importlib import import_module
from pathlib import Path

from lib.errors import SettingsError, need
from lib.files import write_atomic
from lib.papers import papers
from lib.papers.settings import SHARED

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = ("test", "smoke", "laptop")  # the profiles that get a section


def write(name: str, root: Path) -> list[Path]:
    """Write the skeleton of the paper `name` into the project at `root`: a folder in lib/papers, a notebook, claims,
    deviations, tests, and a section at the end of three profiles. Returns the files written or extended.

    Raises SettingsError, before anything is written, if the name is not a lower-case identifier or already taken.
    """
    fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name)
    need(bool(fits), "NAME", name, "lower-case letters, digits and _ behind a letter, such as feature_purification")
    need(name not in SHARED, "NAME", name, "another one: it is a setting of the profiles")
    order = 1 + max(import_module(f"lib.papers.{paper}").PAPER_ORDER for paper in papers())

    def filled(template: Path) -> str:
        text = template.read_text(encoding="utf-8")
        return text.replace("NEW_PAPER", name).replace("PAPER_ORDER = 0", f"PAPER_ORDER = {order}")

    texts = {root / place / template.name.removesuffix(".txt").replace("NEW_PAPER", name): filled(template)
             for place, folder in (("claims", "claims"), ("notebooks", "notebooks"), (f"lib/papers/{name}", "lib"),
                                   (f"tests/papers/{name}", "tests"))
             for template in sorted((TEMPLATES / folder).glob("*.txt"))}
    there = [path for path in (root / "lib/papers" / name, *texts) if path.exists()]
    if there:
        raise SettingsError(f"NAME = {name} is not possible: {there[0].relative_to(root)} is there already")
    for profile in SECTIONS:
        path = root / "configs" / f"{profile}.yaml"
        old = path.read_text(encoding="utf-8").rstrip("\n")
        texts[path] = f"{old}\n\n{filled(TEMPLATES / 'configs' / f'{profile}.yaml.txt')}"
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    return list(texts)
