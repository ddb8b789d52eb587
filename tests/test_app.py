"""The page in a real browser: videos are made, plans follow the fields, nothing is lost, nothing is fetched."""

import json
import re
from base64 import b64encode
from dataclasses import replace
from io import BytesIO

import pytest
from browsing import (
    BROWSER,
    FLAGS,
    IN_A_BROWSER,
    MAKE_SECONDS,
    choose_model,
    make,
    outlook_of,
    set_field,
    wait_done,
)
from PIL import Image, ImageDraw
from test_tabs import PLAN, receipt_of, result_of

import streamline

pytestmark = IN_A_BROWSER


def test_a_sentence_becomes_a_video(page, tmp_path):
    set_field(page, "steps", 4)
    make(page)
    page.locator("#live .memory svg").wait_for(timeout=MAKE_SECONDS * 1000)
    wait_done(page)
    page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
    video = page.locator("#video video")
    assert video.evaluate("video => video.loop && video.duration > 0.5 && video.videoWidth > 0")
    assert page.get_by_text("exact: the same as the original within 1e-5").is_visible()
    assert re.search(r"Memory at the worst moment\s+[\d.]+ MiB\s+[\d.]+ MiB", page.locator("#result").inner_text())
    with page.expect_download() as waiting:
        page.locator("#download").click()
    path = tmp_path / "video.mp4"
    waiting.value.save_as(path)
    receipt = streamline.read_receipt(path)
    assert (receipt.model, receipt.job.num_inference_steps, receipt.seed) == ("tiny-animatediff", 4, 2)


def test_a_picture_becomes_a_video(page):
    choose_model(page, "from a picture")
    page.locator("#picture input[type=file]").set_input_files(_picture())
    page.locator("#picture img[src*='picture']").wait_for()
    set_field(page, "steps", 2)
    make(page)
    wait_done(page)
    page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")


def test_a_picture_can_be_taken_with_a_camera(page):
    choose_model(page, "from a picture")
    example = page.locator("#picture img").get_attribute("src")
    for button in ("Capture from camera", "Click to Access Webcam"):
        page.locator("#picture").get_by_role("button", name=button).click()
    page.wait_for_function("document.querySelector('#picture video')?.readyState >= 2")  # before it there is no picture
    page.locator("#picture").get_by_role("button", name="capture photo").click()
    page.locator(f"#picture img:not([src='{example}'])").wait_for()
    set_field(page, "steps", 1)
    make(page)
    wait_done(page)


def test_the_slider_plans_anew(page):
    before = outlook_of(page)
    slider = page.get_by_label("Memory it may use")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("text => document.querySelector('#outlook').innerText !== text", arg=before)
    assert "What it will take" in outlook_of(page)
    least = page.locator(".budget output").inner_text()
    page.locator(".frontier .dot").first.click()
    page.wait_for_function("text => document.querySelector('.budget output').innerText !== text", arg=least)


def test_what_is_answered_in_proportion_is_measured_after(page):
    """Another shape than any before it: the answer at once is an estimate, and does not stay one."""
    before = outlook_of(page)
    set_field(page, "frames", 7)
    page.wait_for_function("text => document.querySelector('#outlook').innerText !== text", arg=before)
    page.locator("#outlook:not(.estimate)", has_text="What it will take").wait_for(timeout=60_000)


def test_what_does_not_fit_is_mended_by_a_click(page):
    page.get_by_role("button", name="Type a budget").click()
    page.locator("#budget input, #budget textarea").fill("14.5MiB")
    page.locator("#budget input, #budget textarea").press("Enter")
    page.locator("#outlook", has_text="What it will take").wait_for()
    set_field(page, "frames", 16)
    page.locator("#outlook", has_text="This does not fit").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Make the video").is_disabled()
    page.locator(".remedies .action").first.click()
    page.locator("#outlook", has_text="What it will take").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Make the video").is_enabled()


def test_a_cancelled_run_leaves_the_app_ready(page):
    set_field(page, "steps", 500)
    make(page)
    page.locator("#progress", has_text=re.compile(r"step [1-9]\d* of 500")).wait_for(timeout=MAKE_SECONDS * 1000)
    page.get_by_role("button", name="Cancel").first.click()
    page.locator("#progress", has_text="Cancelled").wait_for(timeout=3000)
    set_field(page, "steps", 2)
    make(page)
    wait_done(page)


