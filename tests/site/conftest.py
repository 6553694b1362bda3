"""Pages: what their tests share."""

import pytest

from tests.site.made import CLAIMS, card, claim, write


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "laptop"
    write(folder, "stitching", card(), CLAIMS)
    write(folder, "harp_pruning", card(status="failed", error="SettingsError: no <data>"), [claim("H1", "supported")])
    write(folder, "killed", None, [claim("K1", "supported")])
    (folder / "not-a-notebook").mkdir()
    return folder
