"""docs/settings.md: every setting with its dotted name, allowed values and meaning, from the code and the profiles.

A setting is a field in the code: its annotation gives the allowed values (lib/values/declared.py), the comment behind
it or above it the meaning.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import itertools
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lib.papers import papers
from lib.papers.settings import SHARED, Settings
from lib.profiles.loader import PLAIN, read
from lib.profiles.networks import Networks
from lib.runtime import ROOT
from lib.values.declared import Hint, hints_of
from lib.values.keys import kinds_of

SHOWN = ("smoke", "laptop", "gpu", "paper")  # the profiles whose values are shown
LONG = 60  # characters of the longest value that is shown
HEAD = """# Settings

Made by `python -m lib settings`; do not edit it by hand.

Any setting can be given by its dotted name, as in `./run_all.sh -p stitching.seeds=5`. A notebook's own settings can
also be given without the notebook's name: `-p seeds=5`, or `seeds = 5` in its parameters cell. Lists and sections are
written as YAML: `-p 'alphas=[0, 0.5, 1]'`. `[]` in a name marks the entries of a list. The list is given as a whole, or
an entry that has a `name` is reached by it: `-p stitching.elsewhere.MNIST.networks.robust.epochs=4`.

`--seeds 2`, or a paper's setting `seeds=2`, also lowers every other number of repetitions of the paper to two, unless
this number is given, too.

Values with options of their own (attacks, architectures, ...) have tables at the end. If several kinds are possible,
`type` chooses one (`stitching.verify.type=APGD`); the name of a kind is enough if all its options have defaults.

The column of a profile shows the value in `configs/<profile>.yaml`; if it is empty, the default holds. `...` marks a
section, whose settings follow, or a value that is too long for the table.
"""


class Setting(NamedTuple):
    """A row of a table."""

    name: str
    hint: Hint
    default: str
    what: str


def write(path: Path = ROOT / "docs" / "settings.md") -> None:
    """Write the page."""
    path.write_text(page(), encoding="utf-8")


def page() -> str:
    """The text of docs/settings.md."""
    profiles = {name: read(ROOT / "configs" / f"{name}.yaml") for name in SHOWN}
    tables = {"The run and its networks": [*settings(Settings, "", SHARED)]}
    tables |= {name: [*settings(paper.Section, f"{name}.")] for name, paper in papers().items()}
    text = [HEAD]
    for title, found in tables.items():
        text += [f"## {title}", "", *_table(found, profiles), ""]
    hints = [setting.hint.each or setting.hint for found in tables.values() for setting in found]
    bases = dict.fromkeys(kind for hint in hints if hint.declared and not _section(hint) for kind in hint.types)
    families = {base: [kind for kind in kinds_of(base) if kind.__module__.startswith("lib.")] for base in bases}
    for base, kinds in families.items():
        if any(base in others for family, others in families.items() if family is not base):
            continue
        text += [f"## {base.__name__}", "", _paragraph(base), ""]
        for kind in kinds:
            text += [f"### {kind.__name__}", "", _paragraph(kind), ""] * (kind is not base)
            text += [*_table([*settings(kind, "")], {}), ""] * bool(dataclasses.fields(kind))
    return "\n".join(text)


def settings(cls: type, before: str, names: tuple[str, ...] = ()) -> Iterator[Setting]:
    """The settings of a section (those in `names`; (): all) and of the sections inside it; `before` is the prefix of
    their names.
    """
    hints, said = hints_of(cls), sentences(cls)
    for f in dataclasses.fields(cls):
        if names and f.name not in names:
            continue
        hint = hints[f.name]
        inner, name = hint.each or hint, f"{before}{f.name}"
        if hint.each and inner.declared:
            name += "[]"
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        default = "set by the profile" if default is dataclasses.MISSING else f"`{written(default)}`"
        yield Setting(name, hint, default, said[f.name] or (_paragraph(inner.types[0]) if inner.declared else ""))
        if _section(inner) and not (before and inner.types == (Networks,)):  # a paper's are as the pool's
            yield from settings(inner.types[0], f"{name}.")


def _section(hint: Hint) -> bool:
    """Whether a value is a section of a profile; values with options of their own are not."""
    return hint.declared and not hint.types[0].__module__.startswith("lib.values")


def sentences(cls: type) -> dict[str, str]:
    """{field: the comment behind it or above it}, "" without a comment."""
    found = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        source = textwrap.dedent(inspect.getsource(base))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        said = {token.start: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        behind, alone = ({line: text for (line, column), text in said.items() if (column == 4) == whole}
                         for whole in (False, True))
        for node in ast.parse(source).body[0].body:
            if type(node) is ast.AnnAssign:
                above = [*itertools.takewhile(alone.__contains__, range(node.lineno - 1, 0, -1))]
                text = behind.get(node.end_lineno) or " ".join(alone[line] for line in reversed(above))
                found[node.target.id] = text
    return found


def allowed(hint: Hint) -> str:
    """What a value may be, in words; values with options of their own are links to their tables."""
    if hint.each:
        words = f"a list, each {allowed(hint.each)}"
    elif _section(hint):
        words = "a section"
    elif hint.declared:
        words = " or ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in hint.types)
    else:
        words = "" if hint.bounds else " or ".join(PLAIN.get(kind, "a number") for kind in hint.types)
    return "; ".join(filter(None, [words, *(bound.words for bound in hint.bounds)])) + ", or null" * hint.optional


def written(value: Any) -> str:
    """A value as in a profile; declared values show only options that differ from their defaults."""
    if type(value) is dict:
        return f"{{{', '.join(f'{name}: {written(entry)}' for name, entry in value.items())}}}"
    if type(value) in (tuple, list):
        return f"[{', '.join(map(written, value))}]"
    if dataclasses.is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        options = {f.name: given[f.name] for f in dataclasses.fields(value) if given[f.name] != f.default}
        return written({"type": type(value).__name__, **options}) if options else type(value).__name__
    return {"None": "null", "True": "true", "False": "false", "": '""'}.get(str(value), str(value))


def _table(found: list[Setting], profiles: dict[str, dict]) -> list[str]:
    """The rows of a table, with a column for each profile."""
    head = ["setting", "allowed", "default", *profiles, "meaning"]
    rows = [head, ["---"] * len(head)]
    for name, hint, default, what in found:
        given = [_given(tree, name.replace("[]", "").split("."), hint) for tree in profiles.values()]
        rows.append([f"`{name}`", allowed(hint), default, *given, what])
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _given(tree: Any, path: list[str], hint: Hint) -> str:
    """The value that a profile gives a setting; "" if it gives none."""
    for name in path:
        if type(tree) is not dict or name not in tree:
            return ""
        tree = tree[name]
    text = written(tree)
    return f"`{text}`" if len(text) <= LONG and not _section(hint.each or hint) else "..."


def _paragraph(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join(inspect.getdoc(cls).split("\n\n")[0].split())
