"""Make decks out of the notebooks: slides/NN_name.slides.html, which reveal.js shows, and a handout of each, as a PDF.

    python tools/slides.py          all decks; no network is needed
    python tools/slides.py 05 06    some

Cells say in their slideshow metadata what they are: slide, subslide, fragment, "-" (goes on with the slide before).
A cell that says nothing, or skip, is left out: a notebook holds more words than a lecture. The code of a figure is
folded; answers are folded as in the notebook. `deck/deck.js` measures every slide when a deck is opened, and makes it
fit.

What the speaker should know lies in `book/notes`, section by section. Handouts are printed by Chromium, where there is
one.
"""

from __future__ import annotations

import html
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools import notebooks  # noqa: E402

SLIDES = ROOT / "slides"
DECK = ROOT / "tools" / "deck"
NOTES = ROOT / "book" / "notes"
FONT = ROOT / "course_utils" / "figures" / "fonts" / "NotoSansSC-course.ttf"
LIBRARIES = {  # file in slides/lib: the package from PyPI that brings it
    "reveal.js": "sphinx-revealjs",
    "reveal.css": "sphinx-revealjs",
    "notes.js": "sphinx-revealjs",
    "tex-svg-full.js": "sphinx-mathjax-offline",
}
MARKS = re.compile(r"^# NBVAL_\w+\n|  # fmt: skip$", re.M)
REMOTE_LOAD = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']+"""
    r"""|@import\s+url\(["']?https?:[^)]+|\bfrom\s+['"]https?:[^'"]+"""
)
REMOTE_PICTURE = re.compile(r"\[?!\[[^\]]*\]\(https?://[^)]*\)(?:\]\([^)]*\))?|<img [^>]*src=[\"']https?:[^>]*>")
BROWSERS = ("chromium", "google-chrome", "chromium-browser", "chrome", "msedge")
MANY_LINES = 4  # code of a figure up to this length is shown
SHOWN = ("slide", "subslide", "fragment", "-")  # what a cell can be in the slides


def kind_of(cell: NotebookNode) -> str:
    """What a cell is in the slides; "skip" when it is not said."""
    return cell.metadata.get("slideshow", {}).get("slide_type", "skip")


def prose(markdown: str) -> str:
    """Markdown as HTML, its formulas left to MathJax, without pictures that would come from a network."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    return re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html_mistune(REMOTE_PICTURE.sub("", markdown)))


def code(cell: NotebookNode) -> str:
    """The code of a cell, folded where the lecture does not need it."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    source = MARKS.sub("", cell.source).strip()
    shown = f'<pre class="code">{highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip()}</pre>'
    lines = len(source.splitlines())
    pictured = any(key.startswith("image/") for output in cell.outputs for key in output.get("data", {}))
    if pictured and lines > MANY_LINES:
        return f'<details class="leads"><summary>Code, {lines} lines</summary>{shown}</details>'
    return shown


def result(output: NotebookNode, words: str = "") -> str:
    """One output of a cell as HTML; `words` say what a picture shows."""
    if output.output_type == "error":
        return f'<pre class="output">{html.escape(f"{output.ename}: {output.evalue}")}</pre>'
    if output.output_type == "stream":
        return f'<pre class="output leads">{html.escape(output.text.rstrip())}</pre>'
    for key in ("image/png", "image/jpeg"):
        if picture := output.data.get(key):
            source = f"data:{key};base64,{picture.replace(chr(10), '')}"
            return f'<figure><img src="{source}" alt="{html.escape(words)}"></figure>'
    if page := output.data.get("text/html"):
        return f"<div>{page}</div>"
    return f'<pre class="output leads">{html.escape(output.data.get("text/plain", "").rstrip())}</pre>'


def blocks(cell: NotebookNode) -> str:
    """A cell as HTML: headings, paragraphs, code, outputs, one after the other."""
    if cell.cell_type == "markdown":
        return prose(cell.source)
    return "\n".join([code(cell), *(result(output, cell.metadata.get("alt", "")) for output in cell.outputs)])


def headings(cell: NotebookNode) -> list[str]:
    """The headings in a cell of text, down to the third level."""
    return [title.strip() for title in re.findall(r"^#{1,3} (.+)$", cell.source, re.M)]


def speaker_notes(nb: NotebookNode) -> dict[str, str]:
    """What the speaker should know, {heading of a section: Markdown}, from book/notes."""
    number = re.match(r"# (\d\d)\b", nb.cells[0].source) if nb.cells else None
    told: dict[str, str] = {}
    for file in NOTES.glob(f"{number[1]}_*.md") if number else ():
        parts = re.split(r"^## (.+)$", file.read_text(encoding="utf-8"), flags=re.M)[1:]
        told |= {title.strip(): words.strip() for title, words in zip(parts[::2], parts[1::2], strict=True)}
    return told


