"""A cluster that strangers could join is not joined."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoReply

from render_farm.errors import InputError
from render_farm.farm.open_cluster import CLIENT, NODES, refuse_open_cluster
from tests.cli.conftest import Ended, write_job
from tests.end_to_end.farm import farm as command
from tests.servers.ray_head import Head

__all__ = ["write_job"]

OPEN = "everybody who reaches it can run code"
Answer = Callable[[grpc.ServicerContext], bytes]


def nodes(*hosts: str, dead: tuple[str, ...] = ()) -> Answer:
    """What the state of a cluster tells anybody: its nodes."""
    reply = GetAllNodeInfoReply()
    for host in (*hosts, *dead):
        state = GcsNodeInfo.DEAD if host in dead else GcsNodeInfo.ALIVE
        reply.node_info_list.append(GcsNodeInfo(node_manager_address=host, state=state))
    return lambda context: reply.SerializeToString()


def refuses(code: grpc.StatusCode) -> Answer:
    def answer(context: grpc.ServicerContext) -> bytes:
        context.abort(code, "as the test says")
        raise AssertionError

    return answer


@contextmanager
def answering(method: str, answer: Answer) -> Iterator[str]:
    """A server on the loopback that knows one method, and keeps what came with the question."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            assert not [k for k, _ in details.invocation_metadata if k == "authorization"]
            if details.method != method:
                return None
            return grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.mark.parametrize(
    "hosts", [("127.0.0.1",), ("127.0.0.1", "127.0.1.7"), ("::1",), ("127.0.0.1", "::1")]
)
def test_a_cluster_on_the_loopback_alone_needs_no_token(hosts: tuple[str, ...]):
    with answering(NODES, nodes(*hosts, dead=("192.0.2.9",))) as address:
        refuse_open_cluster(address)


@pytest.mark.parametrize(
    "hosts",
    [(), ("192.0.2.2",), ("127.0.0.1", "192.0.2.2"), ("10.0.0.1",), ("fd00::2",), ("head",)],
)
def test_one_that_others_reach_is_refused_though_its_address_is_on_the_loopback(
    hosts: tuple[str, ...],
):
    """A tunnel, or a head that listens everywhere."""
    with answering(NODES, nodes(*hosts)) as address, pytest.raises(InputError) as refused:
        refuse_open_cluster(address)
    (problem,) = refused.value.problems
    assert problem.field == "--address"
    assert OPEN in problem.value
    assert "token" in problem.allowed
    assert "--allow-open-cluster" in problem.fix


@pytest.mark.parametrize(("scheme", "method"), [("", NODES), ("ray://", CLIENT)])
def test_one_that_asks_for_a_token_is_taken(scheme: str, method: str):
    with answering(method, refuses(grpc.StatusCode.UNAUTHENTICATED)) as address:
        refuse_open_cluster(scheme + address)


@pytest.mark.parametrize("answer", [nodes("127.0.0.1"), refuses(grpc.StatusCode.NOT_FOUND)])
def test_a_client_server_that_asks_for_none_is_refused_wherever_it_is(answer: Answer):
    """It does not say which nodes it leads to."""
    with answering(CLIENT, answer) as address, pytest.raises(InputError, match=OPEN):
        refuse_open_cluster(f"ray://{address}")


@pytest.mark.parametrize("value", ["1", "true"])
def test_certificates_do_as_well_as_a_token(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_USE_TLS", value)
    refuse_open_cluster("192.0.2.2:1")


def test_what_does_not_answer_as_a_cluster_is_none():
    with answering("/another/Method", nodes("127.0.0.1")) as address:
        for there in (address, f"ray://{address}"):
            with pytest.raises(InputError, match="running Ray cluster"):
                refuse_open_cluster(there)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match="running Ray cluster"):
        refuse_open_cluster(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "address", ["os://x:1", "http://127.0.0.1:8265", "ray://", "x", "a b:1", "127.0.0.1", "x:1/y"]
)
def test_an_address_of_no_kind_that_we_know_is_refused(address: str):
    """Ray would import a module that an address names."""
    with pytest.raises(InputError, match="neither auto nor host:port"):
        refuse_open_cluster(address)


def own_address() -> str:
    """An address of this machine that is not on the loopback."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has the loopback only")


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_real_head_that_asks_for_no_token_gets_no_run_unless_told_otherwise(
    farm: Callable[..., Ended], write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    job = write_job(rows=4, workers={"count": 1})
    with Head(own_address(), {"RAY_AUTH_MODE": "disabled"}) as head:
        head.wait_for_client_server()
        for address in (
            head.address,
            f"127.0.0.1:{head.address.split(':')[1]}",
            head.client_address,
        ):
            refused = farm("submit", job, "--address", address, "--json")
            assert refused.code == 2, refused.err
            assert refused.fields == ["--address"]
            assert OPEN in refused.out
        detached = farm("submit", job, "--address", head.address, "--detach", "--json")
        assert detached.code == 2
        assert "ray::WorkerActor" not in " ".join(
            " ".join(process.cmdline())
            for process in psutil.Process(head.process.pid).children(recursive=True)
        )
        assert farm("status", job.parent / "run", "--json").json["rows"]["done"] == 0
        allowed = ("submit", job, "--address", head.address, "--allow-open-cluster", "--json")
        no_jobs = farm(*allowed, "--detach")
        assert (no_jobs.code, no_jobs.fields) == (2, ["--detach"])
        assert "start it with its dashboard" in no_jobs.out
        # By a process of its own: this one may have joined a cluster with a token.
        ended = command(*allowed)
        assert ended.code == 0, ended.err
        assert ended.json["rows"]["done"] == 4
        # A run that is complete needs no cluster.
        assert farm("submit", job, "--address", head.address, "--json").code == 0


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_head_on_the_loopback_alone_is_joined_there(
    write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    """Ray takes 127.0.0.1 for another address of this machine, and would wait for ever there.

    By a process of its own: one that has joined a cluster with a token cannot join one without.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    job = write_job(rows=4, workers={"count": 1})
    with Head("127.0.0.1", environment) as head:
        ended = command("submit", job, "--address", head.address, "--json")
        assert ended.code == 0, ended.err
