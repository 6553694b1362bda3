"""run_all.sh, in a copy of the project with a stand-in for `lib` and next to nothing to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# All that the script may need of a machine, beside Python; anything else would be missing from the PATH used here.
TOOLS = ("bash", "env", "cat", "cut", "df", "awk", "dirname", "mkdir", "rm", "sha256sum", "shasum", "uname")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path):
    """A folder with run_all.sh, a one-line `lib` that shows how it was called, and the folder that is the PATH."""
    root, bin = tmp_path / "project with space", tmp_path / "bin"
    (root / "lib").mkdir(parents=True)
    bin.mkdir()
    shutil.copy(ROOT / "run_all.sh", root)
    (root / "requirements.txt").write_text("# nothing\n")
    (root / "lib" / "__main__.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.getcwd(), os.environ.get('REPRO_DATA'))\nsys.exit('fail' in sys.argv)\n"
    )
    for tool in TOOLS:
        if found := shutil.which(tool):
            (bin / tool).symlink_to(found)
    (bin / "python3").symlink_to(sys.executable)
    script(bin / "uv", f'echo "$@" >>"{tmp_path}/uv.log"; [ "$1" = venv ] || exit 0\n'
                       f'/bin/mkdir -p .venv/bin; /bin/ln -sf "{sys.executable}" .venv/bin/python')
    return root


def call(project, *args, cwd=None, **env):
    env = {"PATH": str(project.parent / "bin"), "HOME": str(project.parent), **env}
    return subprocess.run([str(project / "run_all.sh"), *args], cwd=cwd or project, env=env, capture_output=True,
                          text=True, timeout=60)


def one_sentence(result) -> str:
    """The single line the script printed on its error stream, after the note that it installs."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Installing")]
    assert result.returncode != 0 and len(lines) == 1, result
    return lines[0]


def test_help_needs_no_installation(project):
    for flag in ("--help", "-h"):
        result = call(project, flag)
        assert result.returncode == 0 and "--profile NAME" in result.stdout
    assert call(project, "stitching", "--help").returncode == 0 and call(project, "help").returncode == 0
    assert not (project / ".venv").exists()


def test_every_option_that_the_help_names_is_accepted(project):
    named = [line.split()[0] for line in call(project, "--help").stdout.splitlines() if line.startswith("  -")]
    assert {"--profile", "-p", "--seeds", "--jobs", "--dry-run"} <= set(named)
    for option in set(named) - {"--help"}:
        result = call(project, *([option] if option == "--dry-run" else [option, "3"]))
        assert result.returncode == 0 and option in result.stdout


def test_the_help_names_every_command_and_notebook(project):
    from lib.cli import COMMANDS
    from lib.papers import papers
    from lib.papers.settings import profiles

    said = call(project, "--help").stdout
    assert not [name for name in COMMANDS if f"./run_all.sh {name} " not in said.replace("\n", " ")]
    assert not [name for name in (*papers(), *profiles()) if name not in said]
    for name in set(COMMANDS) - {"test", "lab"}:
        assert call(project, name).stdout.startswith(f"['{name}']"), "the script knows the command"


@pytest.mark.parametrize("args, said", [
    (["--profil", "smoke"], "unknown option '--profil'"),
    (["-profile", "smoke"], "unknown option '-profile': write --profile"),
    (["run", "--profil"], "unknown option '--profil'"),
    (["stitching", "--seeds"], "--seeds needs a value"),
])
def test_a_wrong_option_is_told_before_installing(project, args, said):
    result = call(project, *args)
    assert said in one_sentence(result) and result.returncode == 2
    assert not (project / ".venv").exists()


def test_installs_once_and_again_when_the_requirements_change(project):
    log = project.parent / "uv.log"
    assert "['run', '--profile', 'test', 'stitching']" in call(project, "--profile", "test", "stitching").stdout
    first = log.read_text()
    assert "-r requirements.txt" in first
    assert call(project).returncode == 0 and log.read_text() == first
    (project / "requirements.txt").write_text("# changed\n")
    assert call(project).returncode == 0 and len(log.read_text()) == 2 * len(first)


