"""README and docs: short enough, without broken links or stale numbers, with examples that run."""

import csv
import json
import re
import tomllib

import pytest
import yaml

from lib import FLOORS, claims
from lib import site as report
from lib.cli import main
from lib.papers import papers
from lib.runtime import ROOT
from lib.site.words import VERDICTS

REFERENCE = ROOT / "results" / "reference"
README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "claims").glob("*.md")), ROOT / "benchmarks" / "README.md", ROOT / "data" / "README.md",
         *sorted(REFERENCE.glob("*.md"))]
WITH_EXAMPLES = [ROOT / "README.md", ROOT / "docs" / "library.md"]


def code_removed(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?s)```.*?```", "", text))


def anchors(text: str) -> set[str]:
    """The names under which the headings of a Markdown page are linked."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?s)```.*?```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_readme_is_short():
    assert len(README.encode()) <= 9000


def test_generated_parts_are_what_publish_writes():
    for name, table in (("answers", report.answers_markdown(REFERENCE)),
                        ("counts", report.counts_markdown(report.runs(REFERENCE)))):
        assert f"<!-- {name}:begin -->\n{table}\n<!-- {name}:end -->" in README, "python -m lib readme"
    page = (REFERENCE / "README.md").read_text(encoding="utf-8")
    assert page == report.reference_markdown(REFERENCE), "python -m lib readme"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_arrive(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", code_removed(path.read_text(encoding="utf-8"))):
        if workflow := re.fullmatch(r"\.\./\.\./actions/workflows/(\w+\.yml)(/badge\.svg)?", target):
            assert (ROOT / ".github" / "workflows" / workflow[1]).is_file(), target
        elif not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            place = path.parent / file if file else path
            assert place.exists(), target
            assert not anchor or anchor in anchors(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.name)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    for name in ("REPRO_RESULTS", "REPRO_STORE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    blocks = re.findall(r"(?s)```python\n(.*?)```", path.read_text(encoding="utf-8"))
    space = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), space)
    assert blocks and "[" in capsys.readouterr().out
    assert space["zoo"].store.root == tmp_path / "REPRO_STORE"


def test_findings_name_the_verdicts_of_the_published_runs():
    sections = re.split(r"(?m)^## ", FINDINGS)[1:]
    seen = set()
    for section in sections:
        paper = re.search(r"notebooks/(\w+)\.ipynb", section)[1]
        url = claims.load(paper).url  # a question of ours has none
        assert not url or f"[Paper]({url})" in section
        verdicts = {run.name: {claim["id"]: claim["verdict"] for claim in json.loads(path.read_text(encoding="utf-8"))}
                    for run in report.runs(REFERENCE) if (path := run / paper / "claims.json").is_file()}
        named = re.findall(rf"(on digits )?\b([CX]\d+[a-z]?): ({'|'.join(VERDICTS)})", " ".join(section.split()))
        for on_digits, claim, verdict in named:
            assert verdicts["smoke" if on_digits else "laptop"][claim] == verdict, (paper, claim)
        assert len(named) > 3
        seen.add(paper)
    assert seen == {paper for paper in papers() if any(REFERENCE.glob(f"*/{paper}/claims.json"))}


def test_the_readmes_picture_shows_what_its_caption_says():
    found = {"robust": [], "normal": []}
    for row in rows(REFERENCE / "laptop" / "representation_similarity" / "tables" / "summaries.csv"):
        if row["summary"] == "mean off-diagonal" and row["kind"] in found:
            found[row["kind"]].append(float(row["value"]))
    robust, normal = (sum(values) / len(values) for values in found.values())
    text = " ".join(README.split())
    assert f"mean CKA {robust:.2f}" in text and f"(left, {normal:.2f})" in text


def test_the_hours_of_laptop_are_its_price(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_STORE", str(tmp_path))
    assert main(["run", "--profile", "laptop", "--dry-run"]) == 0
    flops = [float(one) for one in re.findall(r"^\w.*networks \(.*, ([\d.]+) PFLOP$", capsys.readouterr().out, re.M)]
    text = " ".join((ROOT / "docs" / "profiles.md").read_text(encoding="utf-8").split())
    total, rate = (float(one) for one in re.search(r"([\d.]+) PFLOP at ([\d.]+) TFLOP/s a core", text).groups())
    told = [int(one) for one in re.search(r"across the papers \| (?:\|-+)+\| ((?:\| \d+ )+)\|", text)[1].split("|")[1:]]
    assert told == [pytest.approx(1000 * one / (2 * rate) / 60, abs=1) for one in flops]
    assert sum(flops) == pytest.approx(total, abs=0.02)
    hours = float(re.search(r"about (\d+) hours on 2 CPU cores", README)[1])
    assert hours == pytest.approx(sum(told) / 60, abs=0.5)
    alone = [told[0] + minutes for minutes in told[1:]]
    low, high = (int(number) for number in re.search(r"one notebook alone (\d+) to (\d+) minutes", README).groups())
    assert abs(low - min(alone)) <= 5 and abs(high - max(alone)) <= 5


MEASURED = {(row["name"], row["ours"], row["peer"]): row for path in (ROOT / "benchmarks" / "measured").glob("*/*.json")
            for row in json.loads(path.read_text(encoding="utf-8"))}


def rounded(value: float, like: str) -> str:
    """A number with as many decimals as the text `like`."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def test_benchmarks_are_the_measured_ones():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in text[text.index("## Measured"):].splitlines() if re.search(r"\dx \|$", line)]
    ours = ""
    for _, own, peer, faster in table:
        ours = own.removesuffix(" s") or ours
        theirs, ratio = re.match(r"([\d.]+) s", peer)[1], faster.removesuffix("x")
        assert [row for row in MEASURED.values() if rounded(row["ours_median_s"], ours) == ours
                and rounded(row["peer_median_s"], theirs) == theirs
                and rounded(row["ratio_median"], ratio) == ratio], (ours, peer)
    assert len(table) == 21


