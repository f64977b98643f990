"""The rules of form that every notebook of the course keeps; each rule yields one sentence per fault.

Used by `python tools/notebooks.py check`, on the files as they lie here, and by `tests/test_notebooks_form.py`, on what
git keeps of them. The limits keep a notebook readable in an evening and teachable in a lecture: short cells, words
between them, checked outputs, small files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import nbformat
from nbformat import NotebookNode

from tools import common_parts, notebooks
from tools import slides as decks

CHECKED = "# NBVAL_CHECK_OUTPUT"
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|mnt|private|opt|var)/\w+|\b[A-Z]:\\\\?Users")
FORMULA = re.compile(r"\$\$.+?\$\$|\\\[.+?\\\]|(?<!\$)\\begin\{(?:align|equation|gather)\*?\}.+?\\end\{", re.S)
EXERCISE = re.compile(r"^#{2,5}\s.*\bexercise\b\s*\S*\d", re.I | re.M)


@dataclass(frozen=True)
class Limits:
    """How long and how rich a notebook may be."""

    words: tuple[int, int] = (2000, 3500)
    exercises: tuple[int, int] = (4, 6)
    checked: int = 8  # cells whose output nbval compares
    formulas: int = 12
    bytes: int = 1_500_000


LIMITS = {"00": Limits(words=(1200, 3500), exercises=(0, 6), checked=3)}  # the start page is a map, not a lesson


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """Code cells that hold something."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def prose(nb: NotebookNode) -> str:
    """All markdown, without the links to other notebooks."""
    read = (cell for cell in nb.cells if cell.cell_type == "markdown")
    return "\n\n".join(cell.source for cell in read if not common_parts.is_common(cell))


def lines_of(cell: NotebookNode) -> int:
    """Lines of a cell that are not empty."""
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def first_line(cell: NotebookNode) -> str:
    """The first line of a cell, to name it by."""
    return next((line.strip() for line in cell.source.splitlines() if line.strip()), "")[:60]


def count_words(markdown: str) -> int:
    """Words that a reader reads: no code blocks, displayed formulas, tags, addresses or bare numbers."""
    for pattern in (r"```.*?```", FORMULA.pattern, r"<[^>]+>", r"\]\([^)]*\)", r"https?://\S+"):
        markdown = re.sub(pattern, " ", markdown, flags=re.S)
    return len(re.findall(r"[^\W\d_][\w'’-]*", markdown))


