"""The store: whole or absent, made once, damage noticed, checked archives."""

import multiprocessing
import os
import time

import pytest

from lib.errors import SettingsError
from lib.files import write_atomic
from lib.store import Store


def make(text="one"):
    def maker(work):
        write_atomic(work / "data.txt", text)
        return {"what": text}
    return maker


def refuse(work):
    raise AssertionError("made although it was there")


def test_made_once_and_read_back(tmp_path):
    store = Store(tmp_path)
    first = store.obtain("network", "k", make())
    again = store.obtain("network", "k", refuse)
    assert (again.path / "data.txt").read_text() == "one" and again.meta["what"] == "one" and first.path == again.path


@pytest.mark.parametrize("damage", [
    lambda path: (path / "data.txt").write_text("tampered"),
    lambda path: (path / "data.txt").unlink(),
    lambda path: (path / "meta.json").write_text("{"),
    lambda path: (path / "meta.json").unlink(),
])
def test_a_damaged_entry_is_set_aside_made_again_and_logged(tmp_path, caplog, damage):
    store = Store(tmp_path)
    damage(store.obtain("network", "k", make()).path)
    entry = store.obtain("network", "k", make("two"))
    assert (entry.path / "data.txt").read_text() == "two"
    assert "damaged" in caplog.text and "k" in caplog.text
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_failed_making_leaves_no_entry(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.obtain("network", "k", lambda work: 1 / 0)
    assert store.load("network", "k") is None and not store.has("network", "k")
    store.obtain("network", "k", make())


def _contend(root, log):
    def maker(work):
        with open(log, "a") as f:
            f.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        write_atomic(work / "data.txt", "x")
    Store(root).obtain("network", "k", maker)


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_contend, args=(tmp_path, tmp_path / "log")) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1


def test_prune_keeps_what_is_named(tmp_path):
    store = Store(tmp_path)
    store.obtain("network", "a", make())
    store.obtain("network", "b", make())
    assert store.prune({("network", "a")}) > 0
    assert [e[:2] for e in store.entries()] == [("network", "a")]


def test_prune_leaves_what_was_made_from_kept_networks_alone(tmp_path):
    store = Store(tmp_path)
    for key in "ab":
        store.obtain("network", key, make())
    for kind, key, networks in (("maps", "of a", ["a"]), ("maps", "of both", ["a", "b"]), ("maps", "of b", ["b"]),
                                ("adversarial", "of a", ["a"]), ("maps", "of none", []), ("maps", "unknown", None)):
        noted = {} if networks is None else {"networks": networks}
        store.obtain(kind, key, lambda work, noted=noted: make()(work) | noted)
    store.prune({("network", "a")})
    assert {e[:2] for e in store.entries()} == {("network", "a"), ("maps", "of a"), ("adversarial", "of a")}


def test_export_and_import(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.obtain("network", "a", make())
    here.obtain("outcomes", "b", make())
    assert here.export(tmp_path / "all.tar") == 2
    there.obtain("network", "a", make("mine"))
    assert there.import_(tmp_path / "all.tar") == 1, "what is here already stays"
    assert (there.obtain("outcomes", "b", refuse).path / "data.txt").read_text() == "one"
    assert there.obtain("network", "a", refuse).meta["what"] == "mine"
    with pytest.raises(SettingsError, match="no such file"):
        there.import_(tmp_path / "absent.tar")
