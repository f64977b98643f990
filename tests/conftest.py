"""Every test runs without a network: in this process, in child processes and in notebook kernels."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = ROOT / "tools" / "offline"

sys.path.insert(0, str(OFFLINE))
# Children and notebook kernels import sitecustomize from PYTHONPATH when they start. The root is there so that they
# find `course_utils` of this very copy.
os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
sys.modules.pop("sitecustomize", None)  # a distribution may have its own
import sitecustomize  # noqa: E402

sitecustomize.block()
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else the kernel's debugger warns on start-up


@pytest.fixture
def root() -> Path:
    """The top folder of the course."""
    return ROOT


@pytest.fixture
def data_copy(tmp_path, monkeypatch) -> Path:
    """A private copy of the course's data folder (without its build scripts), named by COURSE_DATA."""
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(ROOT / "data", copy, ignore=shutil.ignore_patterns("build"))
    monkeypatch.setenv("COURSE_DATA", str(copy))
    return copy
