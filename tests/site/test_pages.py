"""Pages and tables made from results that were made up here."""

import base64
import html.parser
import io
import json
import re

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageDraw

from lib import cli
from lib import site as report
from lib.errors import SettingsError
from lib.runtime import ROOT
from lib.site import words
from lib.site.shrink import FURTHEST

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Er"
                       "kJggg==")


def part(value, low, high, threshold=0.02, side="above", **more):
    return {"name": "difference: R→N minus untrained", "value": value, "low": low, "high": high, "threshold": threshold,
            "side": side, "seeds": 3, "images": 2000, "p": 0.001, "p_holm": 0.004,
            "passed": low is not None and low > threshold, **more}


def claim(key, verdict, parts=(), **more):
    return {"id": key, "statement": f"Statement of {key} with a < b | c", "verdict": verdict, "parts": list(parts),
            "paper_value": "0.93", "paper_source": "Fig. 3", "protocol": "PGD-20, 8/255", "figure": "curves",
            "reason": None, "margins_hash": "abc", **more}


def card(**more):
    return {"notebook": "stitching", "title": "Stitching", "profile": "laptop", "status": "ok", "error": None,
            "parameters": {"seeds": 3}, "overrides": {"stitching.epochs": "3"}, "first_seed": 100,
            "versions": {"torch": "2.15.0"}, "commit": "0123456789ab",
            "device": "cpu: x86_64", "threads": 2, "seconds": 754.2, "flops": 3.2e15, "seeds": 3,
            "networks": ["k1", "k2"], "started": "2026-01-01T10:00:00Z", "finished": "2026-01-01T10:12:34Z",
            "expected_false_decisions": 0.1, **more}


CLAIMS = [claim("C1a", "supported", [part(0.12, 0.08, 0.16), part(0.1, 0.05, 0.15)]),
          claim("C2", "contradicted", [part(-0.05, -0.08, -0.03)]),
          claim("C3", "undecided", [part(0.03, -0.01, 0.07)], reason="the interval reaches across the margin"),
          claim("C4", "not tested", [part(None, None, None)], reason="needs <CIFAR-10>", paper_value=None)]


def write(folder, name, card=None, claims=None):
    place = folder / name
    for sub in ("tables", "figures"):
        (place / sub).mkdir(parents=True)
    if card is not None:
        (place / "card.json").write_text(json.dumps(card))
    if claims is not None:
        (place / "claims.json").write_text(json.dumps(claims))
    (place / "tables" / "cells.csv").write_text("a,network\n1,0123456789abcdef\n")
    rows = [f"C1a,difference,R→N minus untrained,difference,{s},{v},2000" for s, v in enumerate((0.11, 0.13, 0.12))]
    head = "claim,part,instance,statistic,seed,value,over"
    (place / "tables" / "evidence.csv").write_text("\n".join([head, *rows]))
    (place / "figures" / "curves.png").write_bytes(PNG)
    (place / "notebook.html").write_text("<html></html>")
    return place


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "laptop"
    write(folder, "stitching", card(), CLAIMS)
    write(folder, "harp_pruning", card(status="failed", error="SettingsError: no <data>"), [claim("H1", "supported")])
    write(folder, "killed", None, [claim("K1", "supported")])
    (folder / "not-a-notebook").mkdir()
    return folder


