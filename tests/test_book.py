"""The book: what its pages are made of, and the built site in a real browser, without a network."""

import functools
import http.server
import json
import re
import threading
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.needs import start_chromium, text_of, wait
from tools import book, common_parts, notebooks


def notebook():
    """A small notebook with all that a book treats in its own way."""
    return new_notebook(
        cells=[
            new_markdown_cell("# 02 · Dots: why?\n\n[![Open in Colab](https://x/a.svg)](https://x/b)\n\nWords."),
            new_markdown_cell("[03 · Next](03_next.ipynb) →"),
            new_code_cell(common_parts.setup_source()),
            new_markdown_cell("## An idea"),
            new_code_cell("# NBVAL_CHECK_OUTPUT\nf = (1,\n)  # fmt: skip\nshow(f)", metadata={"alt": "a red dot"}),
            new_code_cell("f(2)", metadata={"tags": ["solution"]}, outputs=[new_output("stream", text="4\n")]),
        ]
    )


def test_a_page_is_for_readers():
    title, idea, code, solution = book.page(notebook()).cells
    assert title.source == "# 02 · Dots: why?\n\nWords." and idea.source == "## An idea"
    assert code.source == "f = (1,\n)\nshow(f)" and code.metadata.mystnb.image.alt == "a red dot"
    assert "hide-cell" in solution.metadata.tags and solution.outputs
    assert solution.metadata.mystnb.code_prompt_show == "Show the solution"


def test_speaker_notes_have_their_own_page(monkeypatch, tmp_path):
    monkeypatch.setattr(book.slides, "NOTES", tmp_path)  # not those of the course
    told = "# Notes\n\n## 02 · Dots: why?\n\n*3 min.* Ask.\n\n## An idea\n\n*14 min.* Wait.\n"
    (tmp_path / "02_dots.md").write_text(told, encoding="utf-8")
    chapters = {"02_dots": notebook()}
    assert book.minutes(chapters["02_dots"]) == 17
    page = book.speaker_notes(chapters)
    assert "## 02 · Dots\n" in page and "**An idea**" in page and "Wait." in page
    assert "| [02 · Dots](notebooks/02_dots.ipynb) | 17 | – |" in book.timetable(chapters)


