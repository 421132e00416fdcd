"""No job is given to a dashboard that strangers reach: whoever does runs code, too."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from render_farm.errors import InputError
from render_farm.farm.open_cluster import refuse_open_dashboard
from render_farm.farm.ray_job import open_jobs

OPEN = "everybody who reaches it can run code"
TOKEN = "0123456789abcdef" * 4


def nodes(*hosts: str, dead: str = "192.0.2.9") -> bytes:
    found = [{"node_ip": host, "state": "ALIVE"} for host in hosts]
    found.append({"node_ip": dead, "state": "DEAD"})
    return json.dumps({"result": True, "data": {"result": {"result": found}}}).encode()


@contextmanager
def showing(body: bytes, status: int = 200) -> Iterator[str]:
    """A dashboard on the loopback that shows one page, and whose visitors bring no token."""
    visits = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.headers.get("Authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    assert visits
    assert not any(visits)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that we have, and that a question to see who is answered must not carry."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("127.0.0.1", "127.0.1.7")])
def test_the_dashboard_of_a_cluster_on_the_loopback_needs_no_token(hosts: tuple[str, ...]):
    with showing(nodes(*hosts)) as url:
        refuse_open_dashboard(url)
        refuse_open_dashboard(f"{url}/")


@pytest.mark.parametrize("hosts", [(), ("10.0.0.1",), ("127.0.0.1", "10.0.0.1"), ("head",)])
def test_one_of_a_cluster_that_others_reach_gets_no_job_though_a_tunnel_leads_to_it(
    hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_USE_TLS", "1")  # which is of nodes and not of dashboards
    with showing(nodes(*hosts)) as url, pytest.raises(InputError, match=OPEN) as refused:
        open_jobs(url, allow_open=False)
    assert "--allow-open-cluster" in refused.value.problems[0].fix


@pytest.mark.parametrize("status", [401, 403])
def test_one_that_asks_for_a_token_is_taken(status: int):
    with showing(b"", status) as url:
        refuse_open_dashboard(url)


@pytest.mark.parametrize(
    ("body", "status"), [(b"{}", 200), (b"[1]", 200), (b"<html>", 200), (b"", 404), (b"", 500)]
)
def test_what_does_not_answer_as_a_dashboard_is_none(body: bytes, status: int):
    with showing(body, status) as url, pytest.raises(InputError, match="running Ray cluster"):
        refuse_open_dashboard(url)


def test_where_nobody_listens_there_is_none():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match="running Ray cluster"):
        open_jobs(f"http://127.0.0.1:{port}", allow_open=False)


@pytest.mark.parametrize("address", ["os://x:1", "ftp://x:1", "http://x:1/../y", "http://", "x"])
def test_an_address_of_no_kind_that_we_know_gets_no_job(address: str):
    """Ray would import a module that an address names."""
    with pytest.raises(InputError, match="neither auto nor host:port"):
        open_jobs(address, allow_open=True)


def test_an_address_of_ray_client_is_refused_with_those_that_take_jobs():
    with pytest.raises(InputError) as refused:
        open_jobs("ray://127.0.0.1:1", allow_open=True)
    assert "http://host:8265" in refused.value.problems[0].allowed
