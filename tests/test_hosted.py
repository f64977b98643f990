"""The setup cell on Colab and Kaggle: run in a kernel like theirs, with their old packages, from a clone on this disk.

The environment holds this one's packages by hard links, so that torch is really there and could really be replaced;
what Colab has in older versions comes from a package registry, as does what it lacks.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement

from tests.needs import absent
from tests.test_lab import learners_copy
from tools import common_parts, hosted

ROOT = Path(__file__).resolve().parents[1]
COLAB = {"ipykernel": "6.17.1", "ipywidgets": "7.7.1", "psutil": "5.9.5", "torchao": "0.10.0", "ipython": "7.34.0"}
THEIR_NEEDS = ("ipython-genutils", "backcall", "pickleshare", "decorator<5", "nest-asyncio")
LACKING = ("peft", "diffusers")  # what the setup has to bring
LEFT_OUT = re.compile(rf"({'|'.join([*COLAB, *LACKING])}|__editable__.*|pictures_from_noise)(\W.*)?", re.I)
PRETEND = {
    "colab": "import google.colab",
    "kaggle": "import os; os.environ['KAGGLE_KERNEL_RUN_TYPE'] = 'Interactive'",
}
ONLINE = {"PYTHONPATH": "", "COURSE_NO_NETWORK": ""}  # tests/conftest.py has blocked the network; pip has to have one


def link_or_copy(source, target):
    """One file of one environment in another."""
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def environment(folder: Path) -> Path:
    """An environment like Colab's; returns its Python."""
    here = Path(importlib.metadata.distribution("torch").locate_file(""))
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    (site,) = folder.glob("lib/python*/site-packages")
    for entry in here.iterdir():
        if entry.name == "__pycache__" or LEFT_OUT.fullmatch(entry.name):
            continue
        if entry.is_dir():
            shutil.copytree(entry, site / entry.name, copy_function=link_or_copy)
        else:
            link_or_copy(entry, site / entry.name)
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    python = folder / "bin" / "python"
    wanted = [*(f"{name}=={version}" for name, version in COLAB.items()), *THEIR_NEEDS]
    command = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--no-deps",
        *wanted,
    ]
    done = subprocess.run(command, env=os.environ | ONLINE, capture_output=True, text=True)
    if done.returncode:
        absent(f"the setup cell on Colab and Kaggle, for want of a package registry: {done.stderr.strip()[-200:]}")
    return python


def versions(python: Path, *names: str) -> dict[str, str | None]:
    """The versions of distributions in another environment; None for one that is not there."""
    code = f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); from tools.hosted import version\n"
    code += f"print(json.dumps([version(name) for name in {names!r}]))"
    answer = subprocess.run([python, "-c", code], env=os.environ | ONLINE, capture_output=True, text=True, check=True)
    return dict(zip(names, json.loads(answer.stdout), strict=True))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """(its Python, the address of a clone, the setup cell that names the address)."""
    if sys.platform != "linux":
        pytest.skip("Colab and Kaggle run Linux")
    folder = tmp_path_factory.mktemp("hosted")
    address = f"file://{learners_copy(folder / 'origin')}"
    cell = common_parts.setup_source().replace(f"https://github.com/{common_parts.repository()}", address)
    return environment(folder / "environment"), address, cell


def run_cells(machine, folder: Path, monkeypatch, *cells: str, **settings: str) -> list[str]:
    """Run cells in one kernel of that machine, in `folder`; returns what each printed."""
    spec = {
        "argv": [str(machine[0]), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "hosted",
        "language": "python",
        "env": ONLINE | settings,
    }
    kernel = folder.parent / "jupyter" / "kernels" / "hosted" / "kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    kernel.write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(folder.parent / "jupyter"))
    nb = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(nb, kernel_name="hosted", timeout=600, resources=resources).execute()
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in nb.cells]


WORKS = """
import torch, peft, course_utils
from course_utils.app import doctor
net = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), peft.LoraConfig(target_modules=["0"]))
print(net(torch.ones(1, 4)).shape, course_utils.__file__)
print([row.advice for row in doctor._packages() if row.status != "ok"])
"""


@pytest.mark.slow
@pytest.mark.registry
def test_setup_in_a_kernel_like_colabs(machine, tmp_path, monkeypatch):
    python, _, cell = machine
    content = tmp_path / "content"
    (content / "course.part").mkdir(parents=True)  # a clone that somebody stopped
    torch = versions(python, "torch")["torch"]
    # the first run is interrupted after the clone: there is nowhere to install from
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    with pytest.raises(CellExecutionError, match=r"pip could not install .* Run this cell again"):
        run_cells(machine, content, monkeypatch, PRETEND["colab"], cell, **nowhere)
    assert (content / "course" / "course_utils").is_dir() and not (content / "course.part").exists()
    # the second finishes it, and a third, in the same kernel, does no harm
    printed = run_cells(machine, content, monkeypatch, PRETEND["colab"], cell, WORKS, cell)
    assert "torch.Size([1, 4])" in printed[2] and f"{content}/course/course_utils" in printed[2]
    assert printed[2].endswith("[]\n")  # the doctor misses nothing
    assert not (content / "course" / "notebooks" / "course").exists()
    found = versions(python, "torch", *COLAB, *LACKING)
    assert found.pop("torch") == torch
    assert found.pop("torchao") is None and all(found[name] for name in LACKING)
    assert {name: found[name] for name in COLAB if name != "torchao"} == {
        n: v for n, v in COLAB.items() if n != "torchao"
    }
    # Kaggle takes the same way, and the widgets do with 7.7
    kaggle = tmp_path / "working"
    kaggle.mkdir()
    printed = run_cells(machine, kaggle, monkeypatch, PRETEND["kaggle"], cell, WORKS)
    assert f"{kaggle}/course/course_utils" in printed[2]
    widgets = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_widgets.py"]
    done = subprocess.run(widgets, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_without_an_address_the_cell_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    cell = common_parts.setup_source().replace(common_parts.repository(), common_parts.UNSET)
    exec(cell, {})  # at home, nobody asks
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with pytest.raises(AssertionError, match="Write the address of the course's public repository into COURSE_URL"):
        exec(cell, {})


def test_an_address_that_does_not_answer_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    here = common_parts.setup_source().replace(
        f"https://github.com/{common_parts.repository()}", f"file://{tmp_path}/no"
    )
    with pytest.raises(AssertionError, match="Cannot fetch .*/no: is the Internet turned on"):
        exec(here, {})
    assert not (tmp_path / "course").exists()


def test_no_bound_is_above_what_colab_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    too_high = {name for name, version in COLAB.items() if name in bounds and not bounds[name].contains(version)}
    assert not too_high
    assert not {"ipykernel", "ipywidgets"} & set(bounds)  # the kernel is Jupyter's affair


def test_what_the_kernel_has_loaded_is_kept():
    kept = hosted.to_keep()
    for name in ("torch", "pytest", "numpy"):
        assert f"{name}=={importlib.metadata.version(name)}" in kept
    assert all(re.fullmatch(r"[\w.-]+==\S+", pin) for pin in kept)
