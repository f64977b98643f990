"""`course lab` and `course test`: open and check the course by one command on every system; `make` calls them."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from course_utils.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STYLE = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "-q", "course_utils", "tests", "tools", "book", "data/build"),
)
TESTS = ("pytest", "-n", "2", "--dist", "loadfile", "tests")
CELLS = ("pytest", "-p", "tests.conftest", "--nbval-lax", "--nbval-cell-timeout=600")


def lab(args: argparse.Namespace) -> int:
    """Open JupyterLab at the first notebook; further arguments are JupyterLab's own."""
    check_here()
    python, status = ready_python("jupyterlab", "torch")
    if status:
        return status
    first = next((name for name in notebooks() if Path(name).name.startswith("00_")), "")
    command = [python, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url=/lab/tree/{first}"]
    if getattr(os, "geteuid", lambda: 1)() == 0:  # Jupyter refuses to serve root unless told to
        command.append("--allow-root")
    # tools/lab: no pairing of the notebooks with their text, no news, no look-out for updates
    settings = os.pathsep.join(filter(None, (str(ROOT / "tools" / "lab"), os.environ.get("JUPYTER_CONFIG_PATH"))))
    return follow([*command, *args.further], os.environ | {"JUPYTER_CONFIG_PATH": settings})


def test(args: argparse.Namespace) -> int:
    """Check style, run all tests, then every notebook; or pytest with the arguments given, or the style alone."""
    check_here()
    python, status = ready_python("pytest", "nbval", "ruff", "torch")
    cells = (*CELLS, "--nbval-sanitize-with", str(Path("tools", "nbval.cfg")), *notebooks())
    steps: Sequence[Sequence[str]] = (*STYLE, TESTS, cells)
    if args.style:
        steps = STYLE
    elif args.further:
        steps = (("pytest", *args.further),)
    for step in steps:
        status = status or follow([python, "-m", *step])
    return status


def check_here() -> None:
    """InputError unless the library lies in the course's own folder, with notebooks and tools around it."""
    if not (ROOT / "tools" / "setup_env.py").is_file():
        raise InputError(f"{ROOT} is not the course's folder: clone the course, and call this command there")


def ready_python(*modules: str) -> tuple[str, int]:
    """A Python that has these modules, and status 0: this one, or that of .venv, which is made first if need be."""
    if all(find_spec(name) for name in modules):
        return sys.executable, 0
    return str(ENVIRONMENT), follow([sys.executable, str(ROOT / "tools" / "setup_env.py")])


def notebooks() -> list[str]:
    """The course's notebooks, without a learner's copies of them: those git knows; where there is no git, all."""
    command, kept = ["git", "ls-files", "notebooks/[0-9]*.ipynb"], ""
    if shutil.which("git"):
        kept = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return sorted(kept.split() or (path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/[0-9]*.ipynb")))


def follow(command: Sequence[str], environment: dict | None = None) -> int:
    """Run a command in the course's folder and return its status; Ctrl-C is its own affair, we wait for it."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it got that too, and may ask whether it shall stop
            continue
