"""The rules of the house: floors, light imports, clean notebooks, nothing big and nothing ignored by mistake."""

import ast
import graphlib
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lib import APART, FLOORS
from lib.papers import papers

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

PLACE = {name: (floor, column) for floor, (_, names) in enumerate(FLOORS) for column, name in enumerate(names)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "lib").rglob("*.py"))}


def imports(name: str) -> set[str]:
    """The modules of lib that module `name` imports, wherever in the file it does so."""
    path, found = MODULES[name], set()
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return {module for module in found if module.split(".")[0] == "lib"} - {name}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "lib"])
def test_a_module_imports_from_the_floors_below(name):
    own = name.split(".")[1]
    assert own in PLACE, f"{name} has no floor: add it to FLOORS"
    for other in imports(name):
        assert other != "lib", f"{name} imports lib itself, name the module"
        theirs = other.split(".")[1]
        assert theirs in PLACE, f"{name} imports {other}, which does not exist"
        (floor, column), (their_floor, their_column) = PLACE[own], PLACE[theirs]
        neighbours = floor == their_floor and FLOORS[floor][0] != APART and their_column < column
        assert own == theirs or their_floor < floor or neighbours, f"{name} must not import {other}"


def test_no_circles():
    assert not imports("lib")
    graphlib.TopologicalSorter({name: imports(name) for name in MODULES}).prepare()


def of_papers(name: str) -> bool:
    return name.startswith("lib.papers")


@pytest.mark.parametrize("name", [name for name in MODULES if not of_papers(name)])
def test_only_the_papers_know_their_names(name):
    """What is below them is for any paper, what is above finds them by their folders; docstrings may cite."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    cited = [node.body[0].value for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    known = re.compile(rf"\b({'|'.join(papers().keys() - {'stitching'})})\b")  # which is a room as well
    assert not [node.value for node in texts if node not in cited and known.search(node.value)]
    below = name != "lib" and PLACE[name.split(".")[1]] < PLACE["papers"]
    assert not below or not [other for other in imports(name) if of_papers(other)]


@pytest.mark.parametrize("name", [name for name in MODULES if of_papers(name)])
def test_a_paper_imports_no_other(name):
    own, others = name.split(".")[2:3], [other.split(".")[2:3] for other in imports(name) if of_papers(other)]
    assert not [other for other in others if other and other[0] in papers() and other != own]


def test_a_paper_has_a_folder_a_notebook_claims_and_a_place_among_the_others():
    places = [import_module(f"lib.papers.{name}").PAPER_ORDER for name in papers()]
    assert places == sorted({*places}), "of two at one place none is the first to make a shared network"
    assert {path.stem for path in NOTEBOOKS} == {path.stem for path in (ROOT / "claims").glob("*.yaml")} == {*papers()}


@pytest.mark.parametrize("code", ["import lib", "import lib.values.recipe", "import lib.training.price",
                                  "from lib.papers.plan import plan\n"
                                  "from lib.papers.settings import load, profiles\n"
                                  "assert all(plan(load(profile)) for profile in profiles())"])
def test_plans_need_no_torch(code):
    code = f"import sys\n{code}\nprint([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr


def code_of(cell) -> ast.Module:
    lines = "".join(cell["source"]).splitlines()
    return ast.parse("\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_stripped(self, path):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, "strip the outputs"

    def test_has_one_cell_of_parameters(self, path):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1

    def test_leaves_the_work_to_lib(self, path):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                for node in ast.walk(code_of(cell)):
                    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        assert node.end_lineno - node.lineno < 5, f"{node.name} belongs in lib"
                    assert not isinstance(node, ast.ClassDef), f"{node.name} belongs in lib"

    def test_code_is_read_at_a_glance(self, path):
        """Results in, table or figure out: what computes a table or knows a claim is a named function of lib."""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                code = "".join(cell["source"])
                assert not [line for line in code.splitlines() if len(line) > 110]
                assert not re.findall(r"\.groupby\(|\.pivot_table\(|\.merge\(|\.unstack\(|\.assign\(|\.loc\[", code)
                texts = [node.value for node in ast.walk(code_of(cell)) if isinstance(node, ast.Constant)]
                assert not [text for text in texts if re.fullmatch(r"[CX]\d+[a-z]?", str(text))], "claims have names"

    def test_formulas_can_be_shown_without_a_network(self, path, tmp_path):
        from lib.site import render

        page = render(Path(shutil.copy(path, tmp_path))).read_text(encoding="utf-8")
        assert not re.findall(r'<code class="unknown-formula">.*?</code>', page, re.DOTALL)


def git(*args) -> subprocess.CompletedProcess:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "not a git repository" in done.stderr:
        pytest.skip("not a git checkout")
    return done


def test_nothing_big_is_under_version_control():
    tracked = [ROOT / name for name in git("ls-files", "-z").stdout.split("\0") if name]
    big = [str(path) for path in tracked if path.is_file() and path.stat().st_size > 3e6]
    allowed = tuple(str(ROOT / folder) for folder in ("results/reference", "data/ready_made"))
    assert not [path for path in big if not path.startswith(allowed)]


def test_the_library_is_not_ignored_and_what_runs_write_is():
    kept = ["lib/values/recipe.py", "lib/data/images.py", "data/README.md", "data/ready_made/laptop.tar",
            "results/reference/smoke/index.html"]
    left = [".venv/x", "data/mnist.gz", "results/smoke/index.html", "results/store/a", "lib/__pycache__/a.pyc",
            "notebooks/.ipynb_checkpoints/a.ipynb", ".snakemake/log"]
    ignored = git("check-ignore", "--no-index", *kept, *left).stdout.split()
    assert ignored == left


def test_requirements_name_no_address():
    lines = (ROOT / "requirements.txt").read_text().splitlines()[1:]
    assert lines and not [line for line in lines if "://" in line or "@" in line or line.startswith(("-", " "))]
    assert all("==" in line for line in lines)
