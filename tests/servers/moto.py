"""moto's S3 in a thread of this process. It checks no signatures and keeps all in memory."""

from __future__ import annotations

import logging
import urllib.request

from moto.server import ThreadedMotoServer


class MotoServer:
    """A mock S3 on a free port of the loopback; a context manager."""

    access_key = "moto"
    secret_key = "moto-secret"

    def __enter__(self) -> MotoServer:
        # It writes a line a request to standard error otherwise.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint_url = f"http://{host}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        # moto takes the region and the service from this header and does not check the rest.
        credential = f"{self.access_key}/20260101/us-east-1/s3/aws4_request"
        signature = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(
            f"{self.endpoint_url}/{name}", method="PUT", headers={"Authorization": signature}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10):
            return name
