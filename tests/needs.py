"""What some tests need beyond Python: skipped where it is absent, red in continuous integration, which installs it."""

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
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
PATIENCE = 120  # seconds; a busy machine starts a kernel slowly


def absent(what: str) -> None:
    """Skip the test for want of something, with a line at the end of the run; with CI=true it fails instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: continuous integration has to provide it, see .ci/run")
    pytest.skip(f"NOT TESTED: {what}")


def start_chromium(profile, log: bool = False):
    """A Chromium without a history, a network or a window; with `log` it collects what pages write to the console, and
    what they ask the network for."""
    if not (CHROMIUM and DRIVER):
        absent("no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    if log:
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    return driver


def wait(browser, condition):
    """What `condition(browser)` returns as soon as it is true; elements that were just redrawn are asked again."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    patient = WebDriverWait(browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
    return patient.until(condition)


def text_of(browser, selector):
    """The text of all elements that a CSS selector finds."""
    return "\n".join(element.text for element in browser.find_elements("css selector", selector))
