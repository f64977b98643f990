"""Make a book out of the executed notebooks: a static site in site/, with a sidebar, search and a dark theme.

    python tools/book.py                build site/; nothing is executed again, nothing is fetched from a network
    python tools/book.py --out FOLDER   build it elsewhere

The pages are the notebooks as they are stored, this repository's README, data card and change log, and what lies in
`book/`: settings, style, glossary, how to teach. The pages of the library are made from its docstrings. A page that
would load something from the network, or a link that leads nowhere, is an error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools import common_parts, notebooks, slides  # noqa: E402

BOOK = ROOT / "book"
SITE = ROOT / "site"
FONT = ROOT / "course_utils" / "figures" / "fonts" / "NotoSansSC-course.ttf"
MATHJAX = "tex-svg-full.js"  # all of MathJax in one file that needs no fonts
OUT_OF_THE_BOOK = {"checks"}  # they hold the exercises' answers
MINUTES = re.compile(r"(\d+)\s*min")
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:|#|mailto:)[^)\s]+)\)")
MENTION = re.compile(r"\b[Nn]otebooks? \d\d(?:(?:, | and | to )\d\d)*")
LAST_PAGES = {
    "glossary": "Glossary",
    "data/README": "The data",
    "teaching": "How to teach from it",
    "speaker-notes": "Speaker notes",
    "CONTRIBUTING": "How to change it",
    "CHANGELOG": "What has changed",
}


def heading(nb: NotebookNode) -> str:
    """The title of a notebook: "04 · Text conditioning: how does a sentence steer every step?"."""
    return nb.cells[0].source.split("\n")[0].lstrip("# ")


def short(title: str) -> str:
    """The title as the sidebar shows it, without its question: "04 · Text conditioning"."""
    return title.partition(":")[0]


def page(nb: NotebookNode) -> NotebookNode:
    """A notebook as a reader of the book sees it: solutions folded, no set-up, no marks for tests."""
    setup = common_parts.setup_source()
    cells = []
    for cell in nb.cells:
        if cell.source.strip() in ("", setup) or common_parts.is_common(cell):
            continue
        if cell.cell_type == "markdown":
            cell.source = common_parts.BADGE.sub("", cell.source)
        else:
            cell.source = slides.MARKS.sub("", cell.source)
            cell.metadata.update(reader_metadata(cell))
        cells.append(cell)
    nb.cells = cells
    return nb


def reader_metadata(cell: NotebookNode) -> dict:
    """What MyST-NB has to know of a code cell: folded if it is a solution, and the words that stand for its picture."""
    mystnb: dict = {}
    if words := cell.metadata.get("alt"):
        mystnb["image"] = {"alt": words}
    if "solution" not in cell.metadata.get("tags", []):
        return {"mystnb": mystnb}
    mystnb |= {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
    return {"tags": [*cell.metadata.tags, "hide-cell"], "mystnb": mystnb}


def minutes(nb: NotebookNode) -> int:
    """Minutes of a lecture, as the speaker notes plan them, questions of the audience not counted."""
    return sum(int(found[1]) for text in slides.speaker_notes(nb).values() if (found := MINUTES.search(text)))


def timetable(chapters: dict[str, NotebookNode]) -> str:
    """How long each notebook takes: a table in Markdown."""
    rows = ["| Notebook | speaking, minutes | running, seconds |", "|---|---|---|"]
    for name, nb in chapters.items():
        seconds = nb.metadata.get("course", {}).get("seconds", "–")
        rows.append(f"| [{short(heading(nb))}](notebooks/{name}.ipynb) | {minutes(nb)} | {seconds} |")
    return "\n".join(rows) + "\n"


def speaker_notes(chapters: dict[str, NotebookNode]) -> str:
    """One page with the speaker notes of all notebooks."""
    lines = ["# Speaker notes", "", "What the decks of `make slides` show to the speaker, notebook by notebook.", ""]
    for name, nb in chapters.items():
        lines += [f"## {short(heading(nb))}", "", f"[The notebook](notebooks/{name}.ipynb), {minutes(nb)} minutes.", ""]
        for section, text in slides.speaker_notes(nb).items():
            lines += [f"**{section}**", "", text, ""]
    return "\n".join(lines)


def contents(chapters: dict[str, NotebookNode]) -> str:
    """The tables of contents that the sidebar and the links to the next page follow."""
    trees = {
        "The notebooks": {f"notebooks/{name}": short(heading(nb)) for name, nb in chapters.items()},
        "The library": {"api/index": "The house"},
        "Around it": LAST_PAGES,
    }
    blocks = []
    for caption, pages in trees.items():
        entries = "\n".join(f"{title} <{page}>" for page, title in pages.items())
        blocks.append(f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{entries}\n```")
    return "\n\n".join(blocks) + "\n"


def relink(markdown: str, path: Path, source: Path) -> str:
    """Markdown of the file `path` whose links to files that are no pages of the book lead to the public repository."""
    address = common_parts.address()

    def aim(link: re.Match) -> str:
        target, _, anchor = link["target"].partition("#")
        file = (ROOT / path).parent.joinpath(target).resolve().relative_to(ROOT)
        if (source / file).is_file():
            return link[0]
        if file.is_relative_to(BOOK.name) and (source / (inside := file.relative_to(BOOK.name))).is_file():
            return f"[{link['text']}]({os.path.relpath(inside, path.parent)})"  # what lies in book/ is at the top here
        url = f"https://github.com/{address}/blob/main/{file.as_posix()}{'#' * bool(anchor)}{anchor}"
        return f"[{link['text']}]({url})" if address else link["text"]

    return LINK.sub(aim, re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.S))


def linked(markdown: str, names: list[str]) -> str:
    """Markdown in which "notebook 04", and "notebooks 04 and 05", lead to those notebooks, as far as they exist."""
    paths = {name[:2]: f"notebooks/{name}.ipynb" for name in names}

    def aim(number: re.Match) -> str:
        return f"[{number[0]}]({paths[number[0]]})" if number[0] in paths else number[0]

    return MENTION.sub(lambda found: re.sub(r"\d\d", aim, found[0]), markdown)


def modules(package: Path) -> list[str]:
    """Dotted names of the modules of a package, itself first, in the order of the alphabet."""
    return [package.name, *(f"{package.name}.{file.stem}" for file in sorted(package.glob("[a-z]*.py")))]


def library_page(title: str, names: list[str]) -> str:
    """A page of reStructuredText that shows what the docstrings of some modules of course_utils say."""
    lines = [title, "=" * len(title), ""]
    for i, name in enumerate(names):
        if i or title != name:
            lines += [name, "-" * len(name), ""]
        lines += [f".. automodule:: course_utils.{name}", "   :members:", ""]
    return "\n".join(lines)


def library(folder: Path) -> None:
    """Write one page for each package of the library, one for the modules beside them, and an index."""
    house = ROOT / "course_utils"
    packages = [p.parent for p in sorted(house.glob("*/__init__.py")) if p.parent.name not in OUT_OF_THE_BOOK]
    ground = [file.stem for file in sorted(house.glob("[a-z]*.py"))]
    pages = {package.name: library_page(package.name, modules(package)) for package in packages}
    pages["ground"] = library_page("Beneath and above", ground)
    index = ["The house", "=========", "", ".. automodule:: course_utils", "", ".. toctree::", ""]
    pages["index"] = "\n".join([*index, *(f"   {name}" for name in pages), ""])
    for name, text in pages.items():
        notebooks.write(folder / f"{name}.rst", text)


def stage(source: Path) -> None:
    """Lay out all pages in the folder `source`, at the paths that they have in this repository."""
    shutil.copytree(BOOK, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "notes"))
    chapters = {name: nbformat.read(notebooks.ipynb(name), as_version=4) for name in notebooks.kept_names()}
    for path in source.glob("*.md"):
        notebooks.write(path, linked(path.read_text(encoding="utf-8"), list(chapters)))
    (source / "timetable.txt").write_text(timetable(chapters), encoding="utf-8")
    (source / "speaker-notes.md").write_text(speaker_notes(chapters), encoding="utf-8")
    for name, nb in chapters.items():
        notebooks.write(source / "notebooks" / f"{name}.ipynb", nbformat.writes(page(nb)))
    library(source / "api")
    pages = [Path(f"{name}.md") for name in LAST_PAGES if (ROOT / f"{name}.md").is_file()]
    for path in pages:  # they exist before links are looked at
        notebooks.write(source / path, (ROOT / path).read_text(encoding="utf-8"))
    for path in pages:
        notebooks.write(source / path, relink((source / path).read_text(encoding="utf-8"), path, source))
    readme = relink((ROOT / "README.md").read_text(encoding="utf-8"), Path("README.md"), source)
    notebooks.write(source / "index.md", f"{readme}\n{contents(chapters)}")
    static = source / "static"
    shutil.copy(FONT, static)
    shutil.copy(mathjax(), static)


def mathjax() -> Path:
    """Where MathJax lies, which a package from PyPI brings."""
    files = importlib.metadata.files("sphinx-mathjax-offline") or []
    return next(Path(str(file.locate())) for file in files if file.name == MATHJAX)


def build(out: Path) -> int:
    """Build the site in `out`, in place of what was there; returns Sphinx's exit status."""
    with tempfile.TemporaryDirectory(prefix="book-") as temporary:
        source = Path(temporary) / "source"
        stage(source)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html", "-j", "auto"]
        fresh = Path(temporary) / "html"
        status = subprocess.run([*command, source, fresh], cwd=ROOT, check=False).returncode
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.move(fresh, out)
    return status


def remote_loads(site: Path) -> list[str]:
    """What pages of a site would load from the network, "page: what" each."""
    return [
        f"{path.relative_to(site)}: {found[0][-100:]}"
        for path in sorted(site.rglob("*.html"))
        if (found := slides.REMOTE_LOAD.search(path.read_text(encoding="utf-8")))
    ]


def main(argv: list[str] | None = None) -> int:
    """Build the book, and say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SITE, help="folder of the site (default: site)")
    out = parser.parse_args(argv).out.resolve()
    if build(out):
        print("book: Sphinx found something wrong (above); the site that was there is left as it was.", file=sys.stderr)
        return 1
    if remote := remote_loads(out):
        print("book: these pages would load something from the network:", *remote, sep="\n  ", file=sys.stderr)
        return 1
    print(f"book: open {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
