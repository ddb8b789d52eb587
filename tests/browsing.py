"""The app as a user starts it, in a browser: fixtures and small steps for the tests of the page."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SCREENSHOTS = Path(os.environ.get("STREAMLINE_SCREENSHOTS", ROOT / "outputs" / "screenshots"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A page whose event stream breaks off under load answers no more until it is opened anew: once it may be.
IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.flaky(reruns=1, only_rerun=["TimeoutError"]),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed, so the page is not tested"),
]
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",  # a camera that films a test picture
    "--use-fake-ui-for-media-stream",
)
START_SECONDS = 180
MAKE_SECONDS = 120
DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


@contextmanager
def serving(folder, *options):
    """The app's address while it runs; its log must stay free of tracebacks, and nothing temporary be left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--output-dir", str(folder / "gallery"), *options]
    with log.open("w") as output:
        temporary = folder / "temporary"
        temporary.mkdir(exist_ok=True)
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary)}
        app = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_for(f"http://127.0.0.1:{port}/", app, log)
            yield f"http://127.0.0.1:{port}/"
        finally:
            app.terminate()
            app.wait(30)
    assert not [*temporary.glob("streamline-*")], "it leaves temporary folders behind"
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with visiting(browser, address) as page:
        yield page


@contextmanager
def visiting(browser, address, viewport=DESKTOP, scheme="light"):
    """A page of a new visitor, once it shows a plan; it must fetch nothing from elsewhere."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True)
    page = context.new_page()
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(address)
    page.get_by_role("button", name="Make the video").wait_for(timeout=START_SECONDS * 1000)
    page.locator("#outlook").wait_for(timeout=START_SECONDS * 1000)
    yield page
    context.close()
    assert hosts <= {"127.0.0.1", None}, "the page fetched something from elsewhere"


def set_field(page, name, value):
    page.locator(f"#{name} input").fill(str(value))


def choose_model(page, label):
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile(label)).first.click()
    page.locator("#outlook").wait_for()


def outlook_of(page):
    return page.locator("#outlook").inner_text()


def make(page):
    page.get_by_role("button", name="Make the video").click()


def wait_done(page):
    page.locator("#progress", has_text="Done").wait_for(timeout=MAKE_SECONDS * 1000)


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def _wait_for(url, app, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert app.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"the app did not come up: {log.read_text()}")