@pytest.mark.parametrize("sentence, name, ours, peer", [
    (r"training step is ([\d.]+) times", "training: PGD-10 step, ResNet-18", "lib (fp32)", "torchattacks 3.5.1"),
    (r"in fp32 and ([\d.]+) times in bf16", "training: PGD-10 step, ResNet-18", "lib (bf16)",
     "torchattacks 3.5.1, in bf16 autocast"),
    (r"PGD-20 of a robust network ([\d.]+) times", "evaluation: PGD-20, robust", "lib", "torchattacks 3.5.1"),
    (r"AutoAttack ([\d.]+) times", "autoattack: robust", "lib (search in fp32)", "pyautoattack 0.2.0"),
    (r"\(([\d.]+) times with a search in bf16", "autoattack: robust", "lib (search in bf16)", "pyautoattack 0.2.0"),
    (r"similarity maps ([\d.]+) times", "similarity: CKA", "lib", "torch-cka 0.21")])
def test_ratios_in_the_readme_are_the_measured_ones(sentence, name, ours, peer):
    said = re.search(sentence, " ".join(README.split()))[1]
    ratio, = (row["ratio_median"] for row in MEASURED.values()
              if row["name"].startswith(name) and row["ours"].startswith(ours) and row["peer"].endswith(peer))
    assert rounded(ratio, said) == said


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == version == re.search(r"(?m)^## ([\d.]+)", changes)[1]
    assert f"version {version}]" in README


def test_papers_are_cited_by_the_address_of_their_claims():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    known = {one["title"]: {one.get("url"), *(f"https://arxiv.org/abs/{found['value'].removeprefix('arXiv:')}"
                                             for found in one.get("identifiers", ()))} for one in cited}
    for sheet in map(claims.load, papers()):
        assert not sheet.url or sheet.url in known[sheet.title]


def test_the_picture_of_the_house_has_every_room():
    picture = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    for number, (_, rooms) in enumerate(FLOORS, 1):
        floor = re.search(rf"(?s)\n      {number} .*?(?=\n      \d |\n    \w)", picture)[0]
        assert not [room for room in rooms if room != "__main__" and not re.search(rf"\b{room}\b", floor)]
