"""The store: whole or absent, made once, damage noticed, checked archives."""

import errno
import io
import json
import multiprocessing
import os
import tarfile
import threading
import time

import pytest
import torch

from lib import files, store
from lib.attacks.notes import STANDING, Notes
from lib.errors import SettingsError
from lib.files import FileError, load_state, save_state, save_tensors, write_atomic
from lib.store import Store

PASSING = [errno.EMFILE, errno.ESTALE, errno.EACCES, errno.EIO]


def make(text="one"):
    def maker(work):
        write_atomic(work / "data.txt", text)
        return {"what": text}
    return maker


def flip(path, word: bytes):
    """Change one bit in the first of these words of a file."""
    content = path.read_bytes()
    path.write_bytes(content.replace(word, bytes([word[0] ^ 1]) + word[1:], 1))


def test_seconds_of_an_entry_are_its_own_and_uses_are_noted(tmp_path, monkeypatch):
    box, clock = Store(tmp_path), [0.0]
    monkeypatch.setattr(store.time, "time", lambda: clock[0])

    def work_for(seconds, text):
        def maker(work):
            clock[0] += seconds
            return make(text)(work)
        return maker

    def outer(work):
        box.obtain("network", "a", work_for(100, "a"))
        return work_for(7, "b")(work)

    box.obtain("outcomes", "b", outer)
    assert {kind: meta["made_seconds"] for (kind, _), meta in box.used.items()} == {"network": 100, "outcomes": 7}
    assert all(box.load(*entry).meta == meta for entry, meta in box.used.items())
    again = Store(tmp_path)
    again.obtain("outcomes", "b", refuse)
    assert again.used.keys() == {("outcomes", "b")}


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
    lambda path: (path / "meta.json").write_bytes(b"\xff\xfe"),
    lambda path: flip(path / "meta.json", b"what"),
    lambda path: (path / "meta.json").write_text("[]"),
    lambda path: (path / "meta.json").write_text('{"files": ["data.txt"]}'),
    lambda path: (path.rename(path.with_name("other")), path.write_text("a file")),
])
def test_a_damaged_entry_is_set_aside_made_again_and_logged(tmp_path, caplog, damage):
    store = Store(tmp_path)
    damage(store.obtain("network", "k", make()).path)
    entry = store.obtain("network", "k", make("two"))
    assert (entry.path / "data.txt").read_text() == "two"
    assert "damaged" in caplog.text and "k" in caplog.text
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_reading_a_damaged_entry_moves_nothing(tmp_path, caplog):
    """So that a store can be read by who must not write to it, and only who holds the lock clears the place."""
    box = Store(tmp_path)
    (box.obtain("network", "k", make()).path / "data.txt").write_text("tampered")
    assert box.load("network", "k") is None and "damaged" in caplog.text
    assert box.has("network", "k") and not (tmp_path / "damaged").exists()


def failing(number):
    def fail(*args, **named):
        raise OSError(number, os.strerror(number), "some file")

    return fail


def tree(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text and text and isinstance(error.value, FileError)
    return text


@pytest.mark.parametrize("number", PASSING)
def test_what_cannot_be_read_is_no_damage(tmp_path, monkeypatch, number):
    box = Store(tmp_path)
    box.obtain("network", "k", make())
    before = tree(tmp_path)
    monkeypatch.setattr(store, "sha256", failing(number))
    for read in (lambda: box.load("network", "k"), lambda: box.obtain("network", "k", refuse),
                 lambda: box.set_damaged_aside({"k"})):
        with pytest.raises(FileError) as error:
            read()
        assert os.strerror(number) in one_sentence(error) and "some file" in str(error.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("call", ["mkdir", "replace", "open"])
def test_what_cannot_be_written_is_a_sentence_and_damages_nothing(tmp_path, monkeypatch, number, call):
    box = Store(tmp_path)
    box.obtain("network", "there", make())
    (box.obtain("network", "k", make()).path / "data.txt").write_text("tampered")
    before = {path: content for path, content in tree(tmp_path).items() if "network" in path}
    with monkeypatch.context() as patch:
        patch.setattr(*{"mkdir": (store.Path, "mkdir"), "replace": (os, "replace"), "open": (os, "open")}[call],
                      failing(number))
        with pytest.raises(FileError) as error:
            box.obtain("network", "k", make("two"))
        assert os.strerror(number) in one_sentence(error)
        assert box.obtain("network", "there", refuse).meta["what"] == "one", "what is there is still read"
    assert {path: content for path, content in tree(tmp_path).items() if "network" in path} == before
    assert box.obtain("network", "k", make("two")).meta["what"] == "two", "goes on when it has passed"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a.txt", "old")
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    before = tree(tmp_path)
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    for write in (lambda: write_atomic(tmp_path / "a.txt", "new"),
                  lambda: save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}),
                  lambda: save_state(tmp_path / "a.txt", {"x": 1})):
        with pytest.raises(FileError, match="No space left on device .*make room there"):
            write()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", PASSING)
