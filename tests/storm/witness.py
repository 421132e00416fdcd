"""A witness on the wire: hands every byte between the farm and its store on, and tells what passed.

It knows of no file of the product. What it tells comes from requests that the store really got
and answers that it really gave, so it still counts where the process that acted was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from urllib.parse import unquote, urlsplit

from tests.servers.ceph import CephServer

CHUNK = 1 << 16
ANSWER_S = 30.0
POLL_S = 0.05


@dataclass(slots=True)
class Request:
    """One request of the client at `port`; `status` is None until the answer begins."""

    port: int
    method: str
    key: str  # bucket/key, without the query
    body: bytes = b""
    status: int | None = None


class Witness:
    """A proxy on the loopback in front of `server`; a context manager.

    `on_request` is called when a request has come whole and before its last bytes are handed on,
    `on_answer` before the first bytes of its answer are: whoever kills the client there has it die
    with the request sent, or with the answer unheard.
    """

    def __init__(
        self,
        server: CephServer,
        on_request: Callable[[Request], None],
        on_answer: Callable[[Request], None],
    ) -> None:
        self._server = server
        self._on_request = on_request
        self._on_answer = on_answer
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="witness", daemon=True)
        self.endpoint_url = ""

    def __enter__(self) -> Witness:
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.endpoint_url = f"http://127.0.0.1:{started.result(30)}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def environment(self) -> dict[str, str]:
        return {**self._server.environment(), "AWS_ENDPOINT_URL_S3": self.endpoint_url}

    async def _listen(self) -> int:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._listener.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._listener.close()
        connections = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        address = urlsplit(self._server.endpoint_url)
        talk = _Talk(back.get_extra_info("peername")[1], self._on_request, self._on_answer)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            server, forth = await asyncio.open_connection(address.hostname, address.port)
            # Either end closing ends both: that is how a killed client looks to the server.
            pumps = [
                asyncio.ensure_future(_pump(client, forth, talk.said)),
                asyncio.ensure_future(_pump(server, back, talk.heard)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                await _hear_out(talk)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                forth.close()
        back.close()


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, look: Callable[[bytes], None]
) -> None:
    while data := await source.read(CHUNK):
        look(data)
        sink.write(data)
        await sink.drain()


async def _hear_out(talk: _Talk) -> None:
    """Wait for the answer to a request whose client died: the store applies it all the same."""
    for _ in range(int(ANSWER_S / POLL_S)):
        if not talk.unanswered:
            return
        await asyncio.sleep(POLL_S)


class _Talk:
    """What passes over one connection: requests one after another, as S3 clients send them."""

    def __init__(
        self,
        port: int,
        on_request: Callable[[Request], None],
        on_answer: Callable[[Request], None],
    ) -> None:
        self._port = port
        self._on_request = on_request
        self._on_answer = on_answer
        self._unread = b""
        self._request: Request | None = None
        self._missing = 0
        self._answer = b""

    @property
    def unanswered(self) -> bool:
        """Whether the store has a whole request that it has not answered."""
        request = self._request
        return request is not None and not self._missing and request.status is None

    def said(self, data: bytes) -> None:
        """Bytes of the client."""
        self._unread += data
        while self._unread:
            if not self._missing and not self._begin():
                return
            request = self._request
            assert request is not None
            body, self._unread = self._unread[: self._missing], self._unread[self._missing :]
            request.body += body
            self._missing -= len(body)
            if not self._missing:
                self._on_request(request)

    def heard(self, data: bytes) -> None:
        """Bytes of the server; of each answer only the status matters."""
        request = self._request
        if request is None or request.status is not None:
            return
        self._answer += data
        while b"\r\n\r\n" in self._answer:
            head, _, rest = self._answer.partition(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            self._answer = rest
            if status != 100:
                request.status = status
                self._on_answer(request)
                return

    def _begin(self) -> bool:
        """Read the head of the next request; False if it has not come whole."""
        head, whole, rest = self._unread.partition(b"\r\n\r\n")
        if not whole:
            return False
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].decode().split(" ", 2)
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        self._request = Request(self._port, method, unquote(urlsplit(target).path).lstrip("/"))
        self._missing = int(fields.get(b"content-length", 0))
        self._answer = b""
        self._unread = rest
        if not self._missing:
            self._on_request(self._request)
        return True