def test_a_reloaded_page_finds_its_video(page):
    set_field(page, "steps", 40)
    make(page)
    page.locator("#progress", has_text=re.compile(r"step [1-9]\d* of 40")).wait_for(timeout=MAKE_SECONDS * 1000)
    page.reload()
    page.locator("#progress", has_text=re.compile(r"step \d+ of 40")).wait_for(timeout=20_000)
    wait_done(page)


def test_a_dropped_video_brings_its_settings_back(page, tmp_path):
    set_field(page, "steps", 3)
    set_field(page, "seed", 77)
    make(page)
    wait_done(page)
    with page.expect_download() as waiting:
        page.locator("#download").click()
    path = tmp_path / "mine.mp4"
    waiting.value.save_as(path)
    page.reload()
    page.locator("#outlook").wait_for(timeout=30_000)
    _drop(page, path)
    page.get_by_text("Its settings are back").wait_for()
    assert page.locator("#steps input").input_value() == "3"
    assert page.locator("#seed input").input_value() == "77"


def test_a_dropped_receipt_brings_its_card_back_or_says_which_folder_it_lacks(page, tmp_path):
    path = tmp_path / "receipt.json"
    receipt = replace(receipt_of(result_of(PLAN)), card="8GiB", quality="balanced")
    path.write_text(receipt.to_json())
    _drop(page, path)
    page.get_by_text("Pretending to be").wait_for()
    assert page.get_by_label("Balanced").is_checked() and page.locator("#frames input").input_value() == "2"
    path.write_text(replace(receipt, model="my model").to_json())
    _drop(page, path)
    page.locator("#restore-note", has_text="It was made with a folder called “my model”").wait_for()
    path.write_text('{"streamline_receipt": 1, "model": "<b>"}')
    _drop(page, path)
    page.locator("#restore-note", has_text="A receipt needs the").wait_for()


def test_the_gallery_keeps_uses_again_and_deletes(page):
    set_field(page, "steps", 2)
    set_field(page, "seed", 5)
    make(page)
    wait_done(page)
    set_field(page, "seed", 6)
    page.get_by_role("tab", name="Gallery").click()
    page.locator(".gallery article").wait_for()
    page.get_by_role("button", name="Use again").click()
    page.locator("#seed input").wait_for()
    page.wait_for_function("document.querySelector('#seed input').value === '5'")
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_role("button", name="Delete a red").click()
    page.locator(".empty").wait_for()


def test_the_gallery_plays_a_video_and_gives_it_away_without_a_mouse(page, tmp_path):
    set_field(page, "steps", 2)
    make(page)
    wait_done(page)
    page.get_by_role("tab", name="Gallery").click()
    play = page.get_by_role("button", name="Play a red")
    play.focus()
    play.press("Enter")
    page.wait_for_function("document.querySelector('#player video')?.readyState >= 2")
    assert page.locator("#player video").evaluate("one => one.loop && !one.paused && one.videoWidth > 0")
    page.wait_for_function("document.activeElement.id === 'player-close'")
    assert "seed 2" in page.locator("#player-about").inner_text()
    for label, suffix in (("MP4", ".mp4"), ("WebM", ".webm")):
        if suffix != ".mp4":
            page.locator("#player-format input").click()
            page.get_by_role("option", name=label).click()
            page.locator("#player-download", has_text="Writing").wait_for()
            page.locator("#player-download", has_text="Download").wait_for()
        with page.expect_download() as waiting:
            page.locator("#player-download").click()
        path = tmp_path / f"video{suffix}"
        waiting.value.save_as(path)
        assert streamline.read_receipt(path).job.num_inference_steps == 2
    page.locator("#player-close").press("Enter")
    page.locator("#player-close").wait_for(state="hidden")
    page.wait_for_function("document.activeElement.matches('#gallery .play')")
    page.get_by_role("button", name="Play a red").press("Enter")
    page.locator("#player video").wait_for()
    page.get_by_role("button", name="Delete a red").click()
    page.locator(".empty").wait_for()
    page.locator("#player video").wait_for(state="hidden")


