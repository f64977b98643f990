"""The doctor knows what the installed course needs, and sees what is absent or too old."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from course_utils.app import doctor

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def rows() -> dict[str, doctor.Row]:
    """The doctor's rows about packages, by their name."""
    return {row.what: row for row in doctor._packages()}


def install(folder: Path, name: str, version: str, *needs: str) -> None:
    """Lay the metadata of a distribution into a folder, as pip does."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_what_pyproject_asks_for_is_here(tmp_path, monkeypatch):
    install(tmp_path, PROJECT["name"], PROJECT["version"], *PROJECT["dependencies"], "pytest>=999; extra == 'test'")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.needed() == {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    assert [row.status for row in rows().values()] == ["ok", "ok"]
    count = len(PROJECT["dependencies"]) - 1  # torch has its own row
    assert rows()["packages"].found.startswith(f"{count} of {count}: diffusers ")


def test_too_old_and_absent_packages_are_told_apart(tmp_path, monkeypatch):
    install(tmp_path, PROJECT["name"], "1.0", "torch>=2.6", "numpy>=2.0", "transformers>=5.0", "no-such-thing>=1")
    install(tmp_path, "transformers", "4.57.1")
    install(tmp_path, "torch", "2.5.1+cpu")
    monkeypatch.syspath_prepend(tmp_path)
    torch, packages = rows()["torch"], rows()["packages"]
    assert torch.status == packages.status == "missing" and torch.found == "2.5.1+cpu"
    assert torch.advice.startswith("torch 2.5.1+cpu does not do, it takes >=2.6: ")
    assert packages.found.startswith("1 of 3: ") and "make setup" in packages.advice
    assert "transformers 4.57.1 does not do, it takes >=5.0; no-such-thing is not installed" in packages.advice


def test_a_course_that_is_not_installed_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(doctor, "COURSE", "a-course-that-nobody-installed")
    assert rows()["packages"].status == "missing" and "make setup" in rows()["packages"].advice
