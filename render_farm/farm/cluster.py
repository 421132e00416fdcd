"""Joining a Ray cluster, or starting one on this machine, and what its nodes can hold."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError

from render_farm.errors import InputError, first_line
from render_farm.farm.auth_token import keep_token_private
from render_farm.farm.code_on_nodes import shipped_code
from render_farm.farm.sizing import Resources, size_workers
from render_farm.job.spec import WorkersSpec

REACH_S = 10.0
OWN = (None, "local")

_VERSIONS = r"Ray: (\S+)\s+Python: (\S+)"
MISMATCH = re.compile(rf"Version mismatch: .*?{_VERSIONS}.*?{_VERSIONS}", re.DOTALL)
"""What Ray says of a cluster that another Ray or another Python has started."""


def connect(address: str | None, workers: WorkersSpec, *, ship_code: bool = False) -> Resources:
    """Join the cluster at `address`, or start one on this machine, and size the workers.

    A cluster of our own asks for a token, listens on the loopback alone, and gets as many logical
    CPUs and resources as the job's workers ask for, so that a worker is never waited for in vain;
    how many threads each uses is `workers.cpus`. Another is joined as it is: see `open_cluster`;
    its nodes have this program, or get it with `ship_code`.

    Raises:
        InputError: there is no cluster at the address, it is of another version, or it cannot hold
            one worker.
    """
    if address in OWN:
        count = workers.count if workers.count != "auto" else 1
        custom = {name: count * amount for name, amount in workers.resources.items()}
        _start(max(os.cpu_count() or 1, count * workers.cpus), custom)
    else:
        _join(str(address), shipped_code() if ship_code else None)
    return size_workers(workers, _nodes(), growing=address not in OWN)


def _start(cpus: int, custom: Mapping[str, float]) -> None:
    keep_token_private(os.environ)
    try:
        with _kept_to_loopback(), _unannounced_token():
            ray.init(
                address="local",
                num_cpus=cpus,
                resources=dict(custom),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
            )
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise InputError.of(
            "--address",
            f"none, and Ray does not start here ({first_line(error)})",
            "a machine on which Ray starts, or the address of a cluster",
            "see to what it says; or render in this process with --local",
        ) from error


@contextmanager
def _unannounced_token() -> Iterator[None]:
    """Keep Ray from warning that its cluster asks for a token, which is what we want of it.

    Setting ``RAY_AUTH_MODE`` ourselves would silence it, too; but a Ray that was imported before
    has read the variable, and would then take part in its own cluster without the token.
    """
    announcer = logging.getLogger("ray._private.authentication.authentication_token_setup")
    before = announcer.level
    announcer.setLevel(logging.ERROR)
    try:
        yield
    finally:
        announcer.setLevel(before)


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


def _join(address: str, runtime_env: dict[str, Any] | None) -> None:
    _check_reachable(address)
    try:
        with _kept_to_loopback() if _only_on_loopback(address) else nullcontext():
            ray.init(
                address=address,
                runtime_env=runtime_env,
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=False,
            )
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise no_cluster(address, error) from error


def _only_on_loopback(address: str) -> bool:
    """Whether a head answers on 127.0.0.1 and not where Ray would look for it instead."""
    host, _, port = address.rpartition(":")
    if host not in {"127.0.0.1", "localhost"} or not port.isdecimal():
        return False
    others = canonicalize_bootstrap_address(address)
    try:
        _check_reachable(str(others))
    except InputError:
        return True
    return False


def _nodes() -> list[Mapping[str, float]]:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _check_reachable(address: str) -> None:
    """Find a mistyped address out in seconds: Ray itself goes on trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
        except (OSError, ValueError) as error:
            raise no_cluster(address, error) from error


def no_cluster(address: str, error: Exception) -> InputError:
    """There is none at the address, or it cannot be joined."""
    versions = MISMATCH.search(str(error))
    if versions is not None:
        theirs, ours = versions.groups()[:2], versions.groups()[2:]
        return InputError.of(
            "--address",
            f"{address}, of Ray {theirs[0]} on Python {theirs[1]}",
            f"a cluster of Ray {ours[0]} on Python {ours[1]}, as here",
            "use the same Ray and the same Python X.Y here and on every node",
        )
    return InputError.of(
        "--address",
        f"{address} ({first_line(error)})",
        "the address of a running Ray cluster, or auto",
        "start one with ray start --head, or leave --address out; where the cluster asks for a "
        "token, set RAY_AUTH_MODE=token",
    )


def disconnect() -> None:
    """Leave the cluster; one of our own ends with it."""
    ray.shutdown()
