"""The page in a real browser: a video is made, the readings run, bad input is a sentence, nothing is fetched."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streamline import MODELS

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "outputs"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START_SECONDS = 180
VIDEO_SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed, so the page is not tested"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app, running as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log.txt"
    with log.open("w") as output:
        app = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/", app, log)
            yield f"http://127.0.0.1:{port}/"
        finally:
            app.terminate()
            app.wait(30)
    assert "Traceback" not in log.read_text()


@pytest.fixture
def page(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        hosts = set()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(address)
        page.get_by_role("button", name="Make the video").wait_for(timeout=START_SECONDS * 1000)
        yield page
        browser.close()
    assert hosts <= {"127.0.0.1", None}, "the page fetched something from elsewhere"


def test_a_video_is_made_and_measured(page):
    _require("tiny-animatediff")
    _set_steps(page, 4)
    for index, way in enumerate(("Streamlined", "Original")):
        page.get_by_label(way, exact=True).check()
        page.get_by_role("button", name="Make the video").click()
        page.locator(".runs .run").nth(index).wait_for(timeout=VIDEO_SECONDS * 1000)
    assert page.locator(".readout .status", has_text="Done").is_visible()
    page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
    video = page.locator("#video video")
    assert video.evaluate("video => video.loop && video.duration > 0.5 && video.videoWidth > 0")
    peaks = [float(re.search(r"([\d.]+) MiB", text)[1]) for text in page.locator(".runs .run").all_inner_texts()]
    assert peaks[0] < peaks[1], "streamlined takes less memory than the original"
    _screenshot(page, "app-text.png")


def test_an_image_becomes_a_video(page):
    _require("tiny-svd")
    _choose(page, "tiny-svd")
    page.locator("input[type=file]").set_input_files(_picture())
    page.locator("img[src*='picture']").wait_for()
    _set_steps(page, 2)
    page.get_by_role("button", name="Make the video").click()
    page.locator(".readout .status", has_text="Done").wait_for(timeout=VIDEO_SECONDS * 1000)
    page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
    _screenshot(page, "app-image.png")


def test_bad_input_is_a_sentence(page):
    _require("tiny-animatediff")
    page.get_by_label("Prompt").fill(" ")
    page.get_by_role("button", name="Make the video").click()
    page.get_by_text("This model makes a video from text: write a prompt.").wait_for()


def test_a_run_can_be_stopped(page):
    _require("tiny-animatediff")
    _set_steps(page, 500)
    page.get_by_role("button", name="Make the video").click()
    page.get_by_text("step 1 of 500").wait_for(timeout=VIDEO_SECONDS * 1000)
    page.get_by_role("button", name="Stop").click()
    page.locator(".readout .status", has_text="Stopped").wait_for()


def test_a_model_that_cannot_be_fetched_is_a_sentence(page):
    _choose(page, "animatediff")
    page.get_by_role("button", name="Make the video").click()
    page.get_by_text("is not on this machine").wait_for()


def _require(name):
    model = next(model for model in MODELS if model.name == name)
    assert model.is_here, f"{name} belongs to the repository"


def _choose(page, name):
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=re.compile(f"^{name} ")).click()


def _set_steps(page, steps):
    page.get_by_role("button", name="More").click()
    page.get_by_label("Steps").fill(str(steps))


def _picture():
    from io import BytesIO

    from PIL import Image, ImageDraw

    image = Image.radial_gradient("L").convert("RGB")
    ImageDraw.Draw(image).ellipse((60, 90, 140, 170), fill="red")
    file = BytesIO()
    image.save(file, "PNG")
    return {"name": "picture.png", "mimeType": "image/png", "buffer": file.getvalue()}


def _screenshot(page, name):
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / name, full_page=True)


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
