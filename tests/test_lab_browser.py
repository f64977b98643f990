"""A learner's hour in a real browser: open a notebook, run, write, save, come back; and nothing else has changed.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); skipped where there is none.
"""

import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.test_lab import git, lab, learners_copy

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",  # continuous integration runs as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # no network, as in every test
    "--window-size=1400,900",
]
NOTEBOOK = "notebooks/00_start_here.ipynb"
FORM = ["tests/test_notebooks_form.py", "-k", "00_start_here", "-p", "no:cacheprovider"]
MINE = 'print("mine", 6 * 7)'
PATIENCE = 120  # seconds; a busy machine starts a kernel slowly

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver here; the other tests of the lab need none"
)


@pytest.fixture
def browser(tmp_path_factory):
    """A Chromium without a history, a network or a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


def wait(browser, condition):
    """What `condition(browser)` returns as soon as it is true; elements that JupyterLab just redrew are asked again."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    patient = WebDriverWait(browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
    return patient.until(condition)


def text_of(browser, selector):
    """The text of all elements that a CSS selector finds."""
    return "\n".join(element.text for element in browser.find_elements("css selector", selector))


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
