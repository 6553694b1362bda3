"""The pages of notebooks, smaller figures and publishing, from results that were made up here."""

import base64
import io
import json
import re

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from lib import cli
from lib import site as report
from lib.runtime import ROOT
from lib.site.shrink import FURTHEST
from tests.site.made import CLAIMS, PNG, Page, card, write


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


def test_heads_of_tables_that_name_a_measure_say_what_it_is(tmp_path):
    path = tmp_path / "smoke" / "stitching" / "notebook.ipynb"
    path.parent.mkdir(parents=True)
    table = "<table><thead><tr><th>clean</th><th>robust</th><th>seed</th></tr></thead><tr><td>1</td></tr></table>"
    cell = new_code_cell("show", outputs=[new_output("display_data", {"text/html": table})])
    nbformat.write(new_notebook(cells=[cell]), path)
    heads = re.findall(r"<th( [^>]*)?>(\w+)</th>", report.render(path).read_text())
    assert [(name, bool(said)) for said, name in heads] == [("clean", True), ("robust", False), ("seed", False)]
    assert heads[0][0] == ' title="The share of test images that are classified correctly. Higher is better."'


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


def told(place):
    """The results of a notebook that shows two saved figures, other pictures, a wide table and its verdicts."""
    (place / "figures" / "curves.png").unlink()
    for name, image in (("curves_digits", drawing()), ("curves_torus", photograph())):
        (place / "figures" / f"{name}.png").write_bytes(png(image))
    shown = [new_output("display_data", {"image/png": base64.b64encode(png(image.resize((120, 90)))).decode() + "\n",
                                         "text/plain": "<Figure>"}) for image in (photograph(), drawing())]
    table = ('<style>#T_a_b { background-color: #d6604d;\n color: #f1f1f1; }\n'
             '#T_a_c { background-color: #67001f;\n color: #f1f1f1; }</style>'
             '<table id="T_a"><thead><tr><th id="T_a_b" class="blank">&nbsp;</th><th>pair</th></tr></thead>'
             '<tbody><tr><th>first</th><td class="data row0">N->R</td></tr></tbody></table>')
    verdicts = "<table><tr><th>verdict</th></tr><tr><td>some_part: N->R</td></tr></table>"
    cells = [new_markdown_cell("# A title"),
             new_markdown_cell("## Three curves (C1, C2)\n\n*Blue*: where $\\alpha$ is 1.\n\nMore."),
             new_code_cell('cells = study.table("cells", found)\nfor part in parts:\n'
                           '    study.figure(f"curves_{part}", figure)', execution_count=1, outputs=shown),
             new_code_cell("show", execution_count=2, outputs=[new_output("display_data", {
                 "image/png": base64.b64encode(PNG).decode(), "text/plain": "map of N0 and R0"})]),
             new_code_cell("wide", execution_count=3, outputs=[new_output("display_data", {"text/html": table})]),
             new_markdown_cell("## Claims"),
             new_code_cell("study.judge(evidence, checks)", execution_count=4,
                           outputs=[new_output("execute_result", {"text/html": verdicts}, execution_count=4)])]
    nbformat.write(new_notebook(cells=cells), place / "notebook.ipynb")
    return place


