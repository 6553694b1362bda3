"""What each paper asks and what the published runs answer, in a sentence or two written by a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.errors import need
from lib.profiles import loader
from lib.site import files

MOST_WORDS = 30


@dataclass(frozen=True)
class Answer:
    """A paper's question, what it claims, and our answer."""

    question: str
    claim: str  # what the paper says in short, or why we ask if no paper does, in at most MOST_WORDS words
    answer: str  # at most MOST_WORDS words
    gates: str  # which networks behind it are weaker than a reference network must be; "" if none is
    rests: Mapping[str, Mapping[str, str]]  # {run: {claim: verdict}}: the verdicts that the answer rests on
    picture: str = ""  # a figure that shows it, by its path in the folder of the published runs
    shows: str = ""  # what the picture shows, in a sentence

    def outdated(self, paper: str, reference: Path) -> list[str]:
        """The verdicts of the published runs in the folder `reference` that are no longer those the answer rests on, as
        sentences; [] if the answer may be shown.
        """
        found = []
        for run, rests in self.rests.items():
            folder = reference / run / paper
            claims = files.claims(folder) if (folder / "claims.json").is_file() else {}
            for claim, verdict in rests.items():
                now = claims[claim]["verdict"] if claim in claims else "missing"
                if now != verdict:
                    found.append(f"{paper} {claim} is {now} at {run}, the answer rests on {verdict}")
        return found


def answers(reference: Path) -> dict[str, Answer]:
    """{paper: answer} from `answers.yaml` in the folder `reference` of the published runs; {} if there is no such file.
    Raises
    SettingsError for a claim or an answer of no or more than MOST_WORDS words, and for one that rests on nothing.
    """
    path = Path(reference) / "answers.yaml"
    found = {paper: Answer(**one) for paper, one in (loader.read(path) if path.is_file() else {}).items()}
    for paper, one in found.items():
        for what in ("claim", "answer"):
            count = len(getattr(one, what).split())
            need(0 < count <= MOST_WORDS, f"{path.name}: the {what} of {paper}", f"{count} words",
                 f"from 1 to {MOST_WORDS} words")
        need(bool(one.rests), f"{path.name}: rests of {paper}", one.rests, "the verdicts that the answer rests on")
    return found
