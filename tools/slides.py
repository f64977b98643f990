"""Make reveal.js decks out of the notebooks: slides/NN_name.slides.html, which open without a network.

Cells say in their slideshow metadata what they are: slide, subslide, fragment, notes (for the speaker), "-" (goes on with
the slide before). A cell that says nothing is left out: a notebook holds more words than a lecture.

The decks need four JavaScript libraries. They are fetched once, through npm, at the versions below, checked, and kept
in slides/lib.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools import notebooks  # noqa: E402

SLIDES = ROOT / "slides"
LIBRARIES = {  # folder in slides/lib: package, sha512 of its archive as npm publishes it, what to keep of it
    "reveal": (
        "reveal.js@4.6.1",
        "1CW0auaXNPmwmvQ7TwpszwVxMi2Xr5cTS3J3EBC/HHgbPF32Dn7aiu/LKWDOGjMbaDwKQiGmfqcoGQ74HUHCMw==",
        ("dist/", "plugin/notes/", "LICENSE"),
    ),
    "mathjax": (
        "mathjax@2.7.9",
        "NOGEDTIM9+MrsqnjPEjVGNx4q0GQxqm61yQwSK+/5S59i26wId5IC5gNu9/bu8+CCVl5p9G2IHcAl/wJa+5+BQ==",
        (
            "MathJax.js",
            "config/TeX-AMS_SVG",
            "extensions/",
            "jax/element/",
            "jax/input/TeX/",
            "jax/output/SVG/",
            "localization/en/",
            "LICENSE",
        ),
    ),
    "jquery": (
        "jquery@3.7.1",
        "m4avr8yL8kmFN8psrbFFFmB/If14iN5o9nw/NgnnM+kybDJpRsAynV2BsfpTYrTRysYUdADVD7CkUUizgkpLfg==",
        ("dist/jquery.min.js", "LICENSE.txt"),
    ),
    "requirejs": (
        "requirejs@2.3.7",
        "DouTG8T1WanGok6Qjg2SXuCMzszOo0eHeH9hDZ5Y4x8Je+9JB38HdTLT4/VA8OaUhBa0JPVHJ0pyBkM1z+pDsw==",
        ("require.js",),
    ),
}
REMOTE_LOAD = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']+"""
    r"""|@import\s+url\(["']?https?:[^)]+|\bfrom\s+['"]https?:[^'"]+"""
)
REMOTE_PICTURE = re.compile(r"\[?!\[[^\]]*\]\(https?://[^)]*\)(?:\]\([^)]*\))?|<img [^>]*src=[\"']https?:[^>]*>")


def fetch(folder: Path) -> None:
    """Put the libraries into `folder`; those that are there already stay."""
    if all((folder / name / ".complete").exists() for name in LIBRARIES):
        return
    if not shutil.which("npm"):
        sys.exit("slides: npm is needed once, to fetch reveal.js and MathJax: install Node.js, https://nodejs.org")
    for name, (package, digest, keep) in LIBRARIES.items():
        if not (folder / name / ".complete").exists():
            with tempfile.TemporaryDirectory() as temporary:
                unpack(pack(package, digest, Path(temporary)), folder / name, keep)
            (folder / name / ".complete").touch()


def pack(package: str, digest: str, folder: Path) -> Path:
    """Download one npm package into `folder`, compare its SHA-512, and return the archive."""
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(folder)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(f"slides: npm could not fetch {package}; the first `make slides` needs a network connection.")
    (archive,) = folder.glob("*.tgz")
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != digest:
        sys.exit(f"slides: {package} is not what it was when the course was made (SHA-512 differs).")
    return archive


def unpack(archive: Path, folder: Path, keep: tuple[str, ...]) -> None:
    """Unpack the wanted part of an npm archive, whose files all lie in `package/`."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = member.name.partition("/")[2]
            if member.isfile() and path.startswith(keep):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())


def deck(nb: nbformat.NotebookNode, title: str) -> str:
    """The HTML of a deck, which loads nothing but slides/lib; raises ValueError if it would."""
    from nbconvert import SlidesExporter

    exporter = SlidesExporter(
        reveal_url_prefix="lib/reveal",
        reveal_theme="white",
        reveal_scroll=True,
        reveal_number="c/t",
        reveal_transition="none",
        reveal_width="1280",
        reveal_height="800",
    )
    for cell in nb.cells:
        cell.metadata.setdefault("slideshow", {}).setdefault("slide_type", "skip")
        if cell.cell_type == "markdown":
            cell.source = REMOTE_PICTURE.sub("", cell.source)  # the Colab badge
    libraries = {
        "jquery_url": "lib/jquery/dist/jquery.min.js",
        "require_js_url": "lib/requirejs/require.js",
        "mathjax_url": "lib/mathjax/MathJax.js?config=TeX-AMS_SVG",
        "mermaid_js_url": "",
    }
    for name, url in libraries.items():
        setattr(exporter, name, url)
    html, _ = exporter.from_notebook_node(nb, resources={"metadata": {"name": title}})
    html = re.sub(r"<script type=\"module\">\s*(?:(?!</script>).)*mermaid.*?</script>", "", html, flags=re.S)
    remote = REMOTE_LOAD.search(html)
    if remote:
        raise ValueError(f"the deck {title} would load {remote[0][-100:]!r} from the network")
    return html


def main() -> int:
    """Make all decks, and a page that lists them."""
    SLIDES.mkdir(exist_ok=True)
    fetch(SLIDES / "lib")
    rows = []
    for name in notebooks.names():
        nb = nbformat.read(notebooks.ipynb(name), as_version=4)
        heading = next((line.lstrip("# ") for line in nb.cells[0].source.splitlines() if line.startswith("# ")), name)
        (SLIDES / f"{name}.slides.html").write_text(deck(nb, name), encoding="utf-8")
        rows.append(f'<li><a href="{name}.slides.html">{heading}</a></li>')
        print(f"slides/{name}.slides.html")
    page = (
        "<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>Slides</title>"
        "<h1>Slides</h1><p>In a deck, S opens the speaker's notes, F fills the screen, ? lists all keys.</p>"
        f"<ol start='0'>{''.join(rows)}</ol></html>"
    )
    (SLIDES / "index.html").write_text(page, encoding="utf-8")
    print("slides/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