class Page(html.parser.HTMLParser):
    """Checks that tags are closed, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.loaded, self.text = [], [], set(), [], text
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            self.open.append(tag)
        if "id" in attrs:
            assert attrs["id"] not in self.ids, f"two elements are called {attrs['id']}"
            self.ids.add(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        self.loaded += [attrs[k] for k in ("src", "srcset") if k in attrs] + ([attrs["href"]] if tag == "link" else [])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            assert self.open.pop() == tag, tag

    def check_alone(self, folder=None):
        """Nothing is loaded from anywhere but files in the folder, and links within the page arrive."""
        outside = [address for address in self.loaded if not address.startswith("data:")]
        assert all(folder and (folder / address).is_file() for address in outside), outside
        assert "@import" not in self.text and not re.search(r"url\((?!data:)", self.text)
        assert {link[1:] for link in self.links if link.startswith("#")} <= self.ids


def test_scoreboard(results):
    page = Page(report.index(results).read_text())
    page.check_alone(results)
    for verdict in words.VERDICTS:
        assert f'<li class="{verdict.replace(" ", "-")}"><b>1</b> {verdict}</li>' in page.text
    assert "0.120 [0.080, 0.160]" in page.text and "above 0.020" in page.text and "−0.050" in page.text
    assert "a &lt; b" in page.text and "needs &lt;CIFAR-10&gt;" in page.text  # text is never taken for markup
    assert "2 of these verdicts are decisions" in page.text and "at most about 0.1 of them" in page.text
    assert "cpu: x86_64" in page.text and "0123456789ab" in page.text and "13 min" in page.text
    assert "R→N minus untrained: 0.110, 0.130, 0.120" in page.text and "repetitions: 3 (seeds 100 to 102)" in page.text
    assert "./run_all.sh --profile laptop -p stitching.epochs=3 stitching" in page.text
    assert "./run_all.sh again --profile laptop KEY" in page.text
    outside = [link for link in page.links if not link.startswith("#")]
    assert {"stitching/notebook.html", "stitching/tables/cells.csv", "stitching/figures/curves.png"} <= set(outside)
    assert all((results / link).is_file() for link in outside)


def test_repetitions_without_a_number_are_shown_as_missing(results):
    with (results / "stitching" / "tables" / "evidence.csv").open("a") as file:
        for seed, value in enumerate(("", "0.5", "inf")):
            file.write(f"\nC2,difference,R→N minus untrained,ratio,{seed},{value},1")
    page = Page(report.index(results).read_text())
    assert "R→N minus untrained: –, 0.500, –" in page.text


def test_scoreboard_of_failed_notebooks(results):
    page = Page(report.index(results).read_text())
    assert "SettingsError: no &lt;data&gt;" in page.text and "<b>2</b> notebooks failed" in page.text
    assert {"harp_pruning/notebook.html", "killed/notebook.html"} <= set(page.links)
    # claims of an earlier run say nothing about this one
    assert "Statement of H1" not in page.text and "Statement of K1" not in page.text
    assert "not-a-notebook" not in page.text


def test_scoreboard_of_nothing_and_of_damaged_files(tmp_path):
    assert "No notebook has been run" in report.index(tmp_path).read_text()
    (tmp_path / "stitching").mkdir()
    (tmp_path / "stitching" / "card.json").write_text('{"status": "o')
    assert "Notebooks that failed" in report.index(tmp_path).read_text()
    assert not list(tmp_path.glob(".*")), "no half-written file is left"


def test_figures_are_shown_from_where_they_lie(results):
    (results / "stitching" / "figures" / "atlas.pdf").write_bytes(b"%PDF")
    claims = [claim("C1", "supported"), claim("C2", "supported"), claim("C3", "supported", figure="atlas.pdf")]
    (results / "stitching" / "claims.json").write_text(json.dumps(claims))
    page = Page(report.index(results).read_text())
    assert [address for address in page.loaded if "stitching" in address] == ["stitching/figures/curves.png"], "once"
    assert "image/png" not in page.text
    assert {"stitching/figures/curves.png", "stitching/figures/atlas.pdf"} <= {*page.links}


@pytest.mark.parametrize("value, text", [
    (0.12345, "0.123"), (-0.5, "−0.500"), (12.34, "12.3"), (1e-5, "1.0e−05"), (0, "0"), (2000, "2,000"), (None, "–"),
    (float("nan"), "–"), ("0.4 to 0.6", "0.4 to 0.6")])
def test_numbers(value, text):
    assert words.number(value) == text


def test_durations_and_drawing():
    texts = [words.duration(s) for s in (4.4, 61, 3599, 7300, None)]
    assert texts == ["4 s", "1 min", "1 h 00 min", "2 h 02 min", "–"]
    at, missing, empty = words.plot([part(0.12, 0.08, 0.16), part(0.12, float("nan"), 0.16), {}])
    assert 0 < at["threshold"] < at["low"] < at["value"] < at["high"] < 120 and missing is empty is None


def test_differences_of_accuracies_are_said_in_points_and_shares_in_percent():
    row = part(0.031, -0.0104, 0.072, statistic="difference")
    assert words.interval(row) == "+3.1 [−1.0, +7.2]" and words.needed(row) == "above +2.0 points"
    assert words.needed(part(0, -0.01, 0.01, 0.03, "within", statistic="difference")) == "within ±3.0 points"
    assert words.interval(part(0.5, 0.4, 0.6, statistic="accuracy")) == "50.0 [40.0, 60.0]"


def test_one_comparison_has_one_scale():
    parts = [part(0.1, 0.05, 0.15, name="a: N→R at stem", what="more"),
             part(0.3, 0.2, 0.4, name="a: R→N at stem", what="more"),
             part(0, -0.01, 0.01, 0.03, "within", name="b: largest", what="equal")]
    first, second = words.comparisons({"parts": parts})
    assert first["what"] == "more" and len(first["parts"]) == 2
    assert first["places"][0]["threshold"] == first["places"][1]["threshold"]
    assert first["places"][0]["wanted"] == [first["places"][0]["threshold"], 120]
    at = second["places"][0]
    assert at["wanted"] == [at["opposite"], at["threshold"]] and at["wanted"][0] < at["low"]


def test_markdown_table(results, tmp_path):
    write(tmp_path / "smoke", "stitching", card(), [claim("C1a", "not tested", [part(None, None, None)])])
    table = report.claims_table_markdown([tmp_path / "smoke", results]).splitlines()
    assert table[0] == "| Claim | The paper | smoke | laptop |"
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    row = next(line for line in table if "C1a" in line)
    assert row.endswith("| 0.93 · Fig. 3 | – not tested | ✓ supported (2 of 2 parts) |")
    assert any(line.endswith("|  | ✗ contradicted −0.050 [−0.080, −0.030] |") for line in table)


def test_readings_stand_beside_the_verdicts_they_were_written_for(results):
    (results.parent / "readings.yaml").write_text("""
