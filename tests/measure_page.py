"""How fast the page is: .venv/bin/python tests/measure_page.py starts it as ./launch.sh does, and prints seconds.

The first time a machine plans a job it measures for some seconds, in which an estimate is shown; --fresh forgets what
is known, so that this is timed too.
"""

import argparse
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from browsing import BROWSER, FLAGS, ROOT, set_field
from playwright.sync_api import sync_playwright


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="with nothing known of this machine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        if options.fresh:
            environment["STREAMLINE_CACHE"] = folder
        began = time.monotonic()
        command = ["./launch.sh", "--port", str(port), "--output-dir", str(Path(folder) / "gallery")]
        app = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}/"
            _wait_for(address)
            seconds = time.monotonic() - began
            used = psutil.Process(app.pid).cpu_times()  # launch.sh becomes the app, so this is all of it
            print(f"{seconds:6.2f} s  until the page is answered; {used.user + used.system:.2f} s of a processor")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
                page = browser.new_page()
                opened = time.monotonic()
                page.goto(address)
                page.get_by_role("button", name="Make the video").wait_for(timeout=120_000)
                shown = time.monotonic()
                print(f"{shown - opened:6.2f} s  from there until a browser shows it")
                page.locator("#outlook").wait_for(timeout=120_000)
                print(f"{time.monotonic() - opened:6.2f} s  from there until it shows a plan")
                _time_changes(page)
                browser.close()
        finally:
            app.terminate()
            app.wait(30)


def _time_changes(page):
    page.locator("#outlook:not(.estimate)").wait_for(timeout=120_000)

    def slide():
        slider = page.get_by_label("Memory it may use")
        slider.focus()
        slider.press("Home")

    changes = {
        "fewer frames": lambda: set_field(page, "frames", 6),
        "fewer steps": lambda: set_field(page, "steps", 12),
        "the least memory": slide,
        "balanced quality": lambda: page.get_by_label("Balanced").click(),
        "another model": lambda: _choose(page, "Tiny, from a picture"),
        "a large model": lambda: _choose(page, "Stable Video Diffusion (to be downloaded)"),
    }
    print("    first answer, plan itself")
    for name, change in changes.items():
        page.evaluate("document.querySelector('#plan .outlook').id = 'before'")
        began = time.monotonic()
        change()
        page.wait_for_function("!document.querySelector('#before')", polling=20, timeout=120_000)
        first = time.monotonic() - began
        page.wait_for_function("document.querySelector('#outlook:not(.estimate)')", polling=20, timeout=120_000)
        print(f"{first:6.2f} s {time.monotonic() - began:6.2f} s  after {name}")
        time.sleep(1)


def _choose(page, label):
    page.locator("#model input").click()
    page.get_by_role("option", name=label, exact=True).click()


def _wait_for(address):
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
