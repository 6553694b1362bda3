"""The published pages in a browser, as readers meet them: wide, narrow, light, dark, by keyboard, without scripts.

They need Chromium and the packages of the group `browser` in pyproject.toml, and are skipped without them.
"""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lib import site as report
from lib.runtime import ROOT

pytestmark = pytest.mark.slow
HOW = "the tests of pages in a browser need {}: pip install '.[browser]', and Chromium from your system's packages"
playwright = pytest.importorskip("playwright.sync_api", reason=HOW.format("playwright"))
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=HOW.format("axe-playwright-python"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if not CHROMIUM:
    pytest.skip(HOW.format("chromium"), allow_module_level=True)

REFERENCE = ROOT / "results" / "reference"
PAPERS = sorted(path.parent.relative_to(REFERENCE).as_posix() for path in REFERENCE.glob("*/*/notebook.ipynb"))
PAGES = ["index.html", "claims.html", "claims/stitching-C1a.html", *(f"{paper}/notebook.html" for paper in PAPERS)]
WIDE, NARROW = 1280, 390

# What a person sees of a page's texts: [{text, box, clipped, apart}], one for each line. Texts for screen readers only
# (in boxes of one pixel), texts that a person can scroll to, and texts that end in an ellipsis on purpose are not
# clipped; apart: they may lie over others.
TEXTS = r"""() => {
  const found = [], style = new Map();
  const of = element => style.get(element) ?? style.set(element, getComputedStyle(element)).get(element);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, math, svg, .skip") || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    let left = 0, right = innerWidth, bottom = Infinity, apart = false, free = false, inner = false;
    for (let one = parent; one && one !== document.body; one = one.parentElement) {
      const {overflowX, overflowY, position, textOverflow} = of(one), box = one.getBoundingClientRect();
      apart ||= position === "fixed" || position === "sticky";
      free ||= textOverflow === "ellipsis" || box.width < 2;
      if (/hidden|clip/.test(overflowY) && !inner) bottom = Math.min(bottom, box.bottom);
      if (/hidden|clip/.test(overflowX) && !inner) {
        [left, right] = [Math.max(left, box.left), Math.min(right, box.right)];
      }
      if (/auto|scroll/.test(overflowX) && !inner) [left, right, inner] = [-Infinity, Infinity, true];
    }
    for (const box of range.getClientRects()) {
      if (box.width < 2) continue;
      const clipped = !free && (box.left < left - 1 || box.right > right + 1 || box.bottom > bottom + 2);
      found.push({text: node.data.trim().slice(0, 60), box: [box.left, box.top, box.right, box.bottom], clipped,
        apart: apart || free});
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The published results, with all their pages made again."""
    folder = tmp_path_factory.mktemp("site") / "reference"
    shutil.copytree(REFERENCE, folder)
    for paper in PAPERS:
        report.render(folder / paper / "notebook.ipynb")
    report.published(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site):
    """Open a page of the site; at the end of the test, it must have had no error."""
    errors, contexts = [], []

    def visit(name, width=WIDE, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme,
                                      reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda request: errors.append(f"not loaded: {request.url}"))
        page.goto((site / name).as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read(visit, name, width, scheme):
    page = visit(name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    page.evaluate("Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); }))")
    texts = page.evaluate(TEXTS)
    assert len(texts) > 20
    assert not [text["text"] for text in texts if text["clipped"]]
    assert not overlaps([text for text in texts if not text["apart"]])
    violations = axe.Axe().run(page, options={"preload": False}).response["violations"]
    assert not [(one["id"], [node["target"] for node in one["nodes"]][:5]) for one in violations]


def overlaps(texts: list[dict], least: float = 4) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share at least `least` pixels in both directions."""
    found, above = [], []
    for text in sorted(texts, key=lambda text: text["box"][1]):
        left, top, right, bottom = text["box"]
        above = [other for other in above if other["box"][3] - top >= least]
        found += [(other["text"], text["text"]) for other in above
                  if min(right, other["box"][2]) - max(left, other["box"][0]) >= least
                  and min(bottom, other["box"][3]) - top >= least]
        above.append(text)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_arrive(visit, site, name):
    page = visit(name)
    for link in page.evaluate("[...document.links].map(link => link.href)"):
        parts = urlsplit(link)
        if parts.scheme != "file":
            assert parts.scheme == "https", link
            continue
        target = Path(unquote(parts.path))
        assert target.exists(), link
        if parts.fragment and target.suffix == ".html" and "=" not in parts.fragment.removeprefix("cell-id="):
            text = target.read_text(encoding="utf-8")
            assert re.search(rf'id="{re.escape(unquote(parts.fragment))}"', text), link


@pytest.mark.parametrize("name", [f"{paper}/notebook.html" for paper in PAPERS])
def test_a_page_and_its_pictures_are_small(site, name):
    assert (site / name).stat().st_size < 2e6
    for picture in re.findall(r'src="(figures/[^"]+)"', (site / name).read_text(encoding="utf-8")):
        assert ((site / name).parent / unquote(picture)).stat().st_size < 2e6


NOTEBOOK = f"{PAPERS[-1]}/notebook.html"


def test_contents_can_be_reached_everywhere(visit):
    for width in (WIDE, NARROW):
        page = visit(NOTEBOOK, width)
        entry = page.get_by_role("navigation", name="On this page").get_by_role("link", name="Claims", exact=True)
        page.evaluate("scrollTo(0, document.body.scrollHeight / 3)")
        if width == NARROW:
            assert not entry.is_visible(), "it is folded where it would cover the text"
            page.get_by_text("On this page").focus()
            page.keyboard.press("Enter")
            assert page.evaluate("document.documentElement.scrollWidth") == NARROW
        entry.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#Claims"
        heading = page.get_by_role("heading", name="Claims", exact=True).bounding_box()
        bar = page.get_by_role("banner").bounding_box()
        assert bar["y"] + bar["height"] <= heading["y"] < 900, "the heading is not behind the bar"
        assert entry.is_visible() == (width == WIDE)


def test_folding_works_by_keyboard(visit):
    page = visit(NOTEBOOK)
    code = page.locator("details.code:not([data-keep])")
    assert code.count() > 5 and not code.evaluate_all("all => all.some(one => one.open)")
    code.first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert code.evaluate_all("all => all.filter(one => one.open).length") == 1
    button = page.get_by_role("button", name="Show all code")
    button.focus()
    page.keyboard.press("Space")
    assert code.evaluate_all("all => all.every(one => one.open)")
    page.get_by_role("button", name="Hide code").press("Enter")
    assert not code.evaluate_all("all => all.some(one => one.open)")


def test_wide_tables_scroll_by_keyboard(visit):
    page = visit(NOTEBOOK, NARROW)
    areas = page.locator(".scroll").filter(has=page.locator("table"))
    wide = areas.evaluate_all("all => all.map(one => one.scrollWidth > one.clientWidth)")
    assert any(wide) and not all(wide)
    assert areas.evaluate_all("all => all.map(one => one.tabIndex === 0)") == wide, "a stop only where it is needed"
    area = areas.nth(wide.index(True))
    area.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("area => area.scrollLeft > 0", arg=area.element_handle())


@pytest.mark.parametrize("name", PAGES)
def test_reading_needs_no_scripts(visit, name):
    page = visit(name, java_script_enabled=False)
    with_scripts = visit(name)
    assert page.locator("main").inner_text().count("\n") > 20
    for text in with_scripts.locator("h1, h2").all_inner_texts():
        assert text in page.locator("h1, h2").all_inner_texts()


def shown(page) -> list[str]:
    """The ids of the claims that the table of all claims shows, in order."""
    return page.locator("#claims tbody tr:visible").evaluate_all("rows => rows.map(row => row.id)")


def test_claims_are_filtered_by_keyboard_and_the_address_keeps_it(visit, site):
    page = visit("claims.html")
    every = shown(page)
    assert len(every) > 50
    contradicted = {f"{folder.name}-{claim['id']}" for folder in (site / "laptop").iterdir() if folder.is_dir()
                    for claim in json.loads((folder / "claims.json").read_text()) if claim["verdict"] == "contradicted"}
    page.get_by_label("Profile").focus()
    page.keyboard.type("laptop")
    page.get_by_label("Verdict").select_option("contradicted")
    assert set(shown(page)) == contradicted
    address = page.url
    page.get_by_label("Search").focus()
    page.keyboard.type("harp")
    assert set(shown(page)) == {one for one in contradicted if one.startswith("harp")}
    page.goto("about:blank")
    page.goto(address)
    assert set(shown(page)) == contradicted, "a link to what was chosen shows it again"


def in_order(claim):
    """A claim's letter (X: across the papers) and number."""
    letter, number = re.search(r"-([CX])(\d+)[a-z]?$", claim).groups()
    return letter, int(number)


def test_claims_are_sorted_by_keyboard(visit):
    page = visit("claims.html")
    before = shown(page)
    head = page.get_by_role("columnheader", name="Claim")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    numbers = [in_order(one) for one in shown(page)]
    assert numbers == sorted(numbers) and set(shown(page)) == set(before)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    numbers = [in_order(one) for one in shown(page)]
    assert numbers == sorted(numbers, reverse=True)