laptop:
  stitching:
    C2: {verdict: contradicted, cause: claim, why: "a < b, whatever the seed"}
    C3: {verdict: contradicted, cause: seeds, why: written before the last run}
smoke: {stitching: {C3: {verdict: undecided, cause: size, why: of another profile}}}
""")
    page = report.index(results).read_text()
    assert "Our reading, it does not hold here:" in page and "a &lt; b, whatever the seed" in page
    assert "before the last run" not in page and "another profile" not in page
    table = report.claims_table_markdown([results])
    assert "✗ contradicted −0.050 [−0.080, −0.030]: it does not hold here |" in table
    assert "? undecided 0.030 [−0.010, 0.070] |" in table


def test_readme(tmp_path, results):
    (tmp_path / "results" / "reference").mkdir(parents=True)
    results.rename(tmp_path / "results" / "reference" / "laptop")
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter\n")
    report.readme(path)
    text = path.read_text()
    assert text.startswith("before\n<!-- claims:begin -->\n| Claim")
    assert text.endswith("|\n<!-- claims:end -->\nafter\n")
    assert "old" not in text
    report.readme(path)
    assert path.read_text() == text
    path.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the claims"):
        report.readme(path)


def notebook(failed: bool):
    error = new_output("error", ename="SettingsError", evalue="eps = -1 is <bad>", traceback=["\x1b[0;31mTrace\x1b[0m"])
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "100%"}
    cells = [new_markdown_cell("# A title\n\nThe ball $\\lVert\\delta\\rVert_\\infty \\le \\varepsilon$ and\n\n"
                               "$$\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}$$"),
             new_code_cell("eps = 1", execution_count=1, metadata={"tags": ["parameters"]}),
             new_markdown_cell("## Data"),
             new_code_cell("figure", execution_count=2, outputs=[
                 new_output("display_data", {"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure>"}),
                 new_output("display_data", widget),
                 new_output("stream", name="stdout", text="epoch 1 <loss> 0.5\n")]),
             new_markdown_cell("## Networks"), new_markdown_cell("## Claim")]
    if failed:
        cells[4:4] = [new_markdown_cell("papermill's own words", metadata={"tags": ["papermill-error-cell-tag"]}),
                      new_code_cell("study = 1", execution_count=3, outputs=[error]), new_code_cell("never = 1")]
    return new_notebook(cells=cells)


@pytest.mark.parametrize("failed", [False, True])
def test_notebook_page(tmp_path, failed):
    path = tmp_path / "smoke" / "stitching" / "notebook.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook(failed), path)
    page = Page(report.render(path).read_text())
    page.check_alone()
    assert "<title>A title (smoke)</title>" in page.text
    assert page.text.count("<math") == 2 and "$" not in re.sub(r"(?s)<(script|style).*?</\1>", "", page.text)
    assert page.text.count('<details class="code">') == 1 + failed  # the rest stands open: parameters, and what failed
    assert page.text.count('<details class="code" data-keep="" open="">') == 1 + failed
    assert 'alt="Figure of the section: Data"' in page.text
    assert "100%" in page.text and "epoch 1 &lt;loss&gt; 0.5" in page.text and "data:image/png" in page.text
    assert ("This run stopped half-way" in page.text) == failed == ("eps = -1 is &lt;bad&gt;" in page.text)
    assert "papermill" not in page.text
    if failed:
        assert "1 code\n  cell after it did not run" in page.text


def test_links_lead_from_the_page_to_where_they_led_from_the_notebook(tmp_path):
    path = tmp_path / "smoke" / "stitching" / "notebook.ipynb"
    path.parent.mkdir(parents=True)
    text = "[a](../claims/stitching.md#choices) [b](https://example.org/x) [c](#data)"
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), path)
    near, far, here = re.findall(r'<a href="([^"]+)">[abc]</a>', report.render(path).read_text())
    assert (path.parent / near.removesuffix("#choices")).resolve() == ROOT / "claims" / "stitching.md"
    assert near.endswith("#choices") and far == "https://example.org/x" and here == "#data"


def test_formulas_that_cannot_be_converted_are_shown_as_written():
    assert report.mathml(r"\notacommand{x}") is None
    assert report.mathml(r"\frac{a}{b") is None or "mfrac" in report.mathml(r"\frac{a}{b")
    assert "<mtable" in report.mathml(r"\begin{align*} a &= b \end{align*}", block=True)


def png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", dpi=(150, 150))
    return buffer.getvalue()


def pixels(data: bytes):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), int)


def drawing(colours: int = 600) -> Image.Image:
    """Lines and a ramp of colours on white, with soft edges, as matplotlib saves a figure."""
    large = Image.new("RGB", (1600, 1200), "white")
    draw = ImageDraw.Draw(large)
    for k in range(colours):
        draw.rectangle((100 + 2 * k, 900, 101 + 2 * k, 1100), fill=(40 + k // 6, 200 - k // 4, 120 + (7 * k) % 40))
    for k, colour in enumerate(("#2166ac", "#c0392b", "#e08a00")):
        draw.line((50, 100 + 200 * k, 1500, 700 - 100 * k), fill=colour, width=6)
    return large.resize((800, 600), Image.Resampling.LANCZOS).convert("RGBA")


def photograph() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((200, 200), Image.Resampling.BICUBIC)


def test_a_drawing_gets_a_palette_and_looks_the_same():
    before = png(drawing())
    after = report.few_colours(before)
    assert len(after) < len(before) / 2
    image = Image.open(io.BytesIO(after))
    assert image.mode == "P" and image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert len(np.unique(pixels(before).reshape(-1, 4), axis=0)) > 256, "so colours had to be given up"
    assert np.abs(pixels(after) - pixels(before)).max() <= FURTHEST
    white = (pixels(before) == 255).all(-1)
    assert white.mean() > 0.5 and (pixels(after)[white] == 255).all(), "the ground stays white"
    assert report.few_colours(after) == after


def test_a_photograph_keeps_its_colours_and_what_is_transparent_is_left_alone():
    before = png(photograph())
    after = report.few_colours(before)
    assert len(after) <= len(before) and (pixels(after) == pixels(before)).all()
    clear = drawing()
    clear.putpixel((5, 5), (0, 0, 0, 100))
    assert report.few_colours(png(clear)) == png(clear)
    assert report.few_colours(PNG) == PNG, "nothing is gained for one pixel"


def executed(place):
    """A notebook's results with a figure and an SVG, and the same picture in the notebook and its page."""
    picture = png(drawing())
    (place / "figures" / "curves.png").write_bytes(picture)
    (place / "figures" / "curves.svg").write_text("<svg>" + " " * 100_000 + "</svg>")
    nb = notebook(False)
    nb.cells[3].outputs[0].data["image/png"] = base64.b64encode(picture).decode() + "\n"
    nbformat.write(nb, place / "notebook.ipynb")
    report.render(place / "notebook.ipynb")
    return place


