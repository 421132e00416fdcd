"""Telling whether anybody could join a cluster, before it is joined."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import urllib.error
import urllib.request

from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoReply  # type: ignore[attr-defined]

from render_farm.errors import InputError
from render_farm.farm.cluster import OWN, REACH_S, no_cluster

HOST = r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\])"
PLACE = re.compile(rf"(?P<client>ray://)?(?P<target>{HOST}:\d+)")
WEB = re.compile(rf"https?://{HOST}(?::\d+)?/?")
"""The URL of a dashboard, by which a cluster takes jobs and cannot be joined."""

# What anybody may ask a head, and a Ray Client server, that ask for no token.
NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
CLIENT = "/ray.rpc.RayletDriver/ClusterInfo"
PAGE = "/api/v0/nodes?limit=10000"


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
    place = cluster_place(address)
    _refuse_open(
        address, _hosts_told_to_strangers(address, place["target"], client=bool(place["client"]))
    )


def refuse_open_dashboard(url: str) -> None:
    """Refuse the dashboard of a cluster that asks for no token, as `refuse_open_cluster`.

    Whoever reaches one runs code, too: it takes jobs. Certificates of the cluster's own do not
    cover it.

    Raises:
        InputError: it is open to all; or there is no dashboard.
    """
    _refuse_open(url, _hosts_shown_to_strangers(url))


def _refuse_open(address: str, hosts: list[str] | None) -> None:
    if hosts is not None and not (hosts and all(map(_is_loopback, hosts))):
        raise InputError.of(
            "--address",
            f"{address}, where everybody who reaches it can run code",
            "a cluster that asks for a token, or one whose nodes are all on 127.0.0.1",
            "start every node of it with RAY_AUTH_MODE=token and the same ~/.ray/auth_token "
            "(ray get-auth-token --generate makes one); or, where its network is closed to "
            "strangers, pass --allow-open-cluster",
        )


def cluster_place(address: str) -> re.Match[str]:
    """Host and port of a cluster. Raises: `InputError` if the address is none that we know."""
    if WEB.fullmatch(address):
        raise no_cluster(
            address, ValueError("neither auto nor host:port but a dashboard, which --detach takes")
        )
    try:
        found = canonicalize_bootstrap_address(address) if address == "auto" else address
    except (ConnectionError, ValueError) as error:
        raise no_cluster(address, error) from error
    place = PLACE.fullmatch(str(found))
    if place is None:
        raise no_cluster(address, ValueError("neither auto nor host:port nor ray://host:port"))
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
            raise no_cluster(address, ConnectionError(error.details())) from error
    nodes = [] if client else GetAllNodeInfoReply.FromString(answer).node_info_list
    return [node.node_manager_address for node in nodes if node.state == node.ALIVE]


def _hosts_shown_to_strangers(url: str) -> list[str] | None:
    """The hosts of the cluster's nodes as its dashboard shows them; None if it asks for a token.

    Raises: `InputError` if no dashboard answers.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url.rstrip("/") + PAGE, timeout=REACH_S) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
            return [node["node_ip"] for node in nodes if node["state"] == "ALIVE"]
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return None
        raise no_cluster(url, error) from error
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise no_cluster(url, error) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
