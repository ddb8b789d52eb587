"""A Hugging Face hub in miniature: serves folders of models over HTTP as the real one does."""

import hashlib
import json
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 39 + "1"


@contextmanager
def serve(folder: Path, gated: tuple[str, ...] = (), broken: tuple[str, ...] = ()):
    """Serve every folder/organisation/name as a model; yields the address and the list of files sent so far.

    broken: files whose first transfer ends in the middle.
    """
    sent = []
    handler = partial(_Handler, folder, gated, sent, set(broken))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder, gated, sent, broken, *arguments):
        self.folder, self.gated, self.sent, self.broken = folder, gated, sent, broken
        super().__init__(*arguments)

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        pass

    def _answer(self, body):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        about = parts[:2] == ["api", "models"]
        if about:
            parts = parts[2:]
        model, rest = "/".join(parts[:2]), parts[2:]
        files = self.folder / model
        if not files.is_dir():
            return self._refuse(404, "RepoNotFound")
        if about:
            return self._describe(model, files, rest, body)
        if model in self.gated:
            return self._refuse(403, "GatedRepo")
        file = files.joinpath(*rest[2:])  # resolve/<revision>/<path>
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        name = file.relative_to(self.folder).as_posix()
        if body:
            self.sent.append(name)
        breaks = body and name in self.broken
        if breaks:
            self.broken.remove(name)
        return self._send(file.read_bytes(), "application/octet-stream", body, breaks=breaks)

    def _describe(self, model, files, rest, body):
        paths = sorted(file for file in files.rglob("*") if file.is_file())
        if rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": path.relative_to(files).as_posix(), "size": path.stat().st_size,
                 "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
                for path in paths
            ]  # fmt: skip
        else:
            siblings = [{"rfilename": path.relative_to(files).as_posix()} for path in paths]
            entries = {"_id": "1", "id": model, "modelId": model, "sha": COMMIT, "siblings": siblings}
            entries |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
        self._send(json.dumps(entries).encode(), "application/json", body)

    def _refuse(self, status, code):
        self._send(b"", "text/plain", True, status, {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, content, kind, body, status=200, headers=(), breaks=False):
        size = len(content)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            content, status = content[start:], 206
            headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        self.send_response(status)
        fields = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
        } | dict(headers)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if breaks else content)
            self.close_connection = breaks
