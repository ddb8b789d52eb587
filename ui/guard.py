"""The one door of the server: who may come in, and how much they may bring. It stands before every route."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 2**20
UPLOAD = "/gradio_api/upload"
MOST_UPLOADED, MOST_ASKED = 201 * MIB, 4 * MIB  # bytes of a request's body: files, and everything else
# What the login page is made of, and what gradio asks of itself when it starts; none of it tells anything.
OPEN = ("/login", "/login/", "/gradio_api/startup-events", "/theme.css", "/gradio_api/theme.css", "/favicon.ico",
        "/robots.txt", "/manifest.json", "/gradio_api/login_check", "/gradio_api/login_check/")  # fmt: skip
OPEN_BELOW = ("/assets/", "/static/", "/svelte/", "/pwa_icon")


class TooLarge(Exception):
    """More was sent than is taken."""


class Guard:
    """ASGI middleware for gradio's own app, which it asks who has logged in.

    Gradio checks the login at most of its routes, but not at all of them: cancelling, streams and resets have none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if not _is_open(path, scope.get("method", "")) and not _is_known(scope):
            return await _answer(scope, receive, send, 401, "Log in first.")
        most = MOST_UPLOADED if path.rstrip("/") == UPLOAD else MOST_ASKED
        if _announced(scope) > most:
            return await _answer(scope, receive, send, 413, f"At most {most // MIB} MiB are taken at once.")
        received, has_begun = 0, False

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise TooLarge
            return message

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, counting_receive, noting_send)
        except TooLarge:
            if not has_begun:
                await _answer(scope, receive, send, 413, f"At most {most // MIB} MiB are taken at once.")


def _is_open(path: str, method: str) -> bool:
    is_page = path == "/" and method in ("GET", "HEAD")  # shows the login form, and nothing else, to strangers
    return is_page or path in OPEN or (path.startswith(OPEN_BELOW) and ".." not in path)


def _is_known(scope: Scope) -> bool:
    """Whether nobody needs to log in, or this visitor has."""
    server = scope["app"]
    if server.auth is None:
        return True
    cookies = HTTPConnection(scope).cookies
    names = (f"access-token-{server.cookie_id}", f"access-token-unsecure-{server.cookie_id}")
    return any(server.tokens.get(cookies.get(name)) is not None for name in names)


def _announced(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    await JSONResponse({"error": sentence}, status)(scope, receive, send)
