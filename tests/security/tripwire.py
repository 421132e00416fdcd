"""A server that nobody has a reason to ask anything, and that keeps every request."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class Tripwire:
    """An HTTP server on the loopback, whatever the method; a context manager."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def __enter__(self) -> Tripwire:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                line = self.rfile.readline(65537)
                if line:
                    requests.append(line.decode("latin-1").strip())
                    self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self) -> dict[str, str]:
        """Leads the hub's clients here, and by way of proxies every client that asks any host."""
        proxies = {f"{kind}_proxy": self.url for kind in ("http", "https", "all", "ftp")}
        nobody = {"HF_ENDPOINT": self.url, "no_proxy": "", "NO_PROXY": "", "HF_HUB_OFFLINE": "0"}
        return {**proxies, **{name.upper(): url for name, url in proxies.items()}, **nobody}
