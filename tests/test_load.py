"""Many clients at once: all are answered, each gets its own, planning goes on, and memory stays.

STREAMLINE_LOAD_SECONDS=120 asks for two minutes of it; the suite does some seconds.
"""

import json
import os
import random
import threading
import time
from pathlib import Path

import psutil
import pytest
from browsing import serving

import streamline

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("STREAMLINE_LOAD_SECONDS", 8))
CLIENTS = 16
PATIENCE = 240  # seconds for the queue to run dry after the last request
KINDS = ("generate", "generate", "plan", "plan", "compare", "cancel", "leave", "wrong")
MOST_GROWTH = (64 if SECONDS > 60 else 256) * 2**20  # bytes of the process in the second half; the first fills caches
PROMPT = "a red circle moving left on a black background"


def request(client, name, seed, **given):
    known = {
        "model": "tiny-animatediff", "prompt": PROMPT, "image": None, "budget": "", "quality": "exact", "emulate": "",
        "steps": 1, "frames": 2, "width": 64, "height": 64, "seed": seed,
    }  # fmt: skip
    return client.submit(**(known | given), api_name=f"/{name}")


def visit(address, number, until, answers):
    """One client: whatever it draws, again and again, and what came of each."""
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client, rng, turn = Client(address, verbose=False), random.Random(number), 0
    while time.monotonic() < until:
        kind, seed, began = rng.choice(KINDS), number * 1000 + turn, time.monotonic()
        turn += 1
        try:
            if kind == "plan":
                answer = client.predict(steps=1 + number, frames=2, api_name="/plan")
                assert answer["job"]["num_inference_steps"] == 1 + number
            elif kind == "wrong":
                request(client, "generate", -1).result(PATIENCE)
            else:
                job = request(client, "compare" if kind == "compare" else "generate", seed)
                if kind in ("cancel", "leave"):
                    time.sleep(rng.random())
                    job.cancel()
                    if kind == "leave":  # without a word
                        client = Client(address, verbose=False)
                else:
                    answer = job.result(PATIENCE)
                    receipt = answer["streamlined"] if kind == "compare" else answer[1]
                    assert receipt["seed"] == seed, "another's video"
                    if kind == "generate":
                        path = answer[0]["video"] if isinstance(answer[0], dict) else answer[0]
                        assert streamline.read_receipt(Path(path)).seed == seed, "another's file"
            answers.append((kind, "ok", time.monotonic() - began))
        except AppError as error:
            answers.append((kind, str(error), time.monotonic() - began))
        except Exception as error:  # a wrong answer, or none
            answers.append((kind, f"WRONG {type(error).__name__} {error}", time.monotonic() - began))


def test_sixteen_clients_are_all_answered_each_with_its_own(tmp_path):
    with serving(tmp_path) as address:
        process = next(
            one for one in psutil.process_iter(["cmdline"])
            if address.rsplit(":", 1)[1].strip("/") in (one.info["cmdline"] or []) and "app.py" in one.info["cmdline"]
        )  # fmt: skip
        visit(address, 0, time.monotonic() + 1, answers := [])  # the first plan takes longest
        before = []
        for seconds in (1, SECONDS / 2, SECONDS / 2):
            until = time.monotonic() + seconds
            threads = [
                threading.Thread(target=visit, args=(address, number, until, answers), daemon=True)
                for number in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE + SECONDS)
            assert not any(thread.is_alive() for thread in threads), "somebody was never answered"
            before.append(process.memory_info().rss)
        by_kind = {kind: [one for one in answers if one[0] == kind] for kind in set(KINDS)}
        print(json.dumps({kind: len(found) for kind, found in by_kind.items()}), [size >> 20 for size in before])
        plans = sorted(seconds for _, _, seconds in by_kind["plan"]) or [0.0]
        print(f"plans took {plans[len(plans) // 2]:.2f} s (median), {plans[-1]:.2f} s (longest)")
        told = {words for kind, words, _ in answers if words != "ok" and kind != "wrong"}
        assert not [words for words in told if words.startswith("WRONG")]
        assert all("orders are waiting already" in words for words in told), told
        assert all(words.endswith(".") for kind, words, _ in answers if kind == "wrong")
        assert before[2] - before[1] < MOST_GROWTH
        log = (tmp_path / "log.txt").read_text().splitlines()
    events = [json.loads(line) for line in log if line.startswith("{")]
    submitted = {one["order"] for one in events if one["event"] == "submitted"}
    ended = {one["order"] for one in events if one["event"] in ("done", "failed", "cancelled")}
    assert submitted and ended <= submitted and len(submitted - ended) <= len(by_kind["leave"]) + len(by_kind["cancel"])
    assert PROMPT not in "\n".join(log)