def test_everything_is_wiped_only_after_a_question(page):
    set_field(page, "steps", 1)
    make(page)
    wait_done(page)
    page.get_by_role("tab", name="System").click()
    page.locator("#kept .panel").wait_for()
    page.get_by_role("button", name="Delete all videos of this browser").click()
    page.locator("#clear-gallery-asking", has_text="Delete all videos of this browser (1 video, ").wait_for()
    page.wait_for_function("document.activeElement.id === 'clear-gallery-no'")
    page.keyboard.press("Enter")
    page.locator("#clear-gallery-asking").wait_for(state="hidden")
    page.get_by_role("tab", name="Gallery").click()
    page.locator(".gallery article").wait_for()
    page.get_by_role("tab", name="System").click()
    page.get_by_role("button", name="Delete all videos of this browser").click()
    page.get_by_role("button", name="Yes, delete them").click()
    page.locator("#clear-gallery:disabled").wait_for()
    page.get_by_role("tab", name="Gallery").click()
    page.locator(".empty").wait_for()
    page.get_by_role("tab", name="System").click()
    page.get_by_role("button", name="Clear what was learnt").click()
    page.locator("#clear-cache-asking", has_text="learnt about this machine").wait_for()
    page.locator("#clear-cache-no").click()
    page.locator("#clear-cache-asking").wait_for(state="hidden")


def test_original_and_streamlined_are_compared(page):
    set_field(page, "steps", 3)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare with the original").click()
    page.locator("#figures .ratio").first.wait_for(timeout=MAKE_SECONDS * 1000)
    assert "less memory than the original" in page.locator("#figures").inner_text()
    assert "PSNR" in page.locator("#figures").inner_text()
    page.wait_for_function("[...document.querySelectorAll('.wipe video')].every(one => one.readyState >= 2)")
    slider = page.get_by_label("Where the videos meet")
    slider.focus()
    slider.press("Home")
    assert page.locator(".wipe").evaluate("one => one.style.getPropertyValue('--cut')") == "0%"
    page.get_by_label("How to look at them").select_option("difference")
    assert page.locator(".wipe.difference").count() == 1
    with page.expect_download() as waiting:
        page.locator("#report").click()
    assert waiting.value.suggested_filename == "comparison.html"


def test_a_sweep_fills_its_table(page):
    set_field(page, "steps", 2)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Sweep: many budgets").click()
    for quality in ("balanced", "fast"):
        page.get_by_label(quality, exact=True).uncheck()
    page.get_by_role("button", name="Run the sweep").click()
    page.locator("#compare-progress", has_text="Done").wait_for(timeout=MAKE_SECONDS * 1000)
    rows = page.locator("#sweep-table tbody tr").all_inner_texts()
    assert len(rows) == 4 and all("MiB" in row for row in rows)
    assert sum(row.strip().endswith(("dB", "identical")) for row in rows) == 3


def test_bad_input_is_a_sentence_at_its_field(page):
    prompt = page.locator("#prompt textarea")
    for text, sentence in (("", "Write what the video should show."), ("x" * 10_000, "10,000 characters")):
        prompt.fill(text)
        make(page)
        page.locator("#note-prompt", has_text=sentence).wait_for()
    prompt.fill("🎈 a red circle moving left 🎈")
    set_field(page, "seed", -1)
    page.locator("#note-seed", has_text="must be a whole number from 0").wait_for()
    set_field(page, "seed", 1)
    page.wait_for_function("!document.querySelector('#note-seed p')")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("text.png", b"no picture at all", "cannot be read as a picture"),
        ("small.png", (1, 1), "1 × 1 pixels"),
        ("large.png", (20_000, 20_000), "too large to open safely"),
        ("moving.gif", "animated", "This picture is animated"),
    ],
)
def test_a_bad_picture_is_a_sentence(page, name, content, sentence):
    choose_model(page, "from a picture")
    page.locator("#picture input[type=file]").set_input_files(_file(name, content))
    page.locator("#note-image", has_text=sentence).wait_for(timeout=60_000)


