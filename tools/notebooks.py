"""Keep the notebooks and their text twins together, run them, and look at their figures.

The source of truth is the pair `notebooks/text/NN_name.py` (percent format: what people review and lint)
and `notebooks/NN_name.ipynb` (the same cells with outputs: what learners open). Jupyter knows nothing of the pair, so
that a learner's saving touches one file only. Edit either, then

    python tools/notebooks.py sync               text -> ipynb, keeps the outputs of unchanged cells
    python tools/notebooks.py sync --from-ipynb  ipynb -> text, after editing in Jupyter
    python tools/notebooks.py run 02             execute in a fresh kernel and store the outputs
    python tools/notebooks.py figures 02 /tmp/f  write every picture of a notebook to a folder
    python tools/notebooks.py check              do the twins, as they lie here, agree and keep the rules of form?
    python tools/notebooks.py common             setup cell, badges, links: see tools/common_parts.py
    python tools/notebooks.py address me/course  name the course's public GitHub repository, everywhere

Names are `02`, `02_noise_predictor` or a path; none means all.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_config
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SHRINK_ABOVE, MANY = 20_000, 150_000  # bytes of a PNG; of one with a dozen drawings and more
CELL_TIMEOUT = 600  # seconds; the longest cell trains for 90
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {  # the same on every machine: no kernel path, no Python patch version, no widget state
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


def names(wanted: list[str] | None = None) -> list[str]:
    """Full names, in course order, of the notebooks asked for (all when none is)."""
    known = sorted(
        {p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb")} | {p.stem for p in NOTEBOOKS.glob("text/[0-9]*.py")}
    )
    chosen = []
    for name in (Path(w).stem for w in wanted or []):
        found = [k for k in known if k == name or k.split("_")[0] == name]
        if not found:
            sys.exit(f"notebooks: there is no notebook {name!r}; known: {', '.join(known) or 'none yet'}.")
        chosen += found
    return chosen or known


def ipynb(name: str) -> Path:
    """Where the notebook with outputs lies."""
    return NOTEBOOKS / f"{name}.ipynb"


def text(name: str) -> Path:
    """Where its text twin lies."""
    return NOTEBOOKS / "text" / f"{name}.py"


def read_text(name: str) -> NotebookNode:
    """The notebook that a text twin describes: same cells and ids on every machine, no outputs."""
    return tidy(jupytext.read(text(name), fmt="py:percent", config=jupytext_config()))


def to_text(nb: NotebookNode) -> str:
    """The percent-format text of a notebook."""
    return jupytext.writes(nbformat.from_dict(nb), fmt="py:percent", config=jupytext_config())


def jupytext_config() -> object:
    """What pyproject.toml says about the text twins."""
    return load_jupytext_config(str(ROOT / "notebooks" / "any.ipynb"))


def tidy(nb: NotebookNode) -> NotebookNode:
    """Remove all that differs from run to run or machine to machine, and name cells by their content."""
    nb.metadata = nbformat.from_dict(METADATA | {k: v for k, v in nb.metadata.items() if k == "course"})
    nb.nbformat, nb.nbformat_minor = 4, 5
    used: dict[str, int] = {}
    for cell in nb.cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        used[key] = used.get(key, 0) + 1
        cell.id = key if used[key] == 1 else f"{key}-{used[key]}"
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in sorted(cell.metadata.items()) if k in ("tags", "slideshow", "alt")}
        )
        if cell.cell_type == "code":
            if "solution" in cell.metadata.get("tags", []):
                # folded in JupyterLab, and in Colab
                cell.metadata.update(jupyter={"source_hidden": True}, cellView="form")
            cell.outputs = [o for o in cell.outputs if WIDGET_VIEW not in o.get("data", {})]
            for output in cell.outputs:
                if "metadata" in output:
                    output.metadata = {k: v for k, v in output.metadata.items() if k.startswith("image/") and v}
    return nb


def with_outputs(nb: NotebookNode, old: NotebookNode) -> NotebookNode:
    """Carry over the outputs of every cell whose code has not changed."""
    kept: dict[str, list[NotebookNode]] = {}
    for cell in old.cells:
        if cell.cell_type == "code":
            kept.setdefault(cell.source, []).append(cell)
    for cell in nb.cells:
        if cell.cell_type == "code" and kept.get(cell.source):
            before = kept[cell.source].pop(0)
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    if "course" in old.metadata:
        nb.metadata["course"] = old.metadata["course"]
    return nb


def write(path: Path, content: str) -> bool:
    """Write a file only if it changes, so that time stamps speak; returns whether it did."""
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_text(content, encoding="utf-8", newline="\n")
    os.replace(temporary, path)  # at once, so that a kill leaves no half notebook
    return True


def sync(name: str, from_ipynb: bool = False) -> bool:
    """Bring one twin up to date with the other; returns whether anything changed."""
    changed = False
    if from_ipynb or not text(name).exists():
        changed = write(text(name), to_text(nbformat.read(ipynb(name), as_version=4)))
    nb = read_text(name)
    if ipynb(name).exists():
        nb = with_outputs(nb, nbformat.read(ipynb(name), as_version=4))
    return write(ipynb(name), dumps(nb)) or changed


def dumps(nb: NotebookNode) -> str:
    """The bytes of the .ipynb file; raises nbformat's ValidationError for an invalid notebook."""
    tidy(nb)
    nbformat.validate(nb)
    return nbformat.writes(nb) + "\n"