def test_what_a_killed_job_goes_on_from_survives_what_passes(tmp_path, monkeypatch, number):
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"epoch": 3})
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(number))  # what pathlib opens with
        with pytest.raises(FileError) as error:
            load_state(path, refuse)
        with pytest.raises(FileError):
            Notes(torch.zeros(2), None).load(path, "k")
    assert os.strerror(number) in one_sentence(error) and tree(tmp_path) == before
    got = []
    assert load_state(path, got.append) and got == [{"epoch": 3}]


@pytest.mark.parametrize("damage, take", [
    (lambda path: path.write_bytes(b""), refuse), (lambda path: path.write_bytes(b"torn"), refuse),
    (lambda path: flip(path, b"weights"), refuse), (lambda path: None, lambda state: state["step"]),
])
def test_what_a_killed_job_cannot_go_on_from_is_set_aside(tmp_path, caplog, damage, take):
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"epoch": 3, "words": "weights"})
    damage(path)
    content = path.read_bytes()
    assert not load_state(path, take)
    assert not path.exists() and (tmp_path / "checkpoint.pt.damaged").read_bytes() == content
    assert "its work starts over" in caplog.text
    assert not load_state(path, refuse), "nothing stays in the way"


def test_notes_of_another_search_are_set_aside(tmp_path):
    ours, theirs = (Notes(torch.full((3,), STANDING), None) for _ in range(2))
    ours.add(torch.arange(2), torch.tensor([True, False]), torch.zeros(2, 1, 1, 1))
    ours.save(tmp_path / "notes.pt", "ours")
    theirs.load(tmp_path / "notes.pt", "theirs")
    assert (theirs.by == STANDING).all() and theirs.done == 0 and (tmp_path / "notes.pt.damaged").exists()


def test_who_waited_for_the_lock_takes_what_was_made_meanwhile(tmp_path):
    """Damage seen before the lock says nothing about the entry that is in place after it."""
    box = Store(tmp_path)
    (box.obtain("network", "k", make()).path / "data.txt").write_text("tampered")
    with box.lock("network", "k"):
        waiting = threading.Thread(target=lambda: found.append(Store(tmp_path).obtain("network", "k", refuse)))
        found = []
        waiting.start()
        time.sleep(0.3)
        box.set_aside("network", "k", "damaged")
        work = tmp_path / "elsewhere"
        entry = Store(work).obtain("network", "k", make("two"))
        os.replace(entry.path, box.folder("network", "k"))
    waiting.join()
    assert found[0].meta["what"] == "two" and len(list((tmp_path / "damaged").iterdir())) == 1


def test_locks_do_not_pile_up(tmp_path):
    box = Store(tmp_path)
    box.obtain("network", "k", make())
    with pytest.raises(ZeroDivisionError):
        box.obtain("network", "other", lambda work: 1 / 0)
    assert not list((tmp_path / "locks").iterdir())


def test_what_a_killed_process_left_is_deleted(tmp_path):
    box = Store(tmp_path)
    work = box.workdir("network", "k")
    write_atomic(work / ".data.txt.1.part", "half")
    entry = box.obtain("network", "k", make())
    assert [path.name for path in sorted(entry.path.iterdir())] == ["data.txt", "meta.json"]
    for name in ("network-k", "network-other"):
        write_atomic(tmp_path / "locks" / f"{name}.lock", "")
    box.set_damaged_aside(set())
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["network-other.lock"], "it is not made yet"
    write_atomic(tmp_path / "locks" / "network-k.lock", "")
    with box.lock("network", "k"):
        box.set_damaged_aside(set())
        assert (tmp_path / "locks" / "network-k.lock").exists(), "it is held"