def test_a_card_can_be_tried(page):
    page.get_by_role("button", name="Type a budget").click()
    page.locator("#card input").click()
    page.get_by_role("option", name="a 8 GiB card").click()
    page.get_by_text("Pretending to be").wait_for()
    assert "8.0 GiB" in page.locator(".budget .ticks").inner_text()


def test_the_plan_that_is_shown_is_that_of_the_card(page):
    """A budget that was chosen goes with the card it was chosen for."""
    slider = page.get_by_label("Memory it may use")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("document.querySelector('#budget textarea, #budget input')?.value !== ''")
    least = page.locator(".budget output").inner_text()
    page.get_by_role("button", name="Type a budget").click()
    page.locator("#card input").click()
    page.get_by_role("option", name="a 8 GiB card").click()
    page.get_by_text("Pretending to be").wait_for()
    page.wait_for_function("text => document.querySelector('.budget output').innerText !== text", arg=least)


def test_a_model_that_cannot_be_fetched_is_a_sentence(page):
    choose_model(page, "of your own")
    name = page.get_by_label("Folder or hub id", exact=True)
    name.fill("nobody/nothing")
    name.press("Enter")
    page.locator("#note-model", has_text="is not on this machine").wait_for()


def test_the_page_can_be_installed(browser, address, tmp_path):
    """As Chromium judges it, in a profile that is kept."""
    context = browser.browser_type.launch_persistent_context(tmp_path, executable_path=BROWSER, args=list(FLAGS))
    page = context.new_page()
    page.goto(address)
    devtools = context.new_cdp_session(page)
    manifest = devtools.send("Page.getAppManifest")
    assert not manifest["errors"] and json.loads(manifest["data"])["name"] == "Streamlined Inference"
    assert devtools.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
    kind = page.evaluate("fetch('./favicon.ico').then((answer) => answer.headers.get('content-type'))")
    assert kind == "image/svg+xml"
    context.close()


def test_a_second_video_waits_until_the_first_is_made_or_cancelled(page):
    set_field(page, "steps", 500)
    make(page)
    page.locator("#progress", has_text=re.compile(r"step [1-9]\d* of 500")).wait_for(timeout=MAKE_SECONDS * 1000)
    set_field(page, "steps", 2)
    make(page)
    page.locator("#note-budget", has_text="Your last video is still being made; cancel it first.").wait_for()
    page.get_by_role("button", name="Cancel").first.click()
    page.locator("#progress", has_text="Cancelled").wait_for(timeout=3000)
    page.wait_for_function("!document.querySelector('#note-budget p')")


def test_a_second_tab_watches_the_video_of_the_first(page, address):
    second = page.context.new_page()
    second.goto(address)
    second.locator("#outlook").wait_for(timeout=30_000)
    set_field(page, "steps", 500)
    make(page)
    page.locator("#progress", has_text=re.compile(r"step [1-9]\d* of 500")).wait_for(timeout=MAKE_SECONDS * 1000)
    set_field(second, "steps", 2)
    make(second)
    second.locator("#note-budget", has_text="Your last video is still being made; cancel it first.").wait_for()
    second.locator("#progress", has_text="of 500").wait_for()
    second.get_by_role("button", name="Cancel").first.click()
    page.locator("#progress", has_text="Cancelled").wait_for(timeout=10_000)


def _drop(page, path):
    """Drop a file anywhere on the page."""
    content = b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], name, { type: "video/mp4" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [path.name, content],
    )


def _picture():
    image = Image.radial_gradient("L").convert("RGB")
    ImageDraw.Draw(image).ellipse((60, 90, 140, 170), fill="red")
    file = BytesIO()
    image.save(file, "PNG")
    return {"name": "picture.png", "mimeType": "image/png", "buffer": file.getvalue()}


def _file(name, content):
    if not isinstance(content, bytes):
        file = BytesIO()
        if content == "animated":
            first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
            first.save(file, "GIF", save_all=True, append_images=[second])
        else:
            Image.new("1", content).save(file, "PNG")
        content = file.getvalue()
    kind = "image/gif" if name.endswith("gif") else "image/png"
    return {"name": name, "mimeType": kind, "buffer": content}