def length(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """2,000 to 3,500 words of prose."""
    words, (low, high) = count_words(prose(nb)), limits.words
    if not low <= words <= high:
        yield f"{words} words of prose; keep between {low} and {high}."


def code_size(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """Median cell <= 8 lines, nine in ten <= 25, none > 40."""
    sizes = sorted(lines_of(cell) for cell in code_cells(nb))
    if sizes and median(sizes) > 8:
        yield f"The median code cell has {median(sizes):g} lines; keep it at 8 or fewer."
    if sizes and sum(size > 25 for size in sizes) > len(sizes) / 10:
        yield f"{sum(size > 25 for size in sizes)} of {len(sizes)} code cells have more than 25 lines; a tenth may."
    for cell in code_cells(nb):
        if lines_of(cell) > 40:
            yield f"A code cell of {lines_of(cell)} lines (at most 40): {first_line(cell)}"


def rhythm(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """Never more than two code cells in a row."""
    run = 0
    for cell in nb.cells:
        run = run + 1 if cell.cell_type == "code" else 0
        if run == 3:
            yield f"Three code cells in a row; put words before: {first_line(cell)}"


def formulas(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """At most twelve displayed formulas."""
    count = len(FORMULA.findall(prose(nb)))
    if count > limits.formulas:
        yield f"{count} displayed formulas; at most {limits.formulas}."


def exercises(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """Four to six exercises, each under a heading such as "### Exercise 2.1"."""
    count, (low, high) = len(EXERCISE.findall(prose(nb))), limits.exercises
    if not low <= count <= high:
        yield f"{count} exercises (headings such as '### Exercise 2.1'); keep between {low} and {high}."


def checked_cells(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """At least eight cells whose output nbval compares, each with something to compare."""
    cells = [cell for cell in code_cells(nb) if CHECKED in cell.source]
    if len(cells) < limits.checked:
        yield f"{len(cells)} cells with {CHECKED}; at least {limits.checked}."
    for cell in cells:
        kinds = {key for output in cell.outputs for key in output.get("data", {"text": 0})}
        if not kinds:
            yield f"A checked cell prints nothing: {first_line(cell)}"


def executed(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """All code executed in one run from top to bottom; errors only where the tag `raises-exception` announces one."""
    counts = [cell.execution_count for cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield "Not executed from top to bottom in one run: `python tools/notebooks.py run` does it."
    for cell in code_cells(nb):
        failed = any(output.output_type == "error" for output in cell.outputs)
        announced = "raises-exception" in cell.metadata.get("tags", [])
        if failed != announced:
            yield (
                f"A cell {'raises without' if failed else 'does not raise despite'} the tag raises-exception: "
                f"{first_line(cell)}"
            )


def slides(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """Slideshow metadata, and speaker notes with minutes, in book/notes, for sections that there are."""
    kinds = [decks.kind_of(cell) for cell in nb.cells]
    if kinds.count("slide") < 5:
        yield f"{kinds.count('slide')} cells start a slide; at least 5."
    for kind in sorted(set(kinds) - {*decks.SHOWN, "skip"}):
        yield f"Cells of type {kind!r}, which no slide shows: what is for the speaker stands in book/notes."
    notes = decks.speaker_notes(nb)
    if not any(re.search(r"\d\s*min", words) for words in notes.values()):
        yield "No speaker notes with minutes (book/notes/NN_name.md, a heading for each section)."
    there = {title for cell in nb.cells if cell.cell_type == "markdown" for title in decks.headings(cell)}
    for title in notes.keys() - there:
        yield f"Speaker notes for a section that is not there: {title}"


def opening(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """One title, links to the neighbours, badges once there is an address, and the common setup cell."""
    titles = re.findall(r"^# ", re.sub(r"```.*?```", "", prose(nb), flags=re.S), re.M)
    if not nb.cells or not nb.cells[0].source.startswith("# ") or len(titles) != 1:
        yield "The first cell starts with the one '# ' title of the notebook."
    mend = "`python tools/notebooks.py common` mends it."
    if len(nb.cells) < 2 or not all(map(common_parts.is_common, (nb.cells[1], nb.cells[-1]))):
        yield f"No links to its neighbours in the second and the last cell: {mend}"
    badges = sum("Open in Colab" in cell.source for cell in nb.cells)
    if badges != bool(common_parts.address()):
        yield f"{'No Colab badge' if common_parts.address() else 'A badge leads nowhere'}: {mend}"
    setup = common_parts.setup_source()
    if not any(cell.source.strip().startswith(setup) for cell in code_cells(nb)):
        yield f"No code cell starts with the text of tools/colab_setup.py: {mend}"


def alt_texts(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """Every picture has words, in its cell's metadata, for those who cannot see it."""
    for cell in code_cells(nb):
        pictured = any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))
        if pictured and len(cell.metadata.get("alt", "").split()) < 3:
            yield f'A picture without words for who cannot see it (alt="…" in the cell\'s header): {first_line(cell)}'


def portable(nb: NotebookNode, limits: Limits) -> Iterator[str]:
    """Nothing that belongs to one machine: paths, widget state, and no more than 1.5 MB."""
    for cell in nb.cells:
        texts = [cell.source] + [
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for output in cell.get("outputs", [])
        ]
        found = next((match[0] for match in map(MACHINE_PATH.search, texts) if match), None)
        if found:
            yield f"A path of one machine ({found}…) in the cell: {first_line(cell)}"
        if any(notebooks.WIDGET_VIEW in output.get("data", {}) for output in cell.get("outputs", [])):
            yield f"A widget was saved with the cell: {first_line(cell)}"
    if "widgets" in nb.metadata:
        yield "Widget state was saved with the notebook."
    size = len(nbformat.writes(nb).encode())
    if size > limits.bytes:
        yield f"{size / 1e6:.2f} MB; at most {limits.bytes / 1e6} MB (fewer or smaller pictures)."


RULES = (length, code_size, rhythm, formulas, exercises, checked_cells, executed, slides, opening, portable, alt_texts)


def problems(nb: NotebookNode, limits: Limits = Limits()) -> list[str]:
    """All faults of form of one notebook."""
    return [problem for rule in RULES for problem in rule(nb, limits)]


def twins_differ(name: str) -> str | None:
    """One sentence when the .ipynb file and its text twin do not hold the same cells, else None."""
    if not notebooks.text(name).exists() or not notebooks.ipynb(name).exists():
        return f"{name} lacks a twin: `python tools/notebooks.py sync {name[:2]}` makes it."

    def content(nb: NotebookNode) -> list[tuple]:
        return [(c.cell_type, c.source, c.metadata) for c in notebooks.tidy(nb).cells]

    left = content(notebooks.read_text(name))
    right = content(nbformat.read(notebooks.ipynb(name), as_version=4))
    if left == right:
        return None
    first = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return (
        f"{name}.ipynb and text/{name}.py differ from cell {first} on ({len(right)} and {len(left)} cells): "
        "`python tools/notebooks.py sync` takes the text, with `--from-ipynb` the notebook."
    )


def untidy(name: str) -> str | None:
    """One sentence when the .ipynb file holds what differs from machine to machine, as Jupyter saves it, else None."""
    path = notebooks.ipynb(name)
    if path.read_text(encoding="utf-8") == notebooks.dumps(nbformat.read(path, as_version=4)):
        return None
    return f"{name}.ipynb is as Jupyter saved it: `python tools/notebooks.py sync {name[:2]}` makes it tidy."


def all_problems(name: str) -> list[str]:
    """Faults of form of a notebook by name, its twins' differences first."""
    differ = twins_differ(name)
    if not notebooks.ipynb(name).exists():
        return [differ]
    nb = nbformat.read(notebooks.ipynb(name), as_version=4)
    return [*filter(None, (differ, untidy(name))), *problems(nb, LIMITS.get(name[:2], Limits()))]
