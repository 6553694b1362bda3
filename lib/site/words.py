"""Numbers, verdicts and intervals as text for readers, and the page templates that use them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

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


def _in_unit(part: dict, name: str) -> str:
    """A number of a claim's part as text, in the unit of its statistic: percent, points, or plain."""
    value, statistic = part.get(name), part.get("statistic")
    if statistic not in ("difference", "accuracy") or value is None or not math.isfinite(value):
        return number(value)
    return f"{100 * value:{'+' if statistic == 'difference' and value else ''}.1f}".replace("-", "−")


def unit(part: dict) -> str:
    """The unit of a claim's part, with a space before it; "" if it has none."""
    return {"difference": " points", "accuracy": " %"}.get(part.get("statistic"), "")


def interval(part: dict) -> str:
    """Value and interval of a claim's part: '0.120 [0.080, 0.160]'; differences of accuracies are in points."""
    if all(part[end] is None or math.isnan(part[end]) for end in ("low", "high")):
        return _in_unit(part, "value")
    return f"{_in_unit(part, 'value')} [{_in_unit(part, 'low')}, {_in_unit(part, 'high')}]"


def by_seed(part: dict) -> str:
    """The value of each repetition, in the unit of the part's value: '0.110, 0.130, 0.120'."""
    return ", ".join(_in_unit({**part, "value": value}, "value") for value in part.get("by_seed", ()))


def _bound(part: dict, name: str) -> str:
    """A margin or null value of a claim's part as text, without trailing zeros where it has no unit."""
    value = part[name]
    return f"{value:g}".replace("-", "−") if value == 0 or not unit(part) else _in_unit(part, name)


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
    """A verdict as text: 'undecided, at best weak', 'not tested, withheld: supported'."""
    at_best = f", at best {claim['at_best']}" if claim["at_best"] else ""
    return f"{claim['verdict']}{', withheld: ' * bool(claim['withheld'])}{claim['withheld']}{at_best}"


def counted(counts: Mapping[str, int]) -> str:
    """Numbers of verdicts as text: '9 supported, 2 weak'."""
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def duration(seconds) -> str:
    """Seconds as text: '42 s', '13 min', '2 h 05 min'; '–' for None."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


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


def plot(parts: list[dict], width: int = 120) -> list[dict | None]:
    """Positions, in pixels from the left of a drawing of `width`, of each part's interval, value, margin (`threshold`),
    null value if it has one, and required range (`wanted`). All parts share one scale, so that they can be compared.
    None for a part in which a number is missing.
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
        return rows
    least, most = min(known), max(known)
    room = (most - least or 1) * 0.08
    places = [row and {k: round((v - least + room) / (most - least + 2 * room) * width, 1) for k, v in row.items()}
              for row in rows]
    for part, at in zip(parts, places, strict=True):
        if at:
            ends = {"above": [at["threshold"], width], "below": [0, at["threshold"]],
                    "within": sorted((at["threshold"], at.get("opposite", 0)))}
            at["wanted"] = ends[part["side"]]
    return places


def comparisons(claim: dict) -> list[dict]:
    """A claim's parts, grouped by comparison: a list of {asked (what must hold), parts, places (see `plot`)}. Without
    parts if nothing was measured.
    """
    measured = {asked["what"]: [part for part in claim["parts"] if part["what"] == asked["what"]]
                for asked in claim["asked"]}
    return [{"asked": asked, "parts": measured[asked["what"]], "places": plot(measured[asked["what"]])}
            for asked in claim["asked"]]


def template(name: str):
    """The jinja template of this name, with the functions above as filters."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=lambda file: "html" in (file or ""),
                              trim_blocks=True, lstrip_blocks=True)
    filters = (number, interval, by_seed, needed, null, said, counted, duration, size, words, seeds, command)
    environment.filters.update({f.__name__: f for f in filters})
    environment.globals.update(symbols=VERDICTS, asks=ASKS, comparisons=comparisons)
    return environment.get_template(name)