def shrink(nb: NotebookNode) -> None:
    """Store large pictures among the outputs with few colours: noise hardly compresses, and history is for ever."""
    from PIL import Image

    for cell in nb.cells:
        for output in cell.get("outputs", []):
            png = base64.b64decode(output.get("data", {}).get("image/png", ""))
            if len(png) > SHRINK_ABOVE:
                small = io.BytesIO()
                picture = Image.open(io.BytesIO(png)).convert("RGB")
                colors = 128 if len(png) > MANY else 256
                picture.quantize(colors, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
                output.data["image/png"] = base64.b64encode(small.getvalue()).decode()


def run(name: str) -> float:
    """Execute a notebook from top to bottom in a fresh kernel, store its outputs, return the seconds it took.

    A failing notebook is stored too, with its error, and then raises nbclient's CellExecutionError.
    """
    from nbclient import NotebookClient

    from course_utils.devices import describe

    nb = read_text(name) if text(name).exists() else nbformat.read(ipynb(name), as_version=4)
    client = NotebookClient(
        nb,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    start = time.perf_counter()
    try:
        client.execute()
    finally:
        seconds = time.perf_counter() - start
        shrink(nb)
        nb.metadata["course"] = {"seconds": round(seconds), "hardware": describe()}  # notebook 00 shows them
        write(ipynb(name), dumps(nb))
    return seconds


def figures(name: str, folder: Path) -> list[Path]:
    """Write every picture among a notebook's outputs to `folder`, named by cell; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, cell in enumerate(nbformat.read(ipynb(name), as_version=4).cells):
        for k, output in enumerate(cell.get("outputs", [])):
            for kind, suffix in (("image/png", "png"), ("image/jpeg", "jpg"), ("image/svg+xml", "svg")):
                if kind in output.get("data", {}):
                    data = output.data[kind]
                    files.append(folder / f"{name[:2]}_cell{i:03d}_{k}.{suffix}")
                    files[-1].write_bytes(data.encode() if suffix == "svg" else base64.b64decode(data))
    return files


def kept_files() -> list[str]:
    """The files below notebooks/ that git keeps, staged or committed; none where git does not know the course."""
    if not shutil.which("git"):
        return []
    command = ["git", "-C", str(ROOT), "ls-files", "-z", NOTEBOOKS.name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\0")[:-1]


def kept_names() -> list[str]:
    """Full names of the notebooks that git keeps: a learner's own beside them are left out."""
    kept = [Path(file) for file in kept_files()]
    return sorted({path.stem for path in kept if path.name[0].isdigit()}) or names()


def export_kept(folder: Path) -> Path:
    """Write both twins of all notebooks into `folder` as git keeps them, whatever somebody did to the files by now.

    Where git does not know the course, the files are copied as they are. Returns what takes the place of NOTEBOOKS.
    """
    if files := kept_files():
        command = ["git", "-C", str(ROOT), "checkout-index", "-q", "-z", "--stdin", f"--prefix={folder.resolve()}/"]
        subprocess.run(command, input="\0".join(files), text=True, check=True)
    else:
        shutil.copytree(NOTEBOOKS, folder / NOTEBOOKS.name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder / NOTEBOOKS.name


def check(name: str) -> list[str]:
    """Everything that is wrong with the form of a notebook, one sentence each (see tools/notebook_rules.py)."""
    sys.path.insert(0, str(ROOT))
    from tools.notebook_rules import all_problems

    return all_problems(name)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the text at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command, summary in (
        ("sync", "bring the twins up to date"),
        ("run", "execute and store outputs"),
        ("check", "rules of form"),
        ("common", "bring setup cell, badges and links up to date"),
        ("figures", "write the pictures to a folder"),
    ):
        sub = commands.add_parser(command, help=summary)
        if command == "figures":
            sub.add_argument("name")
            sub.add_argument("folder", type=Path)
        else:
            sub.add_argument("names", nargs="*")
        if command == "sync":
            sub.add_argument("--from-ipynb", action="store_true", help="the ipynb file is the newer twin")
    commands.add_parser("address", help="name the public GitHub repository").add_argument("repository")
    args = parser.parse_args(argv)
    if args.command == "figures":
        (name,) = names([args.name])
        files = figures(name, args.folder)
        print(f"{len(files)} pictures in {args.folder}")
        return 0 if files else 1
    actions = {"sync": _sync_all, "run": _run_all, "check": _check_all, "common": _common, "address": _address}
    return actions[args.command](args)


def _sync_all(args: argparse.Namespace) -> int:
    for name in names(args.names):
        print(f"{name}: {'written' if sync(name, args.from_ipynb) else 'up to date'}")
    return 0


def _run_all(args: argparse.Namespace) -> int:
    from nbclient.exceptions import CellExecutionError

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # or the debugger prints a warning into the cells
    total = 0.0
    for name in sorted(names(args.names), key=lambda n: n.startswith("00")):  # 00 last: it shows the others' seconds
        print(f"{name}: ", end="", flush=True)
        try:
            seconds = run(name)
        except CellExecutionError as error:
            print(f"failed\n{error}")
            return 1
        total += seconds
        print(f"{seconds:.0f} s")
    print(f"total: {total:.0f} s")
    return 0


def _check_all(args: argparse.Namespace) -> int:
    wrong = 0
    for name in names(args.names):
        problems = check(name)
        wrong += len(problems)
        print(f"{name}: {'good' if not problems else f'{len(problems)} to mend'}")
        print("".join(f"  - {problem}\n" for problem in problems), end="")
    return 1 if wrong else 0


def _common(args: argparse.Namespace) -> int:
    sys.path.insert(0, str(ROOT))
    from tools import common_parts

    print(f"{common_parts.bring_along(names(args.names))} files changed")
    return 0


def _address(args: argparse.Namespace) -> int:
    sys.path.insert(0, str(ROOT))
    from tools import common_parts

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repository):
        sys.exit(f"notebooks: an address is OWNER/REPOSITORY, as in github.com/me/course, not {args.repository!r}.")
    print(f"{common_parts.name_address(args.repository)} files now name github.com/{args.repository}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