def test_a_page_shows_what_was_found_before_the_notebook(tmp_path):
    place = told(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    page = Page(report.render(place / "notebook.ipynb").read_text())
    page.check_alone(place)
    summary, notebook = page.text.split('id="the-notebook"')
    assert summary.index("On the Functional Similarity") < summary.index("figures/curves_digits.png")
    for one in CLAIMS:
        assert f'href="../claims/stitching-{one["id"]}.html#laptop"' in summary
        assert one["statement"].replace("<", "&lt;") in summary and one["verdict"] in summary
    assert "some_part" not in page.text, "verdicts are those of claims.json, without names of parts"
    assert notebook.count('class="badge') == len(CLAIMS) and "0.120 [0.080, 0.160]" in notebook
    assert "needs &lt;CIFAR-10&gt;" in notebook
    assert "./run_all.sh --profile laptop -p stitching.epochs=3 stitching" in summary


def test_a_page_refers_to_saved_figures_and_says_what_they_show(tmp_path):
    place = told(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    text = report.render(place / "notebook.ipynb").read_text()
    notebook = text.split('id="the-notebook"')[1]
    shown = re.findall(r'<img alt="([^"]+)"[^>]* src="([^"]+)"', notebook)
    assert [source for _, source in shown[:2]] == ["figures/curves_torus.png", "figures/curves_digits.png"], (
        "the pictures are told apart by their looks")
    assert shown[0][0] == "Three curves, figure curves torus. Blue : where α is 1."
    assert "map of N0 and R0" in shown[2][0] and shown[2][1].startswith("data:image/png")
    assert text.count("data:image/png") == 1
    assert "Three curves</b>: curves torus" in notebook and 'href="tables/cells.csv"' in notebook
    assert notebook.count('title="Statement of C1a') == 2, "a claim's figure is one for each data set"


@pytest.mark.parametrize("call", ['study.figure("curves_torus", figure)', "study.figure(name, figure)"])
def test_a_figure_is_described_in_the_words_saved_with_it(tmp_path, call):
    place = write(tmp_path / "laptop", "stitching", card(), CLAIMS)
    text = PngInfo()
    text.add_itxt("Description", "R loses 4 %. Accuracy against ε <of linf>.")
    for name, image, saved in (("curves_torus", photograph(), text), ("curves", drawing(), None)):
        image.save(place / "figures" / f"{name}.png", pnginfo=saved)
    shown = new_output("display_data", {"image/png": base64.b64encode(png(photograph())).decode()})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), new_code_cell(call, outputs=[shown])]),
                   place / "notebook.ipynb")
    said = 'alt="R loses 4 %. Accuracy against ε &lt;of linf&gt;."'
    assert said in report.render(place / "notebook.ipynb").read_text()
    report.shrink(place)
    assert said in (place / "notebook.html").read_text(), "smaller figures keep their words"
    page = report.index(tmp_path / "laptop").parent / "claims" / "stitching-C1a.html"
    assert 'alt="Figure curves of' in page.read_text()


def test_tables_are_for_readers(tmp_path):
    place = told(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    text = report.render(place / "notebook.ipynb").read_text()
    table = re.search(r'<div class="scroll"><table.*?</table></div>', text, re.DOTALL)[0]
    assert "<th></th>" not in table and "<th>\xa0</th>" not in table and len(re.findall("<th[ >]", table)) == 2
    assert '<th scope="row">first</th>' in table and "N→R" in table and "data row0" not in table
    assert re.findall(r"background-color: #\w+;\s*color: (#\w+)", text) == ["#000000", "#ffffff"], "it can be read"


def test_published_pages_lead_to_the_site_that_they_share(tmp_path):
    place = told(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    answer = {"question": "Alike?", "claim": "It is.", "answer": "Not quite.", "gates": ""}
    for verdict, shown in (("contradicted", True), ("supported", False)):
        answers = {"stitching": {**answer, "rests": {"laptop": {"C2": verdict}}}}
        (tmp_path / "answers.yaml").write_text(json.dumps(answers))
        text = report.render(place / "notebook.ipynb").read_text()
        assert 'href="../../claims/stitching-C1a.html#laptop"' in text
        assert ("Alike?" in text) == ("Not quite." in text) == shown, "an answer rests on verdicts as they are"


def test_a_failed_run_shows_no_claims_of_an_older_one(tmp_path):
    place = told(write(tmp_path / "laptop", "stitching", card(status="failed", error="killed"), CLAIMS))
    text = report.render(place / "notebook.ipynb").read_text()
    assert "Statement of C1a" not in text and "figures/curves_torus.png" in text


def test_a_published_notebook_stores_no_picture_twice(tmp_path):
    place = told(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    before = Page(report.render(place / "notebook.ipynb").read_text()).text
    report.shrink(place)
    after = nbformat.read(place / "notebook.ipynb", as_version=4)
    first, second = (output["data"] for output in after.cells[2].outputs)
    assert "image/png" not in first and 'src="figures/curves_torus.png"' in first["text/html"]
    assert "image/png" not in second and 'src="figures/curves_digits.png"' in second["text/html"]
    assert "image/png" in after.cells[3].outputs[0]["data"], "this picture is nowhere else"
    nbformat.validate(after)
    assert (place / "notebook.html").read_text() == before
    small = contents(place)
    report.shrink(place)
    assert contents(place) == small


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
    readme.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("answers", "counts")))
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
    assert "4: 1 supported" in readme.read_text()
    assert "Statement of C1a" in (published.parent / "README.md").read_text()
