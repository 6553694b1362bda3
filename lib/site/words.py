"""Numbers, verdicts and intervals as text for readers, and the page templates that use them."""

from __future__ import annotations

import functools
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from lib.runtime import duration
from lib.site.measures import STATISTICS
from lib.values import verdicts

VERDICTS = {"supported": "✓", "weak": "~", "absent": "∅", "contradicted": "✗", "undecided": "?", "not tested": "–"}
OPEN = ("undecided", "not tested")  # the verdicts that decide nothing
# Whose question a claim is: what one claim, the claims of a notebook and those of several are called. Counts are always
# given apart, because only the first kind speaks for a paper.
ASKS = {
    "paper": ("Claim of the paper", "Claims of the paper", "Claims of the papers"),
    "control": ("Control", "Controls", "Controls"),
    "ours": ("Our own question", "Our own questions", "Our own questions"),
}
TEMPLATES = Path(__file__).parent / "templates"


def number(value) -> str:
    """A measured value as text: three decimals below 10, one from 10 on, powers of ten for very small and large ones.
    """
    match value:
        case bool():
            return str(value)
        case int():
            return f"{value:,}".replace("-", "−")
        case float() if math.isfinite(value):
            size = abs(value)
            text = (f"{value:.1e}" if 0 < size < 5e-4 or size >= 1e6 else f"{value:.3f}" if size < 10
                    else f"{value:,.1f}")
            return text.replace("-", "−")
        case None | float():
            return "–"
    return str(value)


def _in_unit(part: dict, value: float | None) -> str:
    """A value of a claim's part as text, in the unit of its statistic: percent, points, or plain."""
    if not unit(part) or value is None or not math.isfinite(value):
        return number(value)
    return f"{100 * value:{'+' if part['statistic'] == 'difference' and value else ''}.1f}".replace("-", "−")


def unit(part: dict) -> str:
    """The unit of a claim's part, with a space before it; "" if it has none."""
    measure = STATISTICS.get(part.get("statistic"))
    return f" {measure.unit}" if measure and measure.unit else ""


def interval(part: dict) -> str:
    """Value and interval of a claim's part: '0.120 [0.080, 0.160]'; differences of accuracies are in points."""
    value, low, high = (_in_unit(part, part[name]) for name in ("value", "low", "high"))
    return value if low == high == number(None) else f"{value} [{low}, {high}]"


def by_seed(part: dict) -> list[str]:
    """The value of each repetition as text, in the unit of the part's value."""
    return [_in_unit(part, value) for value in part["by_seed"]]


def _bound(part: dict, name: str) -> str:
    """A margin or null value of a claim's part as text, without trailing zeros where it has no unit."""
    value = part[name]
    return f"{value:g}".replace("-", "−") if value == 0 or not unit(part) else _in_unit(part, value)


def needed(part: dict) -> str:
    """Where the interval must lie: 'more than 0.02', 'within ±3.0 points'."""
    how = {"above": "more than ", "below": "less than ", "within": "within ±"}[part["side"]]
    bound = _bound(part, "threshold")
    return f"{how}{bound.lstrip('+') if part['side'] == 'within' else bound}{unit(part)}"


def null(part: dict) -> str:
    """What a part counts as no effect: 'no effect: 0 points'; 'a bar' if no value stands for it; "" for side within."""
    if part["side"] == "within":
        return ""
    return "a bar" if part["null_value"] is None else f"no effect: {_bound(part, 'null_value')}{unit(part)}"


def said(claim: dict) -> str:
    """A claim's verdict as text, see `verdicts.said`."""
    return verdicts.said(claim["verdict"], claim["withheld"], claim["at_best"],
                         claim.get("changed_after_seeing", False))


def counted(counts: Mapping[str, int]) -> str:
    """Numbers of verdicts as text: '9 supported, 2 weak'."""
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def seeds(card: dict) -> str:
    """The seeds of a run's repetitions: '3 (seeds 100 to 102)'; "" if the card does not have them."""
    count, first = card.get("seeds"), card.get("first_seed", 0)
    if not count:
        return ""
    return f"{count} (seed {first})" if count == 1 else f"{count} (seeds {first} to {first + count - 1})"


def command(card: dict) -> str:
    """The command that makes a run's notebook again."""
    given = [word for name, value in (card.get("overrides") or {}).items() for word in ("-p", f"{name}={value}")]
    return shlex.join(["./run_all.sh", "--profile", str(card.get("profile")), *given, str(card.get("notebook"))])


