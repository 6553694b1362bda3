"""What a rehearsal says."""

from __future__ import annotations

from lib.papers.settings import Settings
from lib.rehearsal.work import FAILS, LACKS, LARGE, RAN, Result
from lib.runtime import duration

GB, MB = 1e9, 1e6


def line(result: Result) -> str:
    """A result, for those who watch."""
    took = f"{result.seconds:.1f} s, {result.memory / MB:.0f} MB"
    return f"{result.step.kind}: {result.status}, {f'{took}' if result.status == RAN else result.error}"


def text(small: Settings, kinds: list, notebooks: list[dict], said: list[str], made: list[str], seconds: float) -> str:
    """The report in Markdown. kinds: of `lib.rehearsal.Kind`. notebooks: rows with name, status, error and seconds.
    said: sentences on the real run, first the device that it is priced for. made: the sets that were made up.
    """
    of = {status: [kind for kind in kinds if kind.status == status] for status in (RAN, FAILS, LARGE, LACKS, "")}
    counts = [f"{len(of[RAN])} of {len(kinds)} kinds ran", *[f"{len(of[s])} {words}" for s, words in (
        (FAILS, "failed"), (LARGE, "are too large even in miniature and are only priced"),
        (LACKS, "could not run without others"), ("", "are not in the miniature plan")) if of[s]]]
    ran = sum(row["status"] == RAN for row in notebooks)
    lines = [f"# Rehearsal of {small.profile}", "",
             f"{', '.join(counts)}; {ran} of {len(notebooks)} notebooks and sites ran. It took {duration(seconds)}. "
             "All sizes were at their least and all images made up, so no number or verdict of it means anything.", "",
             f"Made up: {', '.join(made) or 'nothing'}, with at most 12 classes.", "",
             f"The real run, priced for {said[0]}: {duration(sum(kind.need.seconds for kind in kinds))} of work, one "
             "job after the other.", "", *[f"- {sentence}" for sentence in said[1:]], ""]
    bad = of[FAILS] + of[LARGE] + of[LACKS]
    if bad:
        lines += ["## What did not run", "", *[f"- {k.kind}: {k.status} ({k.ran} of {k.tried} ran): {k.error}"
                                              for k in bad], ""]
    lines += ["## Notebooks", "", "| notebook | | seconds | MB | error |", "|---|---|---|---|---|"]
    lines += [f"| {row['name']} | {row['status']} | {row['seconds']:.0f} | {row['memory'] / MB:.0f} | "
              f"{_cell(row['error'])} |" for row in notebooks]
    lines += ["", "## Kinds of work", "",
              "Left: the miniature, its longest step and the largest peak of a process. Right: all its real work.",
              "", "| kind | | seconds | MB | real: count | hours | memory, GB | disk, GB |",
              "|---|---|---|---|---|---|---|---|"]
    lines += [_row(kind) for kind in sorted(kinds, key=lambda kind: -kind.need.seconds)]
    return "\n".join(lines) + "\n"


def _row(kind) -> str:
    need = kind.need
    small = [f"{kind.seconds:.1f}", f"{kind.memory / MB:.0f}"] if kind.tried else ["", ""]
    large = [f"{need.memory / GB:.3g}", f"{need.disk / GB:.3g}"] if need.memory else ["", ""]
    cells = [_cell(kind.kind), kind.status or "–", *small, str(need.count), f"{need.seconds / 3600:.3g}", *large]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
