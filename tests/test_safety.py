"""Nobody comes in without a login, brings more than is taken, or reads what is not theirs, by any route there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from gradio.routes import App

import streamline
import ui
from streamline import Source
from ui import guard
from ui.gallery import Gallery
from ui.models import Pipelines

ROOT = Path(__file__).parents[1]
ENDLESS = ("heartbeat", "queue/data", "upload_progress", "dev/reload")  # routes that stream until the client goes
SECRET = "hf_canaryCANARYcanary"


@pytest.fixture(scope="module", params=["open", "locked"])
def server(request, tmp_path_factory):
    """The app as gradio serves it, without a login and with one."""
    demo = ui.build(tmp_path_factory.mktemp("gallery"))
    demo.auth = [("ann", "secret")] if request.param == "locked" else None
    demo.max_file_size = 200 * guard.MIB
    return App.create_app(demo, app_kwargs=dict(ui.LAUNCH["app_kwargs"]))


def requests_of(routes, before=""):
    """Every method of every route, with something in the place of its parameters."""
    for route in routes:
        inner = getattr(route, "original_router", None)  # how newer versions of FastAPI keep what was included
        if inner is not None:
            yield from requests_of(inner.routes, before)
            continue
        path = before + re.sub(r"{[^}]*}", "x", getattr(route, "path", "/"))
        for method in getattr(route, "methods", None) or ("GET",):
            yield method, path


def test_every_route_asks_for_a_login(server):
    client, shut = TestClient(server, raise_server_exceptions=False), []
    for method, path in requests_of(server.routes):
        if server.auth is None and any(word in path for word in ENDLESS):
            continue
        answer = client.request(method, path, follow_redirects=False)
        if server.auth is None:
            assert answer.text != '{"error":"Log in first."}', path
        elif not guard._is_open(path, method):
            assert answer.status_code == 401, (method, path)
            assert method == "HEAD" or answer.json() == {"error": "Log in first."}
            shut.append(path)
    assert server.auth is None or len(shut) > 60


def test_who_has_logged_in_comes_in(server):
    client = TestClient(server)
    if server.auth is None:
        assert client.get("/config").status_code == 200
        return
    assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
    assert client.get("/config").status_code == 200
    assert client.get("/config", cookies={"access-token-x": "y"}).status_code == 200
    assert TestClient(server).get("/config", cookies={f"access-token-{server.cookie_id}": "y"}).status_code == 401


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/plan", "/login", "/gradio_api/upload"])
def test_too_much_is_refused_announced_or_not(server, path):
    most = guard.MOST_UPLOADED if path == guard.UPLOAD else guard.MOST_ASKED
    client = TestClient(server)
    if server.auth is not None:
        client.post("/login", data={"username": "ann", "password": "secret"})
    headers = {"content-type": "application/json", "content-length": str(most + 1)}
    answer = client.post(path, content=b"{}", headers=headers)
    assert answer.status_code == 413 and "MiB are taken" in answer.json()["error"]
    if path != guard.UPLOAD:
        answer = client.post(
            path, content=(b" " * 2**20 for _ in range(6)), headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 413, 422)


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../etc/passwd", "/gradio_api/file=file:///etc/passwd",
     "/gradio_api/file//etc/passwd", "/static/../../../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
     "/gradio_api/proxy=http://127.0.0.1:1/etc/passwd", "/gradio_api/file={root}/app.py",
     "/gradio_api/file={root}/ui/../.git/config", "/svelte/..%2f..%2f..%2fetc/passwd",
     "/gradio_api/custom_component/x/client/component/..%2f..%2fetc%2fpasswd"],
)  # fmt: skip
def test_no_address_leads_to_files_of_the_machine(server, path):
    client = TestClient(server)
    if server.auth is not None:
        client.post("/login", data={"username": "ann", "password": "secret"})
    answer = client.get(path.format(root=ROOT))
    assert answer.status_code >= 400
    assert "root:" not in answer.text and "import argparse" not in answer.text and "[core]" not in answer.text


@pytest.mark.parametrize(
    "name", ["/etc", "assets/models", "../models", "~/models", ".", "a/../b", "tiny-svd/../x", "x" * 500]
)
def test_strangers_name_no_folders_of_this_machine(name):
    for source in (
        Source(name),
        Source("animatediff", {"base": name}),
        Source("animatediff", {"motion_adapter": name}),
    ):
        with pytest.raises(streamline.ModelError, match="not open here"):
            Pipelines(offline=True, is_public=True).get(source, torch.float32)


def test_strangers_may_name_what_is_on_offer_and_hub_ids():
    public = Pipelines(offline=True, is_public=True)
    assert public.get(Source("tiny-svd"), torch.float32).unet is not None
    with pytest.raises(streamline.ModelError, match="is not on this machine"):
        public.get(Source("nobody/nothing"), torch.float32)


def test_an_owner_is_the_only_way_to_an_output(tmp_path):
    """Folders have names of 128 bits that only the owner's secret gives, and names of runs lead nowhere else."""
    gallery = Gallery(tmp_path)
    homes = {gallery._home(owner).name for owner in ("a", "b", "", "../a", "a/b")}
    assert len(homes) == 5 and all(re.fullmatch("[0-9a-f]{32}", home) for home in homes)


def test_secrets_of_the_environment_reach_no_output(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "streamline", "generate", "--prompt", "a red circle", "--steps", "1", "--json",
         "--out", str(tmp_path / "out.mp4")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HF_TOKEN": SECRET, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
             "STREAMLINE_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    receipt = streamline.read_receipt(tmp_path / "out.mp4")
    for text in (done.stdout, done.stderr, receipt.to_json(), *(content.decode("latin1") for content in written)):
        assert SECRET not in text
    assert str(tmp_path) not in receipt.to_json()
