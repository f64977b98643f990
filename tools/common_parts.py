"""What all notebooks have in common: links to their neighbours, badges for Colab and Kaggle, the setup cell.

`python tools/notebooks.py common` brings them up to date in both twins and leaves all else, outputs too, as it is;
`python tools/notebooks.py address ME/COURSE` first names the public repository, on which badges and setup depend.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tools import notebooks

ROOT = notebooks.ROOT
UNSET = "OWNER/pictures-from-noise"  # what stands for the address as long as there is none
SETUP = ROOT / "tools" / "colab_setup.py"
SETUP_BEGINS, SETUP_ENDS = "# Setup. ", 'else ".."))\n'
ADDRESSED = ("README.md", "CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml")  # other files that name the repository
HOSTS = {  # name: the badge's picture, and where it leads, up to OWNER/REPOSITORY
    "Colab": (
        "https://colab.research.google.com/assets/colab-badge.svg",
        "https://colab.research.google.com/github/",
    ),
    "Kaggle": (
        "https://kaggle.com/static/images/open-in-kaggle.svg",
        "https://kaggle.com/kernels/welcome?src=https://github.com/",
    ),
}
BADGE = re.compile(r"\n*^\[!\[Open in \w+\]\([^)]*\)\]\([^)]*\)$", re.M)
LINKS = re.compile(r"\A(?:← )?\[[^\]]+\]\(\d\d_\w+\.ipynb\)(?: [·←→]|$)")


def repository() -> str:
    """OWNER/REPOSITORY as the setup cell names it, set or not."""
    return setup_source().split("https://github.com/")[1].split('"')[0]


def address() -> str | None:
    """The public repository of the course, "me/course"; None as long as nobody has named it."""
    name = repository()
    return None if name == UNSET else name


def setup_source() -> str:
    """The text of the setup cell."""
    return SETUP.read_text(encoding="utf-8").strip()


def title(name: str) -> str:
    """The title of a notebook without its question: "04 · Text conditioning"."""
    first = notebooks.text(name).read_text(encoding="utf-8").split("# # ", 1)[1].split("\n")[0]
    return first.partition(":")[0]


def links(name: str, among: list[str]) -> str:
    """One line that leads to the notebook before, to the first one, which has the contents, and to the one after."""
    place = among.index(name)
    steps = [f"← [{title(among[place - 1])}]({among[place - 1]}.ipynb)"] if place else []
    if place > 1:
        steps.append(f"[Contents]({among[0]}.ipynb)")
    if place + 1 < len(among):
        steps.append(f"[{title(among[place + 1])}]({among[place + 1]}.ipynb) →")
    return " · ".join(steps)


def badges(name: str) -> str:
    """The badges that open a notebook on Colab and on Kaggle; empty as long as there is no address."""
    if not address():
        return ""
    path = f"{address()}/blob/main/notebooks/{name}.ipynb"
    return "\n".join(f"[![Open in {where}]({picture})]({door}{path})" for where, (picture, door) in HOSTS.items())


def is_common(cell: NotebookNode) -> bool:
    """Is this a cell that holds links, with or without badges, and nothing else?"""
    return cell.cell_type == "markdown" and bool(LINKS.match(cell.source))


def brought_up_to_date(nb: NotebookNode, name: str, among: list[str]) -> NotebookNode:
    """The notebook with its common parts as they should be: links and badges below the title, links at the end."""
    nb.cells = [cell for cell in nb.cells if not is_common(cell)]
    nb.cells[0].source = BADGE.sub("", nb.cells[0].source)
    line = links(name, among)
    nb.cells.insert(1, new_markdown_cell("\n\n".join(filter(None, (line, badges(name))))))
    nb.cells.append(new_markdown_cell(line))
    for cell in nb.cells:
        if cell.cell_type == "code" and cell.source.startswith(SETUP_BEGINS):
            _, _, own = f"{cell.source}\n".partition(SETUP_ENDS)  # what a notebook adds to the setup
            cell.source = f"{setup_source()}\n{own}".strip()
    return nb


def bring_along(names: list[str]) -> int:
    """Bring the common parts of notebooks up to date in both twins; returns how many files that changed."""
    among, changed = notebooks.names(), 0
    for name in names:
        twin = brought_up_to_date(notebooks.read_text(name), name, among)
        stored = brought_up_to_date(nbformat.read(notebooks.ipynb(name), as_version=4), name, among)
        changed += notebooks.write(notebooks.text(name), notebooks.to_text(twin))
        changed += notebooks.write(notebooks.ipynb(name), notebooks.dumps(stored))
    return changed


def name_address(new: str) -> int:
    """Put OWNER/REPOSITORY in place of the present one, everywhere; returns how many files that changed."""
    before, changed = repository(), 0
    for file in (SETUP, *map(ROOT.joinpath, ADDRESSED)):
        changed += notebooks.write(file, replaced(file, before, new))
    return changed + bring_along(notebooks.names())


def replaced(file: Path, before: str, new: str) -> str:
    """The text of a file with one address in place of another; its pages, me.github.io/course, follow."""
    pages, new_pages = ("{}.github.io/{}".format(*address.split("/")) for address in (before, new))
    return file.read_text(encoding="utf-8").replace(pages, new_pages).replace(before, new)