def stacks(nb: NotebookNode) -> list[list[tuple[list[str], str]]]:
    """The slides of a notebook: stacks, to be read downwards, of (blocks, what the speaker should know)."""
    notes, told = speaker_notes(nb), ""
    found: list[list[tuple[list[str], str]]] = []
    for cell in nb.cells:
        kind = kind_of(cell)
        if cell.cell_type == "markdown":
            told = next((notes[title] for title in headings(cell)[::-1] if title in notes), told)
        if kind not in SHOWN:
            continue
        if kind == "slide" or not found:
            found.append([([], told)])
        elif kind == "subslide":
            found[-1].append(([], told))
        shown = blocks(cell)
        found[-1][-1][0].append(f'<div class="fragment">{shown}</div>' if kind == "fragment" else shown)
    return found


def deck(nb: NotebookNode, title: str) -> str:
    """The page of a deck, which loads nothing but slides/lib; raises ValueError if it would."""
    from pygments.formatters import HtmlFormatter

    pieces, first = [], " first"
    for stack in stacks(nb):
        pieces.append("<section>")
        for shown, told in stack:
            aside = f'<aside class="notes">{prose(told)}</aside>' if told else ""
            flow = "\n".join(shown)
            pieces.append(f'<section class="slide{first}"><div class="page"><div>{flow}</div></div>{aside}</section>')
            first = ""
        pieces.append("</section>")
    style = (DECK / "deck.css").read_text(encoding="utf-8") + HtmlFormatter().get_style_defs("pre.code")
    page = Template((DECK / "deck.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        style=style,
        script=(DECK / "deck.js").read_text(encoding="utf-8"),
        slides="\n".join(pieces),
    )
    if remote := REMOTE_LOAD.search(page):
        raise ValueError(f"the deck {title} would load {remote[0][-100:]!r} from the network")
    return page


def lay_out(folder: Path) -> None:
    """Put what the decks load, reveal.js and MathJax from their packages and the font, into `folder`/lib."""
    lib = folder / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    shutil.copy(FONT, lib)
    for name, package in LIBRARIES.items():
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            sys.exit(f"slides: {package} is not installed: `make setup`, or `pip install -e .[book]`, brings it.")
        shutil.copy(next(Path(str(file.locate())) for file in files if file.name == name), lib)


def make(name: str, folder: Path) -> Path:
    """Write the deck of a notebook, as it is stored, into `folder`; returns the file."""
    nb = nbformat.read(notebooks.ipynb(name), as_version=4)
    path = folder / f"{name}.slides.html"
    path.write_text(deck(nb, name), encoding="utf-8")
    return path


def browser() -> str | None:
    """The browser that prints handouts; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def handout(page: Path, chromium: str) -> Path:
    """Print a deck, one page a slide, beside it; returns the PDF. Leaves with a sentence if the browser makes none."""
    pdf = page.with_name(page.name.replace(".slides.html", ".handout.pdf"))
    pdf.unlink(missing_ok=True)
    flags = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-pdf-header-footer"]
    flags += ["--no-sandbox"]  # or it does not start for root; the page is our own
    with tempfile.TemporaryDirectory(prefix="handout-", ignore_cleanup_errors=True) as profile:  # not the user's own
        flags += [f"--user-data-dir={profile}", "--virtual-time-budget=60000", f"--print-to-pdf={pdf}"]
        command = [chromium, *flags, f"{page.resolve().as_uri()}?handout"]
        said = subprocess.run(command, capture_output=True, check=False)
    if said.returncode or not pdf.exists():
        sys.exit(f"slides: {chromium} did not print {page.name}: {said.stderr.decode(errors='replace')[-300:]}")
    return pdf


def main(argv: list[str] | None = None) -> int:
    """Make the decks asked for, their handouts, and a page that lists all."""
    arguments = sys.argv[1:] if argv is None else argv
    lay_out(SLIDES)
    chromium = browser()
    for name in notebooks.names(arguments):
        page = make(name, SLIDES)
        print(page.relative_to(ROOT))
        if chromium:
            print(handout(page, chromium).relative_to(ROOT))
    if not chromium:
        print("slides: no handouts, which want Chromium or Chrome; open a deck with ?handout, and print it.")
    (SLIDES / "index.html").write_text(index(), encoding="utf-8")
    print((SLIDES / "index.html").relative_to(ROOT))
    return 0


def index() -> str:
    """A page that leads to the decks and handouts there are."""
    rows = []
    for name in notebooks.names():
        if (SLIDES / f"{name}.slides.html").exists():
            title = nbformat.read(notebooks.ipynb(name), as_version=4).cells[0].source.split("\n")[0].lstrip("# ")
            pdf = f"{name}.handout.pdf"
            paper = f' (<a href="{pdf}">handout</a>)' if (SLIDES / pdf).exists() else ""
            rows.append(f'<li><a href="{name}.slides.html">{html.escape(title)}</a>{paper}</li>')
    return (
        "<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>Slides</title>"
        "<h1>Slides</h1><p>In a deck, S opens the speaker's notes, F fills the screen, ? lists all keys.</p>"
        f"<ul>{''.join(rows)}</ul></html>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
