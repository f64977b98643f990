"""Every test runs without a network, here, in child processes and in notebook kernels, and from the same seed.

The notebooks have it too: `make test` names this module with `-p tests.conftest`.
"""

import os
import random
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
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: side by side, each worker has a core to itself
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else the kernel's debugger warns on start-up


@pytest.fixture(autouse=True)
def afresh() -> None:
    """The global generators start anew for every test, and no figure is left open: none depends on those before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


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
