"""JupyterLab as a person meets it, in Chromium: the start notebook and all notebooks run from the store at smoke, each
control changes its figure within a second, and a typing error after a good run is one line.

Left out where Chromium or playwright is missing, or where REPRO_STORE names no store with the networks of smoke.
LAB_SHOTS names a folder for screenshots, LAB_SECONDS allows a slow machine more than a second.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from lib import lab as lab_notebook
from lib.lab import without_outputs
from lib.papers import papers
from lib.papers.plan import plan
from lib.papers.settings import load
from lib.runtime import ROOT
from lib.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTH = 1280
FLAGS = next(line for line in (ROOT / "run_all.sh").read_text().replace("\\\n", " ").splitlines()
             if "-m jupyterlab" in line).split()[4:-1]
OPEN = """async path => { await jupyterapp.commands.execute('docmanager:open', {path});
    await jupyterapp.shell.currentWidget.context.ready; await jupyterapp.shell.currentWidget.sessionContext.ready; }"""
CELLS = "[...jupyterapp.shell.currentWidget.content.model.cells]"


@pytest.mark.parametrize("path", ["start.ipynb", "your_network.ipynb",
                                  *(f"notebooks/{name}.ipynb" for name in papers())])
def test_a_notebook_is_saved_as_it_was_whatever_was_run(path):
    page = nbformat.read(ROOT / path, 4)
    page.metadata.language_info.version = "3.11"
    page.metadata.widgets = {"state": {}}
    for number, cell in enumerate(page.cells):
        cell.metadata.collapsed = True
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = number, [nbformat.v4.new_output("stream", text="said")]
    without_outputs(path=path, model={"type": "notebook", "content": page}, contents_manager=None)
    assert nbformat.writes(page) + "\n" == (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path, kind", [("mine.ipynb", "notebook"), ("notebooks/mine.ipynb", "notebook"),
                                        ("start.ipynb", "file")])
def test_other_files_are_saved_as_they_are(path, kind):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=1)])
    without_outputs(path, {"type": kind, "content": page})
    assert page.cells[0].execution_count == 1


def test_the_start_notebook_leads_to_every_notebook_and_its_example_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_STORE", str(tmp_path))
    text = lab_notebook.overview("test").data
    assert not [name for name in papers() if f"(notebooks/{name}.ipynb)" not in text]
    example = lab_notebook.example("test", live=False)
    said = [example.choose(eps=eps).sentence() for eps in example.options["eps"].values()]
    assert len(said) == 6 and all(one.startswith("normal: ") and "adversarially trained: " in one for one in said)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A page of a browser 1280 pixels wide, on a JupyterLab with the options of run_all.sh."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    store = Store(os.environ.get("REPRO_STORE"))
    if not all(store.has("network", task.recipe.key) for task in plan(load("smoke")) if task.recipe.stored):
        pytest.skip("REPRO_STORE names no store with the networks of smoke")
    base = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, token = free.getsockname()[1], secrets.token_hex(8)
    places = {name: str(base / name) for name in ("REPRO_RESULTS", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR",
                                                  "JUPYTERLAB_WORKSPACES_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    env = {**os.environ, **places, "REPRO_STORE": str(store.root), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    flags = [flag.replace("$PWD", str(ROOT)).replace('"', "") for flag in FLAGS]
    command = [sys.executable, "-m", "jupyterlab", *flags, "--no-browser", "--allow-root", f"--port={port}",
               f"--IdentityProvider.token={token}", "--expose-app-in-browser"]
    with open(base / "log", "w") as log, subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log) as server:
        try:
            for _ in range(120):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).close()
                    break
                time.sleep(0.5)
            with playwright.sync_playwright() as p:
                browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": WIDTH, "height": 900})
                page.errors = []
                page.on("pageerror", lambda error: page.errors.append(str(error)))
                page.goto(f"http://127.0.0.1:{port}/?token={token}")
                shown = "() => window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length"
                page.wait_for_function(shown, timeout=90000)
                yield page
                browser.close()
        finally:
            server.terminate()


def open_and_run(page, path: str) -> None:
    """Open a notebook at the root's path and run all of its cells."""
    page.evaluate(OPEN, path)
    page.wait_for_function("path => jupyterapp.shell.currentWidget?.context?.path === path"
                           " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
                           arg=path, timeout=60000)
    page.evaluate("async () => { await jupyterapp.commands.execute('notebook:run-all-cells'); }")  # until all have run