def test_links_lead_into_the_book_or_to_the_repository(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").touch()
    (tmp_path / "teaching.md").touch()
    text = "---\nlicense: mit\n---\n[data](data/README.md) [law](LICENSE) [far](https://x.org) ![p](LICENSE)"
    assert book.relink("[how](book/teaching.md)", Path("README.md"), tmp_path) == "[how](teaching.md)"

    def relinked():
        return book.relink(text, Path("README.md"), tmp_path)

    monkeypatch.setattr(common_parts, "address", lambda: None)
    assert relinked() == "[data](data/README.md) law [far](https://x.org) ![p](LICENSE)"
    monkeypatch.setattr(common_parts, "address", lambda: "me/course")
    assert "[law](https://github.com/me/course/blob/main/LICENSE)" in relinked()
    assert book.linked("notebooks 02 and 13, notebook 02.", ["02_dots"]) == (
        "notebooks [02](notebooks/02_dots.ipynb) and 13, notebook [02](notebooks/02_dots.ipynb)."
    )


def test_docstrings_keep_their_drawings_and_their_signs(monkeypatch):
    import runpy

    monkeypatch.chdir(book.ROOT)
    readable = runpy.run_path(str(book.BOOK / "conf.py"))["readable"]
    lines = ["From `x_t` to x_t*2, |x|:", "", "    a ──► b", "      ▲", "", "and on", "here."]
    readable(None, "module", "m", None, None, lines)
    assert lines[0] == "From ``x_t`` to x\\_t\\*2, \\|x\\|:"
    drawing = lines.index("::")
    assert lines[drawing : drawing + 5] == ["::", "", "    a ──► b", "      ▲", ""]
    assert lines[-2:] == ["and on", "here."]
    lines = ["a ──► b ──┐", "          ├─► c", "d ────────┘", "", "and *on*"]
    readable(None, "module", "m", None, None, lines)
    assert lines[:6] == ["", "::", "", "    a ──► b ──┐", "              ├─► c", "    d ────────┘"]
    assert lines[-1] == "and \\*on\\*"


def test_the_course_font_has_every_chinese_sign_of_the_book():
    from fontTools.ttLib import TTFont

    known = TTFont(book.FONT).getBestCmap()
    files = [*book.BOOK.glob("*.md"), *book.ROOT.glob("*.md"), book.ROOT / "data" / "README.md"]
    files += [notebooks.text(name) for name in notebooks.kept_names()]
    for file in files:
        used = set(re.findall(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]", file.read_text(encoding="utf-8")))
        assert not {sign for sign in used if ord(sign) not in known}, file.name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the built book, served from this machine."""
    folder = tmp_path_factory.mktemp("book") / "site"
    assert book.main(["--out", str(folder)]) == 0
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium that keeps what pages write to the console, and what they ask for."""
    driver = start_chromium(tmp_path_factory.mktemp("chromium"), log=True)
    yield driver
    driver.quit()


def complaints(browser, address):
    """Errors that pages wrote to the console, and addresses beyond this site that were asked for."""
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    return said + [name for name in asked if not name.startswith((address, "data:", "blob:"))]


@pytest.mark.slow
def test_a_reader_opens_the_book(site, browser):
    address, folder = site
    names = notebooks.kept_names()
    assert all((folder / "notebooks" / f"{name}.html").is_file() for name in names)
    browser.get(f"{address}/index.html")
    sidebar = wait(browser, lambda b: text_of(b, ".bd-sidebar-primary"))
    for entry in ("02 · Noise predictor", "Glossary", "How to teach from it", "The house", "The data"):
        assert entry in sidebar
    assert complaints(browser, address) == []

    # a notebook: formulas set, pictures there, folded solutions, links to its neighbours
    browser.get(f"{address}/notebooks/{names[4]}.html")
    wait(browser, lambda b: len(b.find_elements("css selector", "mjx-container svg")) > 10)
    assert browser.find_elements("css selector", "mjx-merror") == []
    pictures = "return [...document.images].map(i => [i.src, i.complete && i.naturalWidth > 0])"
    browser.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    wait(browser, lambda b: all(drawn for _, drawn in b.execute_script(pictures)))
    assert len(browser.execute_script(pictures)) > 10
    folded = browser.find_elements("css selector", "details.hide")
    assert folded and not any(details.get_attribute("open") for details in folded)
    assert "Ask the room" not in browser.find_element("css selector", "article").text
    for selector, name in ((".prev-next-area .left-prev", names[3]), (".prev-next-area .right-next", names[5])):
        assert browser.find_element("css selector", selector).get_attribute("href").endswith(f"{name}.html")
    font = "return document.fonts.load('16px \"Course Chinese\"', '蝴蝶').then(found => found.length)"
    assert browser.execute_script(font) == 1
    assert complaints(browser, address) == []

    # the dark theme
    for theme in ("dark", "light"):
        choice = browser.find_element("css selector", f".theme-change-button[data-mode='{theme}']")
        browser.execute_script("arguments[0].click()", choice)
        assert browser.execute_script("return document.documentElement.dataset.theme") == theme

    # the pages made from docstrings
    browser.get(f"{address}/api/generator.html")
    shown = wait(browser, lambda b: text_of(b, "article"))
    assert "ddim(" in shown and "noise ──► [ noise predictor (unet)" in shown
    assert complaints(browser, address) == []


@pytest.mark.slow
def test_search_finds_what_a_reader_looks_for(site, browser):
    address, _ = site
    for word, page in (("guidance", "04_text_conditioning.html"), ("DreamBooth", "10_dreambooth.html")):
        browser.get(f"{address}/search.html?q={word}")
        wait(browser, lambda b: "search finished" in text_of(b, "#search-results").lower())
        hits = [a.get_attribute("href") for a in browser.find_elements("css selector", "#search-results li a")]
        assert any(page in hit for hit in hits), json.dumps(hits)
        assert complaints(browser, address) == []


@pytest.mark.slow
def test_no_page_is_wider_than_a_telephone(site, browser):
    address, folder = site
    screen = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    wide = {}
    for path in sorted(folder.rglob("*.html")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(("_", "genindex", "py-modindex")):  # source code, parts of the theme, tables of names
            browser.get(f"{address}/{name}")
            wide[name] = browser.execute_script("return document.documentElement.scrollWidth")
    assert {name: width for name, width in wide.items() if width > 390} == {}
