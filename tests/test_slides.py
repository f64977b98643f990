"""The decks: what is on a slide, and that all of it fits, measured in a real browser at two sizes of screen."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.needs import PATIENCE, start_chromium, wait
from tools import notebooks, slides

SIZES = ((1280, 800), (1920, 1080))
MEASURE = """
const faults = [], slides = document.querySelectorAll("section.slide");
const show = (slide) => { const {h, v} = Reveal.getIndices(slide); Reveal.slide(h, v); };
const wide = (box) => box.scrollWidth > box.clientWidth;
const broken = (cell) => getComputedStyle(cell).overflowWrap + getComputedStyle(cell).wordBreak !== "normalnormal";
function measure(slide) {
  const page = slide.querySelector(".page"), {left, top, right, bottom} = page.getBoundingClientRect();
  const say = (what) => faults.push(`${what}: ${page.textContent.trim().slice(0, 60)}`);
  if (!page.clientHeight || !(page.innerText.trim() || page.querySelector("img"))) say("nothing is seen");
  if (page.scrollHeight > page.clientHeight) say("too tall");
  if (wide(page) || [...page.querySelectorAll("pre")].some(wide)) say("too wide");
  if (Math.min(left, top, innerWidth - right, innerHeight - bottom) < 0) say("beyond the screen");
  if ([...page.querySelectorAll("td, th")].some(broken)) say("words are broken");
}
"""
OVERFULL = MEASURE + "for (const slide of slides) { show(slide); measure(slide); } return faults;"
UNFOLDED = """
const [done] = arguments;
(async () => {
  for (const slide of slides) {
    show(slide);
    for (const details of slide.querySelectorAll("details")) {
      const seen = new Promise((resolve) => details.addEventListener("toggle", resolve, {once: true}));
      details.open = true;
      await seen;
    }
    measure(slide);
  }
  done(faults);
})();
"""


def of(kind, cell):
    """The cell, which is of this kind in the slides."""
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def picture(words):
    """An output that is a picture, and its cell's words for it."""
    return {"outputs": [new_output("display_data", data={"image/png": "iVBOR"})], "metadata": {"alt": words}}


@pytest.fixture
def lecture(tmp_path, monkeypatch):
    """A small notebook with all that a deck treats in its own way, and notes for one of its sections."""
    monkeypatch.setattr(slides, "NOTES", tmp_path)
    (tmp_path / "02_dots.md").write_text("# Notes\n\n## An idea\n\n*4 min.* Ask.\n", encoding="utf-8")
    return new_notebook(
        cells=[
            of("slide", new_markdown_cell("# 02 · Dots: why?\n\n[![Open](https://x.org/a.svg)](https://x.org/b)")),
            new_markdown_cell("Not on a slide."),
            of("slide", new_markdown_cell("## An idea\n\n$x_t < 1$")),
            of("-", new_code_cell("# NBVAL_CHECK_OUTPUT\na = 1\nb = 2\nc = 3\nd = 4\nshow()", **picture('a "dot"'))),
            of("subslide", new_code_cell("print(2)", outputs=[new_output("stream", text="<2>\n")])),
            of("notes", new_markdown_cell("*1 min.* Wait.")),
        ]
    )


def test_what_is_on_a_slide(lecture):
    first, second = slides.stacks(lecture)
    assert [len(first), len(second)] == [1, 2]
    ((title, _),), ((idea, told), (more, told_too)) = first, second
    assert "Dots" in title[0] and "x.org" not in title[0]
    assert told == told_too == "*4 min.* Ask."
    assert "$x_t &lt; 1$" in idea[0]
    assert '<details class="leads"><summary>Code, 5 lines</summary>' in idea[1] and "NBVAL" not in idea[1]
    assert 'alt="a &quot;dot&quot;"' in idea[1] and "&lt;2&gt;" in more[0] and "<details" not in more[0]
    page = slides.deck(lecture, "Dots & more")
    assert "Not on a slide" not in page and "Wait." not in page and page.count('<aside class="notes">') == 2
    assert "<title>Dots &amp; more</title>" in page


def test_a_deck_loads_nothing_from_the_network(lecture):
    lecture.cells[0].source += "<script src='https://example.com/x.js'></script>"
    with pytest.raises(ValueError, match="from the network"):
        slides.deck(lecture, "Dots")


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """The decks of all notebooks, {name: file}."""
    folder = tmp_path_factory.mktemp("slides")
    slides.lay_out(folder)
    return {name: slides.make(name, folder) for name in notebooks.kept_names()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium that keeps what pages write to the console."""
    driver = start_chromium(tmp_path_factory.mktemp("chromium"), log=True)
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


def show(browser, page, size=SIZES[0]):
    """Open a deck on a screen of this size, and wait until its slides are fitted."""
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    wait(browser, lambda b: b.execute_script("return document.documentElement.dataset.ready"))


@pytest.mark.slow
def test_every_slide_fits(decks, browser):
    faults = {}
    for name, page in decks.items():
        show(browser, page)
        for width, height in SIZES:
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            wait(browser, lambda b, width=width: b.execute_script("Reveal.layout(); return innerWidth") == width)
            faults[name, width] = browser.execute_script(OVERFULL)
        assert browser.execute_script("return document.querySelectorAll('details[open], mjx-merror').length") == 0
        faults[name, "console"] = [entry["message"] for entry in browser.get_log("browser")]
    assert {where: what for where, what in faults.items() if what} == {}


@pytest.mark.slow
def test_what_is_unfolded_fits_too_and_the_ruler_bites(decks, browser):
    show(browser, list(decks.values())[-1])
    assert browser.execute_script("return document.querySelectorAll('.page details').length") > 5
    assert browser.execute_async_script(MEASURE + UNFOLDED) == []
    browser.execute_script("document.querySelectorAll('.page').forEach(page => page.style.fontSize = '90px')")
    assert len(browser.execute_script(OVERFULL)) > 5


@pytest.mark.slow
def test_a_handout_has_one_page_a_slide(decks, browser):
    page = next(iter(decks.values()))
    show(browser, page)
    shown = browser.execute_script("return document.querySelectorAll('section.slide').length")
    pdf = slides.handout(page, slides.browser()).read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == shown > 5
