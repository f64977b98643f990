"""Linux, macOS and Windows: what the README tells to type there exists, and needs neither make nor a POSIX system."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from course_utils.app import lab
from course_utils.errors import InputError
from tests.test_lab import git
from tools import common_parts, notebooks, setup_env

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def calls(monkeypatch):
    """What `course lab` and `course test` would run: a list of (command, environment), filled as they call."""
    made = []
    monkeypatch.setattr(lab, "follow", lambda command, environment=None: made.append((command, environment)) or 0)
    monkeypatch.setattr(lab, "find_spec", lambda name: True)
    return made


def test_lab_opens_the_first_notebook(calls):
    assert lab.lab(SimpleNamespace(further=["--no-browser"])) == 0
    ((command, environment),) = calls
    assert command[:3] == [sys.executable, "-m", "jupyterlab"] and command[-1] == "--no-browser"
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in command
    assert environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0] == str(ROOT / "tools" / "lab")


def test_test_runs_style_tests_and_notebooks(calls):
    assert lab.test(SimpleNamespace(further=[], style=False)) == 0
    lines = [" ".join(command[2:]) for command, _ in calls]
    assert lines[0] == "ruff check ." and lines[1].startswith("ruff format --check")
    assert lines[2] == "pytest -n 2 --dist loadfile tests"
    assert "--nbval-lax" in lines[3] and lines[3].endswith(f"{notebooks.kept_names()[-1]}.ipynb")


def test_a_failing_step_stops_the_test(monkeypatch):
    made = []
    monkeypatch.setattr(lab, "follow", lambda command, environment=None: made.append(command) or 3)
    monkeypatch.setattr(lab, "find_spec", lambda name: True)
    assert lab.test(SimpleNamespace(further=[], style=False)) == 3 and len(made) == 1


def test_a_python_without_the_packages_makes_the_environment_first(calls, monkeypatch):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    assert lab.test(SimpleNamespace(further=["tests/test_data.py"], style=False)) == 0
    (setup, _), (test, _) = calls
    assert setup == [sys.executable, str(ROOT / "tools" / "setup_env.py")]
    assert test == [str(setup_env.PYTHON), "-m", "pytest", "tests/test_data.py"]


def test_outside_the_courses_folder_a_sentence(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    with pytest.raises(InputError, match="is not the course's folder"):
        lab.lab(SimpleNamespace(further=[]))


def test_the_command_starts_without_any_package():
    heavy = ("numpy", "torch", "PIL", "matplotlib", "tqdm", "packaging", "pyarrow", "safetensors", "psutil")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy!r}))\nfrom course_utils import cli; cli.parser()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_library_needs_no_posix():
    posix = re.compile(
        r"\b(?:import (?:fcntl|resource|pwd|grp|termios)\b|os\.(?:fork|getuid|geteuid|killpg|uname|mkfifo)\()"
    )
    for path in [*(ROOT / "course_utils").rglob("*.py"), ROOT / "tools" / "setup_env.py", ROOT / "tools" / "book.py"]:
        assert not posix.search(path.read_text(encoding="utf-8")), path


def test_git_on_windows_leaves_the_bytes_as_they_are(tmp_path):
    sums = dict(line.split()[::-1] for line in (ROOT / "data" / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    text = [f"data/{name}" for name in sums if name.endswith(".json")]
    git(ROOT, "-c", "core.autocrlf=true", "checkout-index", f"--prefix={tmp_path}/", *text)  # as it is set there
    for name in text:
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == sums[Path(name).name], name


def test_setup_and_command_agree_on_the_environment():
    assert lab.ENVIRONMENT == setup_env.PYTHON
    assert setup_env.PYTHON.parts[-3] == ".venv" and setup_env.PYTHON.parent.name in ("bin", "Scripts")


def test_readme_names_what_exists():
    for target in re.findall(r"`make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), target
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for command in ("python -m course_utils.cli lab", "python -m course_utils.cli test", "python tools/setup_env.py"):
        assert command in README


def test_readme_has_a_row_for_every_notebook():
    kept = {name[:2]: f"[{common_parts.title(name)[5:]}](notebooks/{name}.ipynb)" for name in notebooks.kept_names()}
    rows = re.findall(r"^\| (\d\d) \| (.+?) \| .+ \| (here|to come) \|$", README, re.M)
    assert {number: title for number, title, state in rows if state == "here"} == kept
    assert [number for number, *_ in rows] == [f"{number:02}" for number in range(14)]


def test_continuous_integration_covers_three_systems():
    folder = ROOT / ".github" / "workflows"
    tests = yaml.safe_load((folder / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    assert tests["linux"]["runs-on"].startswith("ubuntu") and {"run": "bash .ci/run"} in tests["linux"]["steps"]
    matrix = tests["other-systems"]["strategy"]["matrix"]["os"]
    assert {system.split("-")[0] for system in matrix} == {"macos", "windows"}
    runs = "\n".join(step.get("run", "") for step in tests["other-systems"]["steps"])
    assert "make" not in runs and all((ROOT / name).is_file() for name in re.findall(r"tests/\w+\.py", runs))
    pages = yaml.safe_load((folder / "pages.yml").read_text(encoding="utf-8"))["jobs"]["book"]["steps"]
    assert {"run": "make book"} in pages and {"path": "site"} in [step.get("with") for step in pages]


def test_the_small_files_are_valid_and_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "python tools/setup_env.py"
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text(encoding="utf-8"))
    points = re.findall(r"^\d+\. ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert len(points) == 10
