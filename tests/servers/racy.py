"""An S3 store whose conditional create is not atomic: moto behind a front that drops the condition.

Stands for OpenStack Swift's S3 face and rclone, which ignore or race ``If-None-Match``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.servers.moto import MotoServer


class RacyServer(MotoServer):
    """As `MotoServer`, but every PUT overwrites."""

    def __enter__(self) -> RacyServer:
        moto = DomainDispatcherApplication(create_backend_app)

        def front(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            return moto(environ, start)

        self._http = make_server("127.0.0.1", 0, front, threaded=True)
        self.endpoint_url = f"http://127.0.0.1:{self._http.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