def test_from_another_folder_with_relative_data_and_the_exit_status(project, tmp_path):
    result = call(project, "-p", "eps=4/255", cwd=tmp_path, REPRO_DATA="my data")
    assert result.stdout.strip() == f"['run', '-p', 'eps=4/255'] {project} {tmp_path}/my data"
    assert call(project, "fail").returncode == 1


def test_python_too_old(project):
    for name in ("python3.12", "python3.11", "python3.13", "python3", "python"):
        (project.parent / "bin" / name).unlink(missing_ok=True)
        script(project.parent / "bin" / name,
               f'exec "{sys.executable}" -c "import sys; sys.version_info = (3, 10); exec(sys.argv[1])" "$2"')
    assert "Python 3.11 or newer is needed" in one_sentence(call(project))


def test_no_disk_space(project):
    df = project.parent / "bin" / "df"
    df.unlink()
    script(df, "echo Filesystem 1024-blocks Used Available Capacity Mounted; echo /dev/x 9999999 9 3145728 99% /")
    said = one_sentence(call(project))
    assert "needs 8 GB" in said and "has 3 GB" in said
    assert not (project / ".venv").exists()


def test_no_network_with_uv_leaves_no_marker(project):
    uv = project.parent / "bin" / "uv"
    working = uv.read_text()
    script(uv, "echo error: no route to host >&2; exit 2")
    assert "check the network" in one_sentence(call(project))
    assert not (project / ".venv" / "installed").exists()
    assert "no route to host" in (project / ".venv" / "install.log").read_text()
    uv.write_text(working)
    assert call(project).returncode == 0  # the next call, with a network, sets up and runs


def test_with_pip_and_no_network(project):
    (project.parent / "bin" / "uv").unlink()
    (project / "requirements.txt").write_text("no-such-package-as-this==1\n")
    assert "check the network" in one_sentence(call(project, PIP_NO_INDEX="1", PIP_FIND_LINKS=""))
    assert not (project / ".venv" / "installed").exists()
    (project / "requirements.txt").write_text("# nothing\n")
    assert call(project).returncode == 0
    os.replace(project / ".venv", project / "gone")  # a .venv whose Python was removed is made anew
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    assert call(project).returncode == 0


def test_an_activated_conda_environment_is_used(project, tmp_path):
    conda = tmp_path / "conda"
    (conda / "bin").mkdir(parents=True)
    script(conda / "bin" / "python", '[ "$1" = -c ] && exit 0; echo conda "$@"')
    assert call(project, "stitching", CONDA_PREFIX=str(conda)).stdout == "conda -m lib run stitching\n"
    assert not (project / ".venv").exists()
    script(conda / "bin" / "python", "exit 1")  # another environment, without the packages: .venv
    assert "['run']" in call(project, CONDA_PREFIX=str(conda), CONDA_DEFAULT_ENV="base").stdout
    ours = call(project, CONDA_PREFIX=str(conda), CONDA_DEFAULT_ENV="robust-representations")
    assert "conda env update" in one_sentence(ours)


def test_words_test_and_lab(project, tmp_path):
    conda = tmp_path / "conda"
    (conda / "bin").mkdir(parents=True)
    script(conda / "bin" / "python", '[ "$1" = -c ] && exit 0; echo "$@" "$PYTHONPATH"; [ "$2" != ruff ]')
    lab = call(project, "lab", "--no-browser", CONDA_PREFIX=str(conda))
    where = f"--ServerApp.root_dir={project} --LabApp.default_url=/lab/tree/start.ipynb"
    assert lab.stdout.startswith(f"-m jupyterlab {where} ")
    assert lab.stdout.endswith(f" --no-browser {project}\n")
    checks = call(project, "test", "-k", "store", CONDA_PREFIX=str(conda))
    tests = "-m pytest -n auto --maxprocesses 2 --dist worksteal -k store"
    assert checks.stdout.split() == f"-m ruff check . {tests}".split()
    assert checks.returncode == 1  # ruff complained, and the tests ran all the same
