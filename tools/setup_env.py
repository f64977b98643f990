"""Build the course's own Python environment in `.venv`: torch first, then the pinned packages, then the course.

Run by `make` with any Python >= 3.11; uses only the standard library. Running it again changes what is missing.

torch is a CPU build unless this machine has an NVIDIA GPU. On macOS and Windows the ordinary package is that; on
Linux the ordinary package is the CUDA build of several gigabytes, so there it comes from PyTorch's own CPU index,
unless a wheel lies in a folder that pip is told to look in (PIP_FIND_LINKS).

Why not `uv sync` with a uv.lock (tried with uv 0.13): a lock names for each package the one index it came from, or the
one folder of this machine. With a mirror of PyPI in place of PyPI it counts as out of date, wheels from a folder are
locked to that folder's path, and a CPU build of torch cannot even be locked where PyTorch's own index is out of reach.
So a class room that has a mirror or a folder of wheels could not set up. Conda, pip and Colab need constraints.txt in
any case. uv is the installer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def call(*command: object, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """Run a command; its failure is a CalledProcessError."""
    return subprocess.run([str(c) for c in command], check=check, **kwargs)


def pip_setting(name: str) -> list[str]:
    """What pip's environment variables and configuration say about one option, such as find-links."""
    listing = call(PYTHON, "-m", "pip", "config", "list", capture_output=True, text=True, check=False).stdout
    values = os.environ.get("PIP_" + name.upper().replace("-", "_"), "").split()
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        if key.split(".")[-1] == name:
            values += value.strip("'\"").replace("\\n", " ").split()
    return list(dict.fromkeys(values))


def installer() -> list[str]:
    """The command that installs: uv (several times faster), told what pip is told; pip where there is no uv."""
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-qq"]
    if os.environ.get("COURSE_INSTALLER") == "pip":
        return pip
    here = call(PYTHON, "-m", "uv", "--version", capture_output=True, check=False).returncode == 0
    if not here and call(*pip, "uv", "-c", ROOT / "constraints.txt", check=False).returncode:
        return [part for part in pip if part != "-qq"]
    # pip weighs all indexes alike and takes the best version; so must uv
    command = [
        str(PYTHON),
        "-m",
        "uv",
        "pip",
        "install",
        "-q",
        "--python",
        str(PYTHON),
        "--index-strategy",
        "unsafe-best-match",
    ]
    for option in ("index-url", "extra-index-url", "find-links"):
        for value in pip_setting(option):
            command += [f"--{option}", value]
    return command


def torch_pin() -> str:
    """The line of constraints.txt that names torch."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def needs_cpu_index() -> bool:
    """Would the ordinary package be a CUDA build that this machine has no use for?"""
    if not sys.platform.startswith("linux") or shutil.which("nvidia-smi"):
        return False
    pattern = torch_pin().replace("==", "-") + "*.whl"
    folders = (Path(link.removeprefix("file://")) for link in pip_setting("find-links"))
    return not any(folder.is_dir() and any(folder.glob(pattern)) for folder in folders)


def installed_torch() -> str:
    """Version of torch in the environment, without its build; empty when there is none."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return call(PYTHON, "-c", code, capture_output=True, text=True, check=False).stdout.strip().split("+")[0]


def install_torch(install: list[str]) -> None:
    """Install torch alone, before any package that depends on it can choose another build."""
    pin = torch_pin()
    if installed_torch() == pin.split("==")[1]:
        return
    if needs_cpu_index():
        # --no-deps: that index also offers old copies of torch's dependencies
        pip = [
            str(PYTHON),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--progress-bar",
            "off",
            "--timeout",
            "20",
            "--retries",
            "1",
            "--index-url",
            CPU_INDEX,
        ]
        if call(*pip, pin + "+cpu", check=False).returncode == 0:
            return
        print(f"setup: {CPU_INDEX} does not answer; taking torch from the usual place.", flush=True)
    call(*install, pin, "-c", ROOT / "constraints.txt")


def wanted() -> str:
    """A fingerprint of what has to be installed, and where; a change of pyproject's other tables leaves it alone."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [project, (ROOT / "constraints.txt").read_text(encoding="utf-8"), str(ROOT)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def main() -> int:
    """Make or mend the environment."""
    start = time.perf_counter()
    if sys.version_info < (3, 11):  # noqa: UP036 (this script meets older ones)
        print(
            f"setup: the course needs Python 3.11 or newer; this is {sys.version.split()[0]}. "
            "Install a newer one, and call this with it: /path/to/python3.12 tools/setup_env.py",
            file=sys.stderr,
        )
        return 1
    ready = VENV / ".ready"
    if PYTHON.exists() and ready.exists() and ready.read_text() == wanted():
        ready.touch()
        return 0
    try:
        if not PYTHON.exists():
            print(f"setup: making {VENV.name}", flush=True)
            call(sys.executable, "-m", "venv", VENV)
        install = installer()
        print("setup: installing torch", flush=True)
        install_torch(install)
        print("setup: installing the other packages", flush=True)
        call(*install, "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[lab,test,book,app]")
        call(
            PYTHON,
            "-m",
            "ipykernel",
            "install",
            "--sys-prefix",
            "--name",
            "python3",
            "--display-name",
            "Python 3 (ipykernel)",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        print(
            f"setup: this step failed (its message is above): {' '.join(error.cmd)}\nsetup: check the network "
            "connection and try again. To start afresh, remove the folder .venv first.",
            file=sys.stderr,
        )
        return 1
    ready.write_text(wanted())
    print(f"setup: ready in {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
