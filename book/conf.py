"""Sphinx's settings for the book; `tools/book.py` lays out the pages and calls Sphinx."""

import re
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path.cwd()  # tools/book.py starts Sphinx in the course's folder
sys.path.insert(0, str(ROOT))

from tools import common_parts  # noqa: E402

address = common_parts.address()
project = "Pictures from Noise"
author = "The authors of Pictures from Noise"
copyright = "2026, the authors of Pictures from Noise"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "sphinx_copybutton"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs are those that are stored
nb_merge_streams = True
nb_ipywidgets_js = {}  # no widget state is stored, and the default would come from a network
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]  # a notebook may skip a level of headings
exclude_patterns = ["timetable.txt"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # or every `forward` would show what torch says of it
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": True}

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_css_files = ["book.css"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
mathjax_path = "tex-svg-full.js"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "use_download_button": False,
    "article_header_end": ["article-header-buttons"],
} | (
    {
        "repository_url": f"https://github.com/{address}",
        "repository_branch": "main",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
    if address
    else {}
)

DRAWN = re.compile("[\u2500-\u257f\u25ba\u25b2\u25bc\u25c4]")  # lines and arrows


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Lines cut at empty lines, and where the indentation changes between none and some; a drawing stays whole."""
    blocks: list[list[str]] = []
    for empty, group in groupby(lines, key=lambda line: not line.strip()):
        run = list(group)
        if empty:
            blocks.append([])
        elif any(DRAWN.search(line) and not line.startswith("    ") for line in run):
            blocks.append([f"    {line}" for line in run])
        else:
            blocks += [list(part) for _, part in groupby(run, key=lambda line: line.startswith("    "))]
    return blocks


def escaped(text: str) -> str:
    """A line of a docstring as reStructuredText: code in `backticks` stays code, all else means itself."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(f"`{part}`" if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", part) for i, part in enumerate(parts))


def readable(app, what, name, obj, options, lines: list[str]) -> None:
    """Our docstrings are plain text: a drawing, and what is indented, as a formula is, keeps its shape."""
    out: list[str] = []
    for block in paragraphs(lines):
        drawing = bool(block) and block[0].startswith("    ")
        out += ["", "::", "", *block, ""] if drawing else [escaped(line.strip()) for line in block] or [""]
    lines[:] = out


def setup(app) -> None:
    """Let Sphinx call `readable` for every docstring."""
    app.connect("autodoc-process-docstring", readable)
