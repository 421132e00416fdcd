"""A proxy in front of an S3 server that makes the faults one asks for.

It hands requests on byte for byte, Host header included, so signatures stay right.
"""

from __future__ import annotations

import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import BinaryIO, Literal, Protocol, Self
from urllib.parse import urlsplit

ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket that resets its connection when it is closed."""


class Server(Protocol):
    """What a proxy stands in front of."""

    endpoint_url: str

    def environment(self) -> dict[str, str]: ...

    def make_bucket(self, name: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: the lines of its head, and its body."""

    head: list[bytes]
    body: bytes

    @property
    def method(self) -> str:
        return self.head[0].decode().split(" ")[0]

    @property
    def target(self) -> str:
        return self.head[0].decode().split(" ")[1]

    def to_bytes(self) -> bytes:
        """As it is handed on: the connection ends with the answer."""
        kept = [
            line for line in self.head if not line.lower().startswith((b"expect:", b"connection:"))
        ]
        return b"\r\n".join([*kept, b"Connection: close", b"", self.body])


class Proxy(ABC):
    """Listens on a port of the loopback in front of `server`; a context manager.

    A subclass says in `answer` what becomes of a request. `seen` holds method and target of each.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seen: list[tuple[str, str]] = []
        self.endpoint_url = ""

    @abstractmethod
    def answer(self, request: Request) -> bytes | None:
        """What the client gets; None ends the connection without a byte.

        Raises: `ConnectionAbortedError` to reset the connection.
        """

    def __enter__(self) -> Self:
        self._listener = _bound(0)
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_listening()

    def environment(self) -> dict[str, str]:
        return {**self.server.environment(), "AWS_ENDPOINT_URL_S3": self.endpoint_url}

    def make_bucket(self, name: str) -> str:
        return self.server.make_bucket(name)

    @contextmanager
    def refusing_connections(self) -> Iterator[None]:
        """An outage: nobody listens on the port."""
        port = self._listener.getsockname()[1]
        self._stop_listening()
        # Bound without listening: the port is refused, and nobody else is given it meanwhile.
        self._listener = _bound(port)
        try:
            yield
        finally:
            self._listen()

    def _listen(self) -> None:
        self._listener.listen(128)
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        with suppress(OSError):  # it was not listening: nobody waits in `accept`
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One request, then the connection ends."""
        with connection, connection.makefile("rb") as stream, suppress(ConnectionError):
            request = _read_request(connection, stream)
            if request is None:
                return
            self.seen.append((request.method, request.target))
            try:
                answer = self.answer(request)
            except ConnectionAbortedError:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                return
            if answer is not None:
                connection.sendall(answer)


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of a method whose target holds `target`.

    ``cut``: the answer ends after `after_bytes` of its body. ``lose``: the request is handed on
    and its answer dropped. ``drop``: the request is not handed on. ``answer``: as ``drop``, and
    `status` is answered with the S3 error `code`. ``flip``: a bit of the answer's body is flipped,
    `after_bytes` into it. ``flip-sent``: the same with the body of the request.
    ``empty``: success is answered without a body, and the request not handed on.
    """

    method: str
    kind: Literal["cut", "lose", "drop", "answer", "empty", "flip", "flip-sent"]
    target: str = ""
    after_bytes: int = 0
    status: int = 503
    code: str = "SlowDown"
    times: int = 1


class FaultProxy(Proxy):
    """Makes the faults that are added to `faults`, each as often as it says."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.faults: list[Fault] = []
        self._lock = Lock()

    def answer(self, request: Request) -> bytes | None:
        fault = self._next_fault(request)
        kind = fault.kind if fault is not None else None
        if fault is None:
            return exchange(self.server, request.to_bytes())
        if kind == "drop":
            return None
        if kind == "answer":
            return error_answer(fault.status, fault.code)
        if kind == "empty":
            return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        if kind == "flip-sent":
            damaged = Request(request.head, flipped(request.body, fault.after_bytes))
            return exchange(self.server, damaged.to_bytes())
        answer = exchange(self.server, request.to_bytes())
        if kind == "lose":
            return None
        body = answer.index(b"\r\n\r\n") + 4
        if kind == "cut":
            return answer[: body + fault.after_bytes]
        return flipped(answer, body + fault.after_bytes)

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                fits = fault.method == request.method and fault.target in request.target
                if fault.times > 0 and fits:
                    fault.times -= 1
                    return fault
        return None


def error_answer(status: int, code: str) -> bytes:
    """An answer with an error of S3."""
    xml = f"<Error><Code>{code}</Code><Message>a fault</Message></Error>"
    head = f"HTTP/1.1 {status} Fault\r\nConnection: close\r\nContent-Length: {len(xml)}\r\n\r\n"
    return (head + xml).encode()


def flipped(data: bytes, position: int) -> bytes:
    """The bytes with one bit flipped at a position."""
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def exchange(server: Server, sent: bytes) -> bytes:
    """Send bytes to the server; returns all that it answers."""
    address = urlsplit(server.endpoint_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as upstream:
        upstream.sendall(sent)
        parts = []
        while part := upstream.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def _read_request(connection: socket.socket, stream: BinaryIO) -> Request | None:
    head = []
    while line := stream.readline().rstrip(b"\r\n"):
        head.append(line)
    if not head:
        return None
    fields = dict(line.lower().split(b": ", 1) for line in head[1:] if b": " in line)
    if fields.get(b"expect") == b"100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(head, stream.read(int(fields.get(b"content-length", 0))))
