"""A proxy in front of an S3 server that makes the faults one asks for.

It hands requests on byte for byte, Host header included, so signatures stay right.
"""

from __future__ import annotations

import socket
import socketserver
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Literal, Protocol
from urllib.parse import urlsplit


class Server(Protocol):
    """What the proxy stands in front of."""

    endpoint_url: str

    def environment(self) -> dict[str, str]: ...

    def make_bucket(self, name: str) -> str: ...


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of a method whose target holds `target`.

    ``cut``: the answer ends after `after_bytes` of its body. ``lose``: the request is handed on
    and its answer dropped. ``drop``: the request is not handed on. ``answer``: as ``drop``, and
    `status` is answered with the S3 error `code`.
    """

    method: str
    kind: Literal["cut", "lose", "drop", "answer"]
    target: str = ""
    after_bytes: int = 0
    status: int = 503
    code: str = "SlowDown"
    times: int = 1


@dataclass(slots=True)
class FaultProxy:
    """Listens on a free port of the loopback in front of `server`; a context manager.

    `seen` holds method and target of every request.
    """

    server: Server
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    endpoint_url: str = ""
    _listener: socketserver.ThreadingTCPServer | None = None
    _lock: Lock = field(default_factory=Lock)

    def __enter__(self) -> FaultProxy:
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                proxy._serve(self)

        self._listener = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        self.endpoint_url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.shutdown()
        self._listener.server_close()

    def environment(self) -> dict[str, str]:
        return {**self.server.environment(), "AWS_ENDPOINT_URL_S3": self.endpoint_url}

    def make_bucket(self, name: str) -> str:
        return self.server.make_bucket(name)

    def _serve(self, connection: socketserver.StreamRequestHandler) -> None:
        """One request, then the connection ends."""
        head = _read_head(connection)
        if not head:
            return
        method, target, _ = head[0].decode().split(" ", 2)
        body = _read_body(connection, head)
        self.seen.append((method, target))
        fault = self._next_fault(method, target)
        if fault is not None and fault.kind == "drop":
            return
        if fault is not None and fault.kind == "answer":
            xml = f"<Error><Code>{fault.code}</Code><Message>a fault</Message></Error>"
            status = f"HTTP/1.1 {fault.status} Fault\r\nConnection: close\r\n"
            connection.wfile.write(f"{status}Content-Length: {len(xml)}\r\n\r\n{xml}".encode())
            return
        kept = [line for line in head if not line.lower().startswith((b"expect:", b"connection:"))]
        request = b"\r\n".join([*kept, b"Connection: close", b"", body])
        answer = _exchange(self.server.endpoint_url, request)
        if fault is not None and fault.kind == "lose":
            return
        if fault is not None:
            answer = answer[: answer.index(b"\r\n\r\n") + 4 + fault.after_bytes]
        connection.wfile.write(answer)

    def _next_fault(self, method: str, target: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.target in target:
                    fault.times -= 1
                    return fault
        return None


def _read_head(connection: socketserver.StreamRequestHandler) -> list[bytes]:
    lines = []
    while line := connection.rfile.readline().rstrip(b"\r\n"):
        lines.append(line)
    return lines


def _read_body(connection: socketserver.StreamRequestHandler, head: list[bytes]) -> bytes:
    fields = dict(line.lower().split(b": ", 1) for line in head[1:] if b": " in line)
    if fields.get(b"expect") == b"100-continue":
        connection.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return connection.rfile.read(int(fields.get(b"content-length", 0)))


def _exchange(endpoint_url: str, request: bytes) -> bytes:
    address = urlsplit(endpoint_url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as upstream:
        upstream.sendall(request)
        parts = []
        while part := upstream.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)
