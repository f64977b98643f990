"""Is this machine ready for the course? One table: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import html
import importlib
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

OK, NOTE, MISSING = "ok", "note", "missing"
MARKS = {OK: "✔", NOTE: "!", MISSING: "✘"}
PLAIN_MARKS = {OK: "ok", NOTE: "note", MISSING: "MISSING"}  # for a terminal without these signs, and for files
COLORS = {OK: "#009E73", NOTE: "#E69F00", MISSING: "#D55E00"}  # told apart by colour-blind eyes, on white and on black
ANSI = {OK: "32", NOTE: "33", MISSING: "31"}
PYTHON = (3, 11)
COURSE = "pictures-from-noise"  # as pyproject.toml names it; its installed metadata say what it needs
MEMORY_GB = 2.0  # the largest live training of the notebooks, with Jupyter beside it
DISK_GB = 1.0  # saved runs and figures
INSTALL = "`make setup` in the course's folder, or `pip install -c constraints.txt -e .`"


@dataclass(frozen=True)
class Row:
    """One line of the table: `status` is "ok", "note" or "missing", `advice` what to do unless it is ok."""

    what: str
    found: str
    status: str = OK
    advice: str = ""


def table() -> list[Row]:
    """Look at everything the course needs; never raises. Built in notebook 00."""
    return [*_python(), *_packages(), *_machine(), *_data(), *_checkpoints()]


def _python() -> Iterator[Row]:
    good = sys.version_info >= PYTHON
    yield Row(
        "Python",
        platform.python_version(),
        OK if good else MISSING,
        "" if good else f"the course needs Python {PYTHON[0]}.{PYTHON[1]} or newer",
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def needed() -> dict[str, str]:
    """What the installed course needs to run: {"torch": ">=2.6", ...}, extras aside.

    Raises PackageNotFoundError where the course is only a folder on the path, ImportError without `packaging`.
    """
    from packaging.requirements import Requirement

    wanted = map(Requirement, importlib.metadata.requires(COURSE) or [])
    return {r.name: str(r.specifier) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})}


def _trouble(package: str, versions: str) -> str:
    """What is wrong with a package, of which some versions would do; empty when it is here and new enough."""
    from packaging.specifiers import SpecifierSet

    found = _version(package)
    if found is None:
        return f"{package} is not installed"
    good = SpecifierSet(versions).contains(found, prereleases=True)
    return "" if good else f"{package} {found} does not do, it takes {versions}"


def _packages() -> Iterator[Row]:
    try:
        wanted = needed()
        trouble = {package: _trouble(package, versions) for package, versions in wanted.items()}
    except (ImportError, ValueError) as error:  # not installed, nor `packaging`; or a version that is none
        yield Row("packages", "not read", MISSING, f"{error}: {INSTALL}")
        return
    torch, bad = trouble.pop("torch"), [words for words in trouble.values() if words]
    yield Row("torch", _version("torch") or "not installed", MISSING if torch else OK, torch and f"{torch}: {INSTALL}")
    known = ", ".join(f"{p} {_version(p)}" for p in ("diffusers", "transformers", "peft") if _version(p))
    yield Row(
        "packages",
        f"{len(trouble) - len(bad)} of {len(trouble)}: {known}",
        MISSING if bad else OK,
        f"{'; '.join(bad)}: {INSTALL}" if bad else "",
    )


def _machine() -> Iterator[Row]:
    try:
        import torch

        from course_utils import devices

        device = devices.best_device()
        memory = devices.memory_report(device)
        yield Row("device", f"{devices.describe(device)}, {(n := torch.get_num_threads())} thread{'s' * (n > 1)}")
        free, enough = memory["free_gb"], memory["free_gb"] >= MEMORY_GB
        yield Row(
            "memory",
            f"{free:.1f} of {memory['total_gb']:.1f} GiB free",
            OK if enough else NOTE,
            "" if enough else f"the largest live training wants {MEMORY_GB:g} GiB: close other programs",
        )
    except ValueError as error:  # COURSE_DEVICE names one that is not here
        yield Row("device", "not usable", MISSING, str(error))
    except ImportError as error:
        yield Row("device", "unknown", MISSING, f"{error}: {INSTALL}")
    free = shutil.disk_usage(".").free / 2**30
    yield Row(
        "disk",
        f"{free:.1f} GiB free",
        OK if free >= DISK_GB else NOTE,
        "" if free >= DISK_GB else f"training runs want {DISK_GB:g} GiB: free some space",
    )


def _data() -> Iterator[Row]:
    try:
        from course_utils import data

        for name, status in data.verify():
            size = data.DATA_DIR / name
            found = f"{size.stat().st_size / 1e6:.2f} MB, SHA-256 as published" if status == "ok" else _head(status)
            yield Row(f"data/{name}", found, OK if status == "ok" else MISSING, "" if status == "ok" else _tail(status))
    except ImportError as error:
        yield Row("data", "not read", MISSING, f"{error}: {INSTALL}")
    except (RuntimeError, OSError) as error:
        yield Row("data", "not read", MISSING, str(error))


def _checkpoints() -> Iterator[Row]:
    try:
        from course_utils import checkpoints
        from course_utils.recipes.catalog import recipes

        status = dict(checkpoints.verify())
        for name in dict.fromkeys([*recipes(), *(file.removesuffix(".safetensors") for file in status)]):
            state = status.get(f"{name}.safetensors")
            if state == "ok":
                card = checkpoints.card(name)
                yield Row(
                    f"checkpoint {name}",
                    f"{card.get('minutes', 0):.0f} minutes on {card.get('hardware', '?')}, SHA-256 as on its card",
                )
            else:
                yield Row(
                    f"checkpoint {name}",
                    "not there" if state is None else "not usable",
                    MISSING,
                    state or f"`git checkout -- data/checkpoints`, or `course train {name} --minutes 60`",
                )
    except ImportError as error:
        yield Row("checkpoints", "not read", MISSING, f"{error}: {INSTALL}")
    except (RuntimeError, OSError) as error:
        yield Row("checkpoints", "not read", MISSING, str(error))


def _head(sentence: str) -> str:
    return sentence.partition(": ")[0]


def _tail(sentence: str) -> str:
    return sentence.partition(": ")[2] or sentence


class Report:
    """The doctor's table, shown as text by print() and as a table by Jupyter; `ok` says whether all is well."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    @property
    def ok(self) -> bool:
        """Is nothing missing?"""
        return all(row.status != MISSING for row in self.rows)

    @property
    def verdict(self) -> str:
        """One sentence for all of it."""
        missing = sum(row.status == MISSING for row in self.rows)
        return "All is ready." if self.ok else f"{missing} of {len(self.rows)} missing: the lines say what to do."

    def text(self, signs: bool = True, color: bool = False) -> str:
        """The table as lines of text; signs: ticks and crosses instead of plain words."""
        marks = MARKS if signs else PLAIN_MARKS
        width, mark_width = max(len(row.what) for row in self.rows), max(map(len, marks.values()))
        lines = []
        for row in self.rows:
            mark = marks[row.status].ljust(mark_width)
            mark = f"\x1b[{ANSI[row.status]}m{mark}\x1b[0m" if color else mark
            lines.append(f"{mark}  {row.what.ljust(width)}  {row.found}")
            if row.advice:
                lines.append(f"{' ' * (mark_width + width + 4)}-> {row.advice}")
        return "\n".join([*lines, "", self.verdict])

    def __str__(self) -> str:
        return self.text(signs=False)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def line(row: Row) -> str:
            mark = f'<b style="color:{COLORS[row.status]}">{MARKS[row.status]} {row.status}</b>'
            advice = f"<br><b>&rarr;</b> {html.escape(row.advice)}" if row.advice else ""
            cells = (mark, html.escape(row.what), html.escape(row.found) + advice)
            return "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells)

        body = "".join(f"<tr>{line(row)}</tr>" for row in self.rows)
        return f"<table>{body}</table><p><b>{html.escape(self.verdict)}</b></p>"


def report() -> Report:
    """The doctor's table, to be the last line of a notebook cell. Built in notebook 00."""
    return Report(table())
