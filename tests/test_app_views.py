"""How the page looks in a real browser: every tab in light, dark and at phone width; and who sees what."""

import pytest
from browsing import (
    DESKTOP,
    IN_A_BROWSER,
    MAKE_SECONDS,
    PHONE,
    make,
    screenshot,
    set_field,
    visiting,
    wait_done,
)

pytestmark = IN_A_BROWSER

LOOKS = {"light": (DESKTOP, "light"), "dark": (DESKTOP, "dark"), "phone": (PHONE, "light")}


@pytest.mark.parametrize("look", LOOKS)
def test_every_tab_looks_as_it_should(browser, address, look):
    viewport, scheme = LOOKS[look]
    with visiting(browser, address, viewport, scheme) as page:
        set_field(page, "steps", 6)
        make(page)
        page.locator("#stage .preview").wait_for(timeout=MAKE_SECONDS * 1000)
        screenshot(page, f"{look}-running")
        wait_done(page)
        page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
        screenshot(page, f"{look}-generate")
        _open(page, "Compare")
        page.get_by_role("button", name="Compare with the original").click()
        page.locator("#figures .ratio").first.wait_for(timeout=MAKE_SECONDS * 1000)
        page.wait_for_function("[...document.querySelectorAll('.wipe video')].every(one => one.currentTime > 0)")
        page.get_by_role("button", name="Pause").click()
        screenshot(page, f"{look}-compare")
        _open(page, "Gallery")
        page.locator(".gallery article").wait_for()
        screenshot(page, f"{look}-gallery")
        page.locator(".gallery .play").first.click()
        page.wait_for_function("document.querySelector('#player video')?.readyState >= 2")
        screenshot(page, f"{look}-player")
        _open(page, "System")
        page.locator("#devices .panel").first.wait_for()
        page.locator("#doctor .finding").first.wait_for()
        screenshot(page, f"{look}-system")
        page.get_by_role("button", name="Delete all videos of this browser").click()
        page.locator("#clear-gallery-asking").wait_for()
        screenshot(page, f"{look}-asking")
        page.locator("#clear-gallery-no").click()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(background.removeprefix("rgb(").split(",")[0])
        assert (red < 60) is (scheme == "dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], "it scrolls sideways"


def test_two_visitors_take_turns_and_see_only_their_own(browser, address):
    with visiting(browser, address) as first, visiting(browser, address) as second:
        set_field(first, "steps", 20)
        set_field(second, "steps", 2)
        make(first)
        first.locator("#progress", has_text="step").wait_for(timeout=MAKE_SECONDS * 1000)
        make(second)
        second.locator("#progress", has_text="1 video is to be made before yours").wait_for(timeout=10_000)
        wait_done(second)
        assert "Done" in first.locator("#progress").inner_text()
        for page in (first, second):
            _open(page, "Gallery")
            page.locator(".gallery article").first.wait_for()
            assert page.locator(".gallery article").count() == 1


def test_the_page_is_used_without_a_mouse(browser, address):
    with visiting(browser, address) as page:
        set_field(page, "steps", 2)
        button = page.get_by_role("button", name="Make the video")
        button.focus()
        button.press("Enter")
        wait_done(page)
        page.get_by_role("tab", name="Compare").focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Compare with the original").wait_for()


def _open(page, name):
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.get_by_role("button", name="More", exact=False).last.click()
        tab = page.get_by_role("button", name=name, exact=True)
    tab.click()
