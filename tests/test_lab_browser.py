"""A learner's hour in a real browser: open a notebook, run, write, save, come back; and nothing else has changed.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); see tests/needs.py.
"""

import subprocess
import sys

import nbformat
import pytest

from tests.needs import start_chromium, text_of, wait
from tests.test_lab import git, lab, learners_copy

NOTEBOOK = "notebooks/00_start_here.ipynb"
FORM = ["tests/test_notebooks_form.py", "-k", "00_start_here", "-p", "no:cacheprovider"]
MINE = 'print("mine", 6 * 7)'


@pytest.fixture
def browser(tmp_path_factory):
    """A Chromium without a history, a network or a window."""
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


def press(browser, *keys, hold=None):
    """Press keys one after the other where the focus is, as a learner does, with a modifier held down or none."""
    from selenium.webdriver import ActionChains

    chain = ActionChains(browser)
    if hold:
        chain.key_down(hold)
    for key in keys:
        chain.send_keys(key)
    if hold:
        chain.key_up(hold)
    chain.perform()


def open_notebook(browser, server):
    """Open the lab at the notebook and wait until its kernel is idle; a refusal would be a dialogue."""
    address, token = server
    browser.get(f"{address}/lab/tree/{NOTEBOOK}?token={token}")
    wait(browser, lambda b: "Start here" in text_of(b, ".jp-Notebook .jp-Cell") or text_of(b, ".jp-Dialog"))
    assert text_of(browser, ".jp-Dialog") == ""
    wait(browser, lambda b: "Idle" in text_of(b, "#jp-bottom-panel, #jp-main-statusbar"))


def test_open_run_save_and_come_back(browser, tmp_path):
    from selenium.webdriver import Keys

    course = learners_copy(tmp_path)
    with lab(course) as server:
        open_notebook(browser, server)
        wait(browser, lambda b: b.find_element("css selector", ".jp-Notebook .jp-CodeCell .jp-InputPrompt")).click()
        press(browser, "b", Keys.ENTER)  # below the setup cell, a cell of one's own
        press(browser, MINE)
        press(browser, Keys.ESCAPE, Keys.ARROW_UP)
        for _ in range(2):  # the setup cell and our own
            press(browser, Keys.ENTER, hold=Keys.SHIFT)
        wait(browser, lambda b: "mine 42" in text_of(b, ".jp-OutputArea-output"))
        press(browser, "s", hold=Keys.CONTROL)
        wait(browser, lambda _: "mine 42" in (course / NOTEBOOK).read_text(encoding="utf-8"))
        open_notebook(browser, server)  # again, as on the next day
        wait(browser, lambda b: "mine 42" in text_of(b, ".jp-OutputArea-output"))
    cells = nbformat.read(course / NOTEBOOK, as_version=4).cells
    assert [cell.outputs[0].text for cell in cells if cell.source == MINE] == ["mine 42\n"]
    assert git(course, "status", "--porcelain").split() == ["M", NOTEBOOK]
    form = subprocess.run([sys.executable, "-m", "pytest", *FORM], cwd=course, capture_output=True, text=True)
    assert form.returncode == 0, form.stdout
