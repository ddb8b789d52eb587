"""The app behind a proxy that serves it under a path of its own, as --root-path is for."""

import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import uvicorn
from browsing import IN_A_BROWSER, make, outlook_of, serving, set_field, visiting, wait_done
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

pytestmark = IN_A_BROWSER
PREFIX = "/tools/studio"


@contextmanager
def proxied(address, strips):
    """The public address of an app, and the paths asked for outside of its own. strips: the prefix, from requests."""
    astray = []
    client = httpx.AsyncClient(base_url=address, timeout=None)

    async def forward(request: Request):
        path = request.url.path
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            astray.append(path)
            return PlainTextResponse("Nothing is here.", 404)
        asked = httpx.URL(path=path.removeprefix(PREFIX) or "/" if strips else path, query=request.url.query.encode())
        asked = client.build_request(request.method, asked, headers=request.headers.raw, content=request.stream())
        answer = await client.send(asked, stream=True)
        closing = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers, background=closing)

    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
    routes = [Route("/{path:path}", forward, methods=methods)]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}{PREFIX}/", astray
    server.force_exit = server.should_exit = True
    thread.join(10)


def test_a_video_is_planned_and_made_behind_a_proxy(browser, tmp_path):
    with serving(tmp_path, "--root-path", PREFIX) as address:
        for strips in (True, False):
            with proxied(address, strips) as (public, astray), visiting(browser, public) as page:
                paths = []
                page.on("request", lambda request, paths=paths: paths.append(urlsplit(request.url).path))
                before = outlook_of(page)
                set_field(page, "frames", 6)
                page.wait_for_function("text => document.querySelector('#outlook').innerText !== text", arg=before)
                if strips:
                    set_field(page, "steps", 1)
                    make(page)
                    wait_done(page)
                    page.wait_for_function("document.querySelector('#video video')?.readyState >= 2")
                assert paths and all(path.startswith(PREFIX) for path in paths)
            assert set(astray) <= {"/manifest.json", "/favicon.ico"}, "gradio names these by the root"