def test_damage_in_what_a_run_rests_on_is_found(tmp_path):
    box = Store(tmp_path)
    for kind, key in (("network", "a"), ("network", "b"), ("outcomes", "of a"), ("maps", "torn")):
        box.obtain(kind, key, lambda work, key=key: make()(work) | {"network": key[-1]})
    assert box.set_damaged_aside({"a", "b"}) == set()
    for kind, key in (("network", "b"), ("outcomes", "of a")):
        (box.folder(kind, key) / "data.txt").write_text("tampered")
    (box.folder("maps", "torn") / "meta.json").write_text("{")
    assert box.set_damaged_aside({"a"}) == {("outcomes", "of a"), ("network", "a"), ("maps", "torn")}
    assert box.has("network", "b") and not box.has("outcomes", "of a"), "b is not of the run"


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


def test_prune_puts_back_what_was_set_aside_though_it_is_whole(tmp_path):
    """What an error that passed had moved, or what has been made again by now."""
    box = Store(tmp_path)
    for key in ("whole", "again", "torn", "unwanted"):
        if key == "torn":
            (box.obtain("network", key, make()).path / "data.txt").write_text("tampered")
        else:
            box.obtain("network", key, make())
        box.set_aside("network", key, "made up")
    box.obtain("network", "again", make("two"))
    assert box.prune({("network", key) for key in ("whole", "again", "torn")}) > 0
    assert {entry[1] for entry in box.entries()} == {"whole", "again"} and not list((tmp_path / "damaged").iterdir())
    assert box.load("network", "again").meta["what"] == "two"


def test_prune_deletes_nothing_that_it_cannot_read(tmp_path, monkeypatch):
    box = Store(tmp_path)
    box.obtain("network", "k", make())
    box.set_aside("network", "k", "made up")
    before = tree(tmp_path)
    monkeypatch.setattr(store, "sha256", failing(errno.EACCES))
    with pytest.raises(FileError):
        box.prune(set())
    assert tree(tmp_path) == before


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


def tar(path, mode="w", **files):
    with tarfile.open(path, mode) as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def cut(path):
    Store(path.parent / "other").obtain("network", "a", make("x" * 5000))
    Store(path.parent / "other").export(path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize("write, said", [
    (lambda path: None, "there is no such file"), (lambda path: path.mkdir(), "there is no such file"),
    (lambda path: path.write_bytes(b""), "a whole .tar"), (lambda path: path.write_bytes(b"x" * 4000), "a whole .tar"),
    (cut, "a whole .tar"), (lambda path: tar(path, "w:gz", a="text"), "a whole .tar"),
    (lambda path: tar(path, **{"..__..__out": "text"}), "a whole .tar"),
    (lambda path: tar(path, a__b="text"), "entries"), (lambda path: tar(path, network__a__text="{"), "entries"),
])
def test_an_archive_that_cannot_be_imported_is_told_and_leaves_nothing(tmp_path, write, said):
    box, path = Store(tmp_path / "store"), tmp_path / "in.tar"
    box.obtain("network", "k", make())
    write(path)
    before = tree(tmp_path)
    with pytest.raises(SettingsError, match=said) as error:
        box.import_(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert tree(tmp_path) == before


def test_a_damaged_entry_makes_way_for_an_imported_one_and_a_damaged_one_is_not_imported(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    for key in "ab":
        here.obtain("network", key, make())
    (here.folder("network", "b") / "data.txt").write_text("tampered")
    here.export(tmp_path / "all.tar")
    (there.obtain("network", "a", make("mine")).path / "data.txt").write_text("tampered")
    assert there.import_(tmp_path / "all.tar") == 1
    assert there.load("network", "a").meta["what"] == "one" and not there.has("network", "b")


def test_what_is_being_made_is_not_imported(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.obtain("network", "a", make())
    here.export(tmp_path / "all.tar")
    there.obtain("network", "a", lambda work: (there.import_(tmp_path / "all.tar"), make("mine")(work))[1])
    assert there.load("network", "a").meta["what"] == "mine"


@pytest.mark.parametrize("place", ["absent/all.tar", "folder"])
def test_an_export_to_nowhere_is_told(tmp_path, place):
    box = Store(tmp_path / "store")
    box.obtain("network", "a", make())
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    with pytest.raises(SettingsError, match="a file in a folder that exists"):
        box.export(tmp_path / place)
    assert tree(tmp_path) == before


def test_json_that_is_torn_names_its_file(tmp_path):
    (tmp_path / "card.json").write_text('{"status"')
    with pytest.raises(files.OneLineError, match="card.json is damaged: it is not JSON"):
        files.read_json(tmp_path / "card.json")
    (tmp_path / "card.json").write_text(json.dumps({"a": "ä"}), encoding="utf-8")
    assert files.read_json(tmp_path / "card.json") == {"a": "ä"}