def errors(page) -> list[str]:
    return page.evaluate("() => " + CELLS + """.flatMap(c => (c.outputs?.toJSON() ?? [])
        .filter(o => o.output_type === 'error').map(o => o.traceback.join('\\n')))""")


def shot(page, name: str) -> None:
    if folder := os.environ.get("LAB_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["start.ipynb", *(f"notebooks/{name}.ipynb" for name in papers())])
def test_a_notebook_replays_and_its_controls_answer(lab, path):
    before = (ROOT / path).read_bytes()
    open_and_run(lab, path)
    assert errors(lab) == []
    lab.evaluate("() => { jupyterapp.shell.currentWidget.content.scrollToItem(" + CELLS + ".findIndex(c =>"
                 " c.sharedModel.source.match(/xplorer[(]|lab.example/) && c.type === 'code'), 'start'); }")
    visible = lab.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    picture = visible.locator(".jp-OutputArea img[src^='blob:']").first
    picture.wait_for(timeout=30000)
    lists = visible.locator(".widget-dropdown select")
    slow = {}
    for number in range(lists.count()):
        chosen = lists.nth(number)
        box, options = chosen.bounding_box(), chosen.locator("option").count()
        assert box["x"] >= 0 and box["x"] + box["width"] <= WIDTH, "clipped"
        if options < 2:
            continue
        said = visible.locator(".widget-vbox .widget-html").first
        was, began = (picture.get_attribute("src"), said.inner_text()), time.monotonic()
        now = chosen.evaluate("list => list.selectedIndex")
        chosen.select_option(index=1 if now != 1 else 0)
        while (picture.get_attribute("src"), said.inner_text()) == was and time.monotonic() - began < 20:
            lab.wait_for_timeout(20)
        slow[number] = time.monotonic() - began
    shot(lab, Path(path).stem)
    lab.evaluate("async () => { await jupyterapp.commands.execute('docmanager:save'); }")
    assert (ROOT / path).read_bytes() == before, "running, looking and saving change no file"
    assert slow and max(slow.values()) < float(os.environ.get("LAB_SECONDS", "1")), slow
    assert not lab.errors
    lab.evaluate("async () => { const w = jupyterapp.shell.currentWidget; await w.sessionContext.shutdown();"
                 " w.dispose(); }")


@pytest.mark.slow
def test_a_typing_error_after_a_good_run_is_one_line(lab):
    lab.evaluate(OPEN, "notebooks/harp_pruning.ipynb")
    run = """async source => { const w = jupyterapp.shell.currentWidget; await w.sessionContext.ready;
        const kernel = w.sessionContext.session.kernel; const found = [];
        const asked = kernel.requestExecute({code: source, store_history: true});
        asked.onIOPub = m => { if (m.header.msg_type === 'error') found.push(m.content.traceback.join('\\n')); };
        await asked.done; return found; }"""
    cells = lab.evaluate("() => " + CELLS + ".filter(c => c.type === 'code').slice(0, 2)"
                         ".map(c => c.sharedModel.source)")
    assert [lab.evaluate(run, cell) for cell in cells] == [[], []]
    assert lab.evaluate(run, cells[0] + "\nepoch = 7") == []
    said, = lab.evaluate(run, cells[1])
    assert "\n" not in said and "unknown parameter 'epoch'" in said and "Traceback" not in said
