"""A proxy that makes every kind of fault at random, by rates, and counts what it made."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from urllib.parse import urlsplit

from tests.servers.proxy import Proxy, Request, Server, error_answer, exchange, flipped

RATES: Mapping[str, float] = {
    "overloaded": 0.20,  # answered with 500 or 503, not applied
    "answer lost": 0.05,  # applied, and the connection ends
    "reset": 0.02,  # not applied, and the connection is reset
    "upload cut": 0.03,  # of bodies sent: the server gets a part of it
    "answer cut": 0.04,  # of bodies answered: listings, objects, errors
    "object corrupted": 0.03,  # of objects read: one bit
}
OVERLOADED = ((500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"))


class StormProxy(Proxy):
    """Each request meets at most one fault, chosen by `rates` from a generator of its own.

    `made` counts the faults by kind. What arrives while connections are refused is not counted.
    """

    def __init__(self, server: Server, seed: int = 0, rates: Mapping[str, float] = RATES) -> None:
        super().__init__(server)
        self.made: Counter[str] = Counter()
        self._rates = rates
        self._random = random.Random(seed)
        self._lock = Lock()

    def answer(self, request: Request) -> bytes | None:
        if self._happens("overloaded"):
            return error_answer(*self._choice(OVERLOADED))
        if self._happens("reset"):
            raise ConnectionAbortedError
        if request.body and self._happens("upload cut"):
            self._send_part(request)
            return None
        try:
            answer = exchange(self.server, request.to_bytes())
        except OSError:  # the server was killed
            return None
        if self._happens("answer lost"):
            return None
        return self._damaged(request, answer)

    def refuse_connections_for(self, duration_s: float) -> None:
        """An outage; returns when it is over."""
        with self.refusing_connections():
            time.sleep(duration_s)

    def figures(self) -> str:
        """All faults made, for people to read."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.made.items()))
        return f"{self.made.total()} of {len(self.seen)} requests: {kinds}"

    def _damaged(self, request: Request, answer: bytes) -> bytes:
        begin = answer.find(b"\r\n\r\n") + 4
        if request.method != "GET" or begin < 4 or begin == len(answer):
            return answer
        is_object = "?" not in request.target and b" 20" in answer[:14]
        if self._happens("answer cut"):
            return answer[: self._between(begin, len(answer))]
        if is_object and self._happens("object corrupted"):
            return flipped(answer, self._between(begin, len(answer)))
        return answer

    def _send_part(self, request: Request) -> None:
        """Hand on the request without the end of its body, and hang up."""
        data = request.to_bytes()
        end = self._between(len(data) - len(request.body), len(data))
        address = urlsplit(self.server.endpoint_url)
        with socket.create_connection((address.hostname, address.port), timeout=60) as upstream:
            upstream.sendall(data[:end])

    def _happens(self, kind: str) -> bool:
        with self._lock:
            happens = self._random.random() < self._rates.get(kind, 0)
            self.made[kind] += happens
        return happens

    def _choice(self, among: tuple[tuple[int, str], ...]) -> tuple[int, str]:
        with self._lock:
            return self._random.choice(among)

    def _between(self, first: int, end: int) -> int:
        with self._lock:
            return self._random.randrange(first, end)
