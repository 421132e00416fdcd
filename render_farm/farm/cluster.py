"""Joining a Ray cluster, or starting one on this machine, and what its nodes can hold."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoReply  # type: ignore[attr-defined]
from ray.exceptions import RayError

from render_farm.errors import InputError
from render_farm.farm.auth_token import keep_token_private
from render_farm.job.spec import WorkersSpec

log = logging.getLogger(__name__)

REACH_S = 10.0
OWN = (None, "local")
PLACE = re.compile(r"(?P<client>ray://)?(?P<target>(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d+)")

# What anybody may ask a head, and a Ray Client server, that ask for no token.
NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
CLIENT = "/ray.rpc.RayletDriver/ClusterInfo"


@dataclass(frozen=True, slots=True)
class Resources:
    """What each worker reserves of its node, and how many workers there are to be."""

    count: int
    cpus: int
    gpus: float


def connect(address: str | None, workers: WorkersSpec) -> Resources:
    """Join the cluster at `address`, or start one on this machine, and size the workers.

    A cluster of our own asks for a token, listens on the loopback alone, and gets as many logical
    CPUs as the job's workers ask for, so that a worker is never waited for in vain; how many
    threads each uses is `workers.cpus`. Another is joined as it is: see `refuse_open_cluster`.

    Raises:
        InputError: there is no cluster at the address, or it cannot hold one worker.
    """
    if address in OWN:
        count = workers.count if workers.count != "auto" else 1
        _start(max(os.cpu_count() or 1, count * workers.cpus))
    else:
        _join(str(address))
    return size_workers(workers, _nodes(), growing=address not in OWN)


def _start(cpus: int) -> None:
    keep_token_private(os.environ)
    with _kept_to_loopback():
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
        )


@contextmanager
def _kept_to_loopback() -> Iterator[None]:
    """Let Ray believe meanwhile that it is on a system where it knows no clusters.

    Elsewhere it takes 127.0.0.1 for an address of this machine that others can reach, and listens
    on all of them.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _join(address: str) -> None:
    _check_reachable(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise _no_cluster(address, error) from error


def refuse_open_cluster(address: str) -> None:
    """Refuse a cluster that asks for no token and that other machines can reach.

    Whoever can join a cluster runs code on its nodes, with their credentials. A stranger's question
    is put to it, which carries neither our token nor code. A cluster whose nodes are all on this
    machine's loopback is nobody else's, and one with ``RAY_USE_TLS`` asks for certificates.

    Raises:
        InputError: it is open to all; or there is no cluster at the address.
    """
    if address in OWN or os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
        return
    place = _place(address)
    hosts = _hosts_told_to_strangers(address, place["target"], client=bool(place["client"]))
    if hosts is not None and not (hosts and all(map(_is_loopback, hosts))):
        raise InputError.of(
            "--address",
            f"{address}, where everybody who reaches it can run code",
            "a cluster that asks for a token, or one whose nodes are all on 127.0.0.1",
            "start every node of it with RAY_AUTH_MODE=token and the same ~/.ray/auth_token "
            "(ray get-auth-token --generate makes one); or, where its network is closed to "
            "strangers, pass --allow-open-cluster",
        )


def _place(address: str) -> re.Match[str]:
    """Host and port of a cluster. Raises: `InputError` if the address is none that we know."""
    try:
        found = canonicalize_bootstrap_address(address) if address == "auto" else address
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address, error) from error
    place = PLACE.fullmatch(str(found))
    if place is None:
        raise _no_cluster(address, ValueError("neither auto nor host:port nor ray://host:port"))
    return place


def _hosts_told_to_strangers(address: str, target: str, *, client: bool) -> list[str] | None:
    """The hosts of the cluster's nodes as told without a token; None if it asks for one.

    A Ray Client server does not say which nodes it leads to: an empty list.

    Raises: `InputError` if no cluster answers.
    """
    # Only those who join a cluster need it.
    import grpc  # type: ignore[import-untyped]  # noqa: PLC0415

    # Not by way of the environment's HTTP proxies; neither does Ray.
    with grpc.insecure_channel(target, (("grpc.enable_http_proxy", 0),)) as channel:
        try:
            answer = channel.unary_unary(CLIENT if client else NODES)(b"", timeout=REACH_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return None
            if client and error.code() is grpc.StatusCode.NOT_FOUND:  # it knows no such client
                return []
            raise _no_cluster(address, ConnectionError(error.details())) from error
    nodes = [] if client else GetAllNodeInfoReply.FromString(answer).node_info_list
    return [node.node_manager_address for node in nodes if node.state == node.ALIVE]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _nodes() -> list[Mapping[str, float]]:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _check_reachable(address: str) -> None:
    """Find a mistyped address out in seconds: Ray itself goes on trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=REACH_S).close()
        except (OSError, ValueError) as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> InputError:
    return InputError.of(
        "--address",
        f"{address} ({str(error).partition(chr(10))[0]})",
        "the address of a running Ray cluster, or auto",
        "start one with ray start --head, or leave --address out; where the cluster asks for a "
        "token, set RAY_AUTH_MODE=token",
    )


def disconnect() -> None:
    """Leave the cluster; one of our own ends with it."""
    ray.shutdown()


def size_workers(
    workers: WorkersSpec, nodes: Sequence[Mapping[str, float]], *, growing: bool
) -> Resources:
    """How many workers there are and what each reserves of one of `nodes`.

    `gpus: auto` is one where the cluster has any and none elsewhere; `count: auto` is as many as
    fit now. A `growing` cluster may have fewer nodes yet than the job asks for.

    Raises:
        InputError: not even one fits, and none is to be waited for.
    """
    gpus_there = sum(node.get("GPU", 0.0) for node in nodes)
    gpus = (1.0 if gpus_there else 0.0) if workers.gpus == "auto" else workers.gpus
    fitting = sum(_fitting(node, workers.cpus, gpus) for node in nodes)
    count = fitting if workers.count == "auto" else workers.count
    if fitting < 1 and not (growing and count):
        largest = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        raise InputError.of(
            "workers",
            f"cpus: {workers.cpus}, gpus: {gpus:g} a worker",
            f"what one node can give: at most {largest:g} CPUs; {gpus_there:g} GPUs in all",
            "lower workers.cpus or workers.gpus, or add nodes",
        )
    if count > fitting:
        log.warning(
            "fewer workers fit than asked for; the others wait for nodes",
            extra={"asked": count, "fitting": fitting},
        )
    return Resources(count=count, cpus=workers.cpus, gpus=gpus)


def _fitting(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Workers that one node holds. Ray counts in ten-thousandths, and floats would lose one."""
    fitting = int(node.get("CPU", 0.0) // cpus)
    if gpus:
        fitting = min(fitting, round(node.get("GPU", 0.0) * 10_000) // round(gpus * 10_000))
    return fitting
