"""The app for programs: named endpoints through gradio_client, and options of app.py."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from browsing import ROOT, serving
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import streamline

pytestmark = pytest.mark.slow
PROMPT = "a red circle moving left on a black background"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from gradio_client import Client

    with serving(tmp_path_factory.mktemp("api")) as address:
        yield Client(address, verbose=False)


def ask(client, name, **given):
    known = {
        "model": "tiny-animatediff", "prompt": PROMPT, "image": None, "budget": "", "quality": "exact", "emulate": "",
        "steps": 2, "frames": 0, "width": 0, "height": 0, "seed": 1,
    }  # fmt: skip
    return client.predict(**(known | given), api_name=name)


def test_endpoints_are_named_typed_and_described(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/plan", "/generate", "/compare", "/devices"}
    for endpoint in endpoints.values():
        assert all(parameter["type"] for parameter in endpoint["parameters"])


def test_a_plan_is_told(client):
    plan = client.predict(budget="44MiB", steps=3, api_name="/plan")
    assert plan["feasible"] and plan["predicted_peak_bytes"] <= 44 * 2**20
    assert streamline.Plan.from_dict(plan["plan"]).budget_bytes == 44 * 2**20
    plan = client.predict(budget="2MiB", api_name="/plan")
    assert not plan["feasible"] and plan["trouble"].startswith("This does not fit.")


def test_a_video_is_made_with_its_receipt(client):
    video, receipt = ask(client, "/generate")
    path = Path(video["video"] if isinstance(video, dict) else video)
    assert streamline.read_receipt(path) == streamline.Receipt.from_dict(receipt)


def test_what_is_cancelled_makes_room_for_the_next(client):
    given = {"image": None, "budget": "", "quality": "exact", "emulate": "", "frames": 0, "width": 128, "height": 128}
    job = client.submit("tiny-animatediff", PROMPT, **given, steps=1000, seed=1, api_name="/generate")  # for minutes
    while not job.outputs():
        assert not job.done()
        time.sleep(0.1)
    job.cancel()
    assert ask(client, "/generate")[1]["seed"] == 1


def test_both_are_compared(client):
    compared = ask(client, "/compare", quality="fast", steps=6)
    assert compared["original"]["plan"] is None and len(compared["psnr"]) == 8


def test_devices_are_told(client):
    assert client.predict(api_name="/devices")[-1]["kind"] == "cpu"


@pytest.mark.parametrize(
    "given", [{"model": "nothing"}, {"budget": "lots"}, {"seed": -1}, {"prompt": ""}, {"frames": 10_000}, {"seed": 2.5}]
)
def test_bad_requests_are_sentences(client, given):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=r"^\S.*\.$"):
        ask(client, "/generate", **given)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--auth", "ann"], "a name and a password"),
        (["--port", "99999"], "a port is a number"),
        (["--window"], "pip install pywebview"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(option, sentence):
    done = subprocess.run([sys.executable, "app.py", *option], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and sentence in done.stderr


def test_a_port_that_is_taken_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "app.py", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "is used by another program" in done.stderr and "Traceback" not in done.stderr


def test_language_models_are_offered_the_endpoints(tmp_path):
    with serving(tmp_path, "--mcp") as address, ThreadPoolExecutor(1) as aside:
        # A browser's loop may be running in this thread.
        tools, answer = aside.submit(anyio.run, ask_for_a_plan, f"{address}gradio_api/mcp/").result()
    assert {name.rpartition("_")[2] for name in tools} == {"plan", "generate", "compare", "devices"}
    (plan,) = (tool for name, tool in tools.items() if name.endswith("plan"))
    assert "without making it" in plan.description
    assert plan.inputSchema["properties"]["budget"]["description"].startswith("memory it may use")
    assert not answer.isError and "peak_bytes" in answer.content[0].text


async def ask_for_a_plan(url):
    """The tools of a server, by name, and what the one that plans answers."""
    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        name = next(name for name in tools if name.endswith("plan"))
        return tools, await session.call_tool(name, {"model": "tiny-animatediff"})
