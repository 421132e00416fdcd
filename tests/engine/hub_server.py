"""A hub on loopback: enough of the Hugging Face API to look models up and download them."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
ADDRESS = re.compile(
    r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?"
)


@dataclass
class Hub:
    """What the hub has: `models` maps ids to folders, `errors` ids to (status, X-Error-Code).

    `sent` lists the files that were downloaded.
    """

    models: dict[str, Path] = field(default_factory=dict)
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub at `Hub.url` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.hub = Hub(url=f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answers(BaseHTTPRequestHandler):
    """One connection of the hub."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        match = ADDRESS.fullmatch(self.path.partition("?")[0])
        model, verb, revision, file = match.groups() if match else ("", None, None, None)
        if model in hub.errors or model not in hub.models:
            status, code = hub.errors.get(model, (404, "RepoNotFound"))
            self.answer(status, b"{}", {"X-Error-Code": code})
        elif revision not in {None, "main", COMMIT}:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif verb == "resolve":
            self.send_file(hub.models[model], file)
        elif verb == "tree":
            self.answer(200, json.dumps(tree(hub.models[model])).encode())
        else:
            siblings = [{"rfilename": entry["path"]} for entry in tree(hub.models[model])]
            info = {"id": model, "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(info).encode())

    def send_file(self, folder: Path, file: str) -> None:
        if not (folder / file).is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET":
            self.server.hub.sent.append(file)
        content = (folder / file).read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads a log of requests here."""


def tree(folder: Path) -> list[dict[str, Any]]:
    """The files of a model as the hub lists them."""
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
