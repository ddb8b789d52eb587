"""The report is one file that plays both videos in step, tells the figures and runs nothing it was given."""

import dataclasses
import re
import shutil
import time

import pytest
import untrained
from test_video import clip

from streamline import Fidelity, InputError, Job, Plan, Receipt, report_html, run
from streamline.cli import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROMPT = '<script>document.title = "run"</script> "a" & \'b\' $about ${x}'


@pytest.fixture(scope="module")
def runs():
    """Original, streamlined and the receipt of the latter."""
    pipe = untrained.animatediff()
    pipe.set_progress_bar_config(disable=True)
    job = Job.for_model(pipe, prompt=PROMPT, num_frames=8, num_inference_steps=2)
    original, streamlined = run(pipe, job), run(pipe, job, Plan.uniform(2))
    fidelity = Fidelity.of(streamlined.frames, original.frames)
    return original, streamlined, Receipt.of(pipe, streamlined, fidelity=fidelity)


def test_everything_is_in_it_and_escaped(runs):
    page = report_html(*runs)
    assert page.count("data:video/mp4;base64,") == 2 and page.count("<script>") == 1
    assert "&lt;script&gt;" in page and not re.search(r"https?://", page)
    assert "exact:" in page and runs[2].date in page and page.count("<tr><td>") == 1 + len(runs[0].frames)
    with pytest.raises(InputError):
        report_html(runs[0], dataclasses.replace(runs[1], frames=tuple(clip())), runs[2])


def test_fidelity_is_measured(runs):
    original, streamlined, receipt = runs
    assert receipt.fidelity.largest_difference <= 1
    assert 48 < receipt.fidelity.psnr < 200 and receipt.fidelity.ssim > 0.99
    assert Fidelity.of(original.frames, original.frames) == Fidelity(0, float("inf"), pytest.approx(1))
    small = [frame.resize((8, 8)) for frame in streamlined.frames]
    assert Fidelity.of(small, small).ssim is None


def test_the_command_writes_it(tmp_path, capsys):
    untrained.animatediff().save_pretrained(tmp_path / "model")
    out = tmp_path / "report.html"
    options = ["--model", str(tmp_path / "model"), "--prompt", "a cat", "--frames", "3", "--steps", "1"]
    assert main(["compare", *options, "--out", str(out)]) == 0
    assert "a cat" in out.read_text() and "clip by clip" not in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "report.html"]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed, so the page is not tested")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_plays_both_in_step(runs, tmp_path, scheme):
    from playwright.sync_api import sync_playwright

    (tmp_path / "report.html").write_text(report_html(*runs), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme=scheme)
        troubles, asked = [], []
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        until(page, "first.currentTime > 0.2 && second.currentTime > 0.2")
        page.click("#play")
        until(page, "first.paused && second.paused && !second.seeking")
        times = page.evaluate("[first.currentTime, second.currentTime]")
        assert times[0] == pytest.approx(times[1], abs=0.02)
        page.focus("#cut")
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        assert page.evaluate("getComputedStyle(wipe).getPropertyValue('--cut')") == "52%"
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.title() != "run" and PROMPT in page.title() and not troubles
        assert all(url.startswith(("file:", "data:")) for url in asked)
        page.click("summary")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        browser.close()


def until(page, condition, seconds=20):
    """Playwright's own waiting needs eval, which the page does not allow."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.05)