def size(path: Path) -> str:
    """The size of a file as text: '12 kB' or '3.4 MB'."""
    kilobytes = path.stat().st_size / 1000
    return f"{math.ceil(kilobytes)} kB" if kilobytes < 1000 else f"{kilobytes / 1000:.1f} MB"


def words(value) -> str:
    """A value of a card or protocol as text; a mapping with a type gives 'PGD (steps 10, step_size 2/255)'."""
    match value:
        case dict():
            inner = ", ".join(f"{k} {words(v)}" for k, v in value.items() if k != "type")
            return f"{value['type']} ({inner})" if "type" in value else inner
        case list() | tuple():
            return ", ".join(map(words, value))
    return number(value)


def anchor(text: str) -> str:
    """A text as an anchor or as part of a file's name."""
    return re.sub(r"[^\w.+-]", "_", text)


def plot(parts: list[dict], width: int = 240) -> tuple[list[dict | None], list[tuple[float, str]]]:
    """A drawing of the intervals of parts that share a statistic, `width` pixels wide: for each part the positions of
    its interval, value, margin (`threshold`), null value if it has one, and required range (`wanted`), or None if a
    number is missing; and the marks of the axis as (position, text). All parts share one scale, so that they can be
    compared.
    """
    rows = []
    for part in parts:
        row = {k: part[k] for k in ("low", "value", "high", "threshold")}
        good = all(isinstance(v, (int, float)) and math.isfinite(v) for v in row.values())
        rows.append(row if good else None)
        if good and part["side"] == "within":
            row["opposite"] = -row["threshold"]
        if good and part["null_value"] is not None:
            row["null"] = part["null_value"]
    known = [v for row in rows if row for v in row.values()]
    if not known:
        return rows, []
    least, most = min(known), max(known)
    room = (most - least or 1) * 0.08

    def at(value: float) -> float:
        return round((value - least + room) / (most - least + 2 * room) * width, 1)

    places = [row and {k: at(v) for k, v in row.items()} for row in rows]
    for part, place in zip(parts, places, strict=True):
        if place:
            ends = {"above": [place["threshold"], width], "below": [0, place["threshold"]],
                    "within": sorted((place["threshold"], place.get("opposite", 0)))}
            place["wanted"] = ends[part["side"]]
    factor = 100 if unit(parts[0]) else 1
    return places, [(at(mark), f"{factor * mark:.4g}".replace("-", "−")) for mark in marks(least, most)]


def marks(least: float, most: float) -> list[float]:
    """Round numbers from `least` to `most` for an axis, at most five or six."""
    step = 10 ** math.floor(math.log10((most - least or 1) / 3))
    step *= next(k for k in (1, 2, 5, 10) if (most - least) / (k * step) <= 4)
    return [k * step for k in range(math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9) + 1)]


def comparisons(claims: Mapping[str, dict]) -> list[dict]:
    """The comparisons of a claim in all its runs, {run: claim}: a list of {asked (what must hold), runs ({run: [(part,
    its place)]}, without runs that measured nothing), marks}, see `plot`.
    """
    every = {asked["what"]: asked for claim in claims.values() for asked in claim["asked"]}
    found = []
    for what, asked in every.items():
        parts = [(run, part) for run, claim in claims.items() for part in claim["parts"] if part["what"] == what]
        places, marks = plot([part for _, part in parts])
        runs: dict[str, list] = {}
        for (run, part), place in zip(parts, places, strict=True):
            runs.setdefault(run, []).append((part, place))
        found.append({"asked": asked, "runs": runs, "marks": marks})
    return found


@functools.cache
def _environment():
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=lambda file: "html" in (file or ""),
                              trim_blocks=True, lstrip_blocks=True)
    filters = (number, interval, unit, by_seed, needed, null, said, duration, size, words, seeds, command, anchor)
    environment.filters.update({f.__name__: f for f in filters})
    environment.tests.update(contains=lambda values, one: one in values, shared=lambda values: len(values) > 1)
    environment.globals.update(symbols=VERDICTS, asks=ASKS, statistics=STATISTICS, comparisons=comparisons)
    return environment


def template(name: str):
    """The jinja template of this name, with the functions above as filters."""
    return _environment().get_template(name)
