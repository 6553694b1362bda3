"""The page of test images, from results that were made up here."""

import csv

import pytest
from PIL import Image

from lib import site as report
from lib.site import images
from tests.site.made import CLAIMS, Page, card, write

ROW = {"key": "k1", "data": "digits", "images": 400, "clean": 0.975, "robust": 0.6625, "threat": "linf",
       "eps": "8/255", "attack": "APGD-CE+T", "amplified": 15, "width": 8, "height": 8}
SHOWN = [{"what": what, "index": index, "label": "cat", "prediction": said, "attacked": after, "broken_by": by}
         for what in ("normal <net>", "robust net")
         for index, said, after, by in ((3, "cat", "dog", "Square"), (7, "ship", "", "clean"), (9, "cat", "", ""))]


def with_images(place):
    """Save test images in the folder of a notebook."""
    (place / "images").mkdir()
    Image.new("L", (16, 8 * len(SHOWN))).save(place / "images" / "strip.png")
    with (place / "tables" / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*SHOWN[0], *ROW, "top"])
        writer.writeheader()
        writer.writerows(ROW | one | {"top": 8 * number} for number, one in enumerate(SHOWN))


@pytest.fixture
def run(tmp_path):
    with_images(write(tmp_path / "laptop", "stitching", card(), CLAIMS))
    write(tmp_path / "laptop", "harp_pruning", card(notebook="harp_pruning"), CLAIMS)
    return tmp_path / "laptop"


def test_the_page_shows_failures_first_with_label_prediction_and_attack(run):
    report.index(run)
    page = Page((run / "images" / "stitching-laptop.html").read_text())
    assert page.text.index("Broken by the attack") < page.text.index("Misclassified without") < page.text.index(
        "Standing")
    first = page.text.split('id="network-1-image-3"')[1].split("</li>")[0]
    assert "<b>cat</b> → <b>dog</b> by Square" in first and first.count("<svg") == 2
    assert 'viewBox="8 0 8 8"' in first and "its change by Square, amplified 15 times" in first
    wrong = page.text.split('id="network-1-image-7"')[1].split("</li>")[0]
    assert "<b>cat</b>, called <b>ship</b>" in wrong and wrong.count("<svg") == 1
    assert "Normal &lt;net&gt;" in page.text and {"network-2-image-9", "network-2"} <= page.ids
    assert "ε = 8/255 in linf" in page.text
    assert "31.2 % are broken, 2.5 % are misclassified without an attack and 66.2 % stand" in page.text
    for link in page.links:
        assert link.startswith(("http", "#")) or (run / "images" / link.split("#")[0]).exists(), link


def test_other_pages_lead_to_it_where_there_is_one(run):
    report.index(run)
    pages = {name: (run / name).read_text() for name in (
        "index.html", "networks.html", "claims/stitching-C1a.html", "claims/harp_pruning-C1a.html")}
    assert [text.count("images/stitching-laptop.html") for text in pages.values()] == [1, 1, 1, 0]
    assert not any("images/harp_pruning" in text for text in pages.values())
    assert [path.name for path in (run / "images").iterdir()] == ["stitching-laptop.html"]


def test_a_page_goes_when_its_images_are_gone(run):
    report.index(run)
    (run / "stitching" / "tables" / "images.csv").unlink()
    report.index(run)
    assert not list((run / "images").iterdir()) and "images/" not in (run / "index.html").read_text()


@pytest.mark.parametrize(("eps", "said"), [("8/255", "ε = 8/255 in linf"), ("3/20", "ε = 0.15 in linf"),
                                           ("1/2", "ε = 0.5 in linf")])
def test_eps_is_named_as_people_write_it(eps, said):
    assert images.Network("net", ROW | {"eps": eps}, []).eps == said
