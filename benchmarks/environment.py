"""The peers' own environment: `benchmarks/.venv`, which sees the project's packages and adds the peers to them.

They stay out of the main one because torchattacks asks for a `requests` that JupyterLab cannot live with; it works with
the newer one, so the peers are installed without what they depend on. torch is the project's, the same for all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from lib.errors import OneLineError

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
REQUIREMENTS = HERE / "requirements.txt"


def enter(argv: list[str]) -> None:
    """Go on with the same command inside the peers' environment, made first where it is missing or out of date.

    Returns only where this already is that environment. Raises OneLineError when packages cannot be installed.
    """
    if Path(sys.prefix) == VENV:
        return
    python = VENV / "bin" / "python"
    project = sysconfig.get_path("purelib")
    wanted = f"{project}\n{sys.version}\n{REQUIREMENTS.read_text()}"
    done = VENV / "installed"
    if not done.is_file() or done.read_text() != wanted:
        _make(python, project)
        done.write_text(wanted)
    os.execv(python, [str(python), "-m", "benchmarks", *argv])


def _make(python: Path, project: str) -> None:
    print("Installing the peers into benchmarks/.venv (only this once) ...", file=sys.stderr, flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    if uv := shutil.which("uv"):
        commands = [[uv, "venv", "--python", sys.executable, VENV],
                    [uv, "pip", "install", "--python", python, "--no-deps", "-r", REQUIREMENTS]]
    else:
        commands = [[sys.executable, "-m", "venv", VENV],
                    [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "-r", REQUIREMENTS]]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            last = (result.stderr or result.stdout).strip().splitlines()[-1:]
            raise OneLineError(f"the peers could not be installed into {VENV}: {' '.join(last)}")
    packages = next(VENV.glob("lib/python*/site-packages"))
    (packages / "project.pth").write_text(f"import site; site.addsitedir({project!r})\n")
