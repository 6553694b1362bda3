"""Files: no parts, digests that follow the content, and where what profiles name is looked for."""

import hashlib
import os

from lib.files import resolve_path, sha256, sha256_once, write_atomic
from lib.runtime import ROOT


def test_write_atomic_makes_folders_and_never_leaves_a_part(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_atomic(path, "é")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_digest_is_of_what_lies_there_now(tmp_path):
    path = tmp_path / "weights.pt"
    for time, content in enumerate((b"one", b"two", b"three")):
        path.write_bytes(content)
        os.utime(path, (time, time))
        assert sha256(path) == sha256_once(path) == hashlib.sha256(content).hexdigest()


def test_damage_is_told_even_where_size_and_time_are_the_same(tmp_path):
    path = tmp_path / "weights.pt"
    found = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        found.append((sha256(path), sha256_once(path)))
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1], "what a plan names many times is read once"


def test_a_relative_path_is_looked_for_in_the_data_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    (tmp_path / "mine.pt").touch()
    assert resolve_path("mine.pt") == tmp_path / "mine.pt"
    assert resolve_path("README.md") == ROOT / "data" / "README.md"
    assert resolve_path("nowhere.pt") == tmp_path / "nowhere.pt"
    assert resolve_path(str(ROOT / "README.md")) == ROOT / "README.md"
    monkeypatch.delenv("REPRO_DATA")
    assert resolve_path("nowhere.pt") == ROOT / "data" / "nowhere.pt"