def contents(folder) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_pictures(text: bytes) -> bytes:
    return re.sub(rb"[A-Za-z0-9+/=]{80,}(\\n|\n)?", b"", text).rstrip()


def test_shrinking_takes_pictures_only(tmp_path):
    place = executed(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    (place / "figures" / "small.png").write_bytes(png(drawing()))
    (place / "figures" / "small.svg").write_text("<svg></svg>")
    (place / "figures" / "alone.svg").write_text("<svg>" + " " * 100_000 + "</svg>")
    before = contents(place)
    report.shrink(place)
    after = contents(place)
    assert before.keys() - after.keys() == {"figures/curves.svg"}, "larger than its PNG"
    for name in after:
        if name.startswith("notebook"):
            assert without_pictures(after[name]) == without_pictures(before[name]), name
            assert len(after[name]) < len(before[name])
        elif not name.endswith(".png"):
            assert after[name] == before[name], name
    assert after["figures/curves.png"] == report.few_colours(before["figures/curves.png"])
    shown = base64.b64encode(after["figures/curves.png"])
    assert shown in after["notebook.ipynb"] and shown in after["notebook.html"]
    Page(after["notebook.html"].decode()).check_alone()
    report.shrink(place)
    assert contents(place) == after
    nbformat.validate(nbformat.read(place / "notebook.ipynb", as_version=4))


def test_publishing(tmp_path, monkeypatch, capsys):
    for name, value in (("REPRO_RESULTS", tmp_path / "runs"), ("REPRO_STORE", tmp_path / "store")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- claims:begin -->\n<!-- claims:end -->\n")
    place = executed(write(tmp_path / "runs" / "laptop", "stitching", card(commit="0123456789ab+changes"), CLAIMS))
    (place / ".left.part").write_text("half a file")
    (place / "snapshot.json").write_text('{"numerics": 0}')  # of the run, whatever the settings and claims are now
    published = tmp_path / "results" / "reference" / "laptop"
    assert cli.main(["publish", "laptop"]) == 2 and not published.exists()
    assert "commit first, run again, then publish" in capsys.readouterr().err
    assert cli.main(["publish", "smoke"]) == 2
    (place / "card.json").write_text(json.dumps(card()))
    before = contents(place)
    assert cli.main(["publish", "laptop"]) == 0
    assert contents(place) == before, "the run itself keeps its figures as they are"
    after = contents(published / "stitching")
    assert before.keys() - after.keys() == {".left.part", "figures/curves.svg"}
    assert all(after[name] == before[name] for name in ("claims.json", "card.json", "snapshot.json"))
    assert after["figures/curves.png"] == report.few_colours(before["figures/curves.png"])
    Page((published / "index.html").read_text()).check_alone(published)
    assert "Statement of C1a" in readme.read_text()


# ------------------------------------------------------------------------------------------- against the published run


def beside(tmp_path, **changes):
    """A published run and one that differs from it by the changes of a claim's fields: {claim id: changes}."""
    for name, differ in (("published", {}), ("run", changes)):
        rows = [{**row, **differ.get(row["id"], {})} for row in CLAIMS]
        write(tmp_path / name, "stitching", card(), rows)
    return report.compare(tmp_path / "run", tmp_path / "published")


def test_a_run_that_gives_the_same_agrees(tmp_path):
    table = beside(tmp_path)
    assert table["agrees"].all() and table["equal"].all() and len(table) == 4 + 4
    assert set(table["claim"]) == {"C1a", "C2", "C3", "C4"}


@pytest.mark.parametrize("changes, agrees, why", [
    ({"parts": [part(-0.04, -0.06, -0.02)]}, True, ""),
    ({"parts": [part(0.04, 0.02, 0.06)]}, False, "their intervals do not meet"),
    ({"parts": [part(-0.3, None, None)]}, True, ""),
    ({"parts": []}, True, ""),
    ({"parts": [part(-0.05, -0.08, -0.03, name="another")]}, False, "only one of the two has it"),
    ({"verdict": "undecided"}, True, ""),
    ({"verdict": "supported"}, False, "contradicted became supported"),
    ({"margins_hash": "xyz"}, False, "text or margins have changed"),
])
def test_what_a_run_may_give_otherwise(tmp_path, changes, agrees, why):
    table = beside(tmp_path, C2=changes)
    mine = table[table["claim"] == "C2"]
    assert mine["agrees"].all() == agrees and why in " ".join(mine["why"])
    assert table[table["claim"] != "C2"]["agrees"].all()


def test_a_claim_that_only_one_has_and_runs_without_a_common_notebook(tmp_path):
    beside(tmp_path)
    path = tmp_path / "run" / "stitching" / "claims.json"
    path.write_text(json.dumps(CLAIMS[:3]))
    table = report.compare(tmp_path / "run", tmp_path / "published")
    assert table[~table["agrees"]]["claim"].tolist() == ["C4"]
    path.unlink()
    with pytest.raises(SettingsError, match="run = run .* share a finished notebook"):
        report.compare(tmp_path / "run", tmp_path / "published")
