"""Workers as Ray actors. This is the only module that imports Ray.

One actor is one worker. Two messages cross a shard: the assignment and the answer; pixels never
do. Actors are not restarted by Ray and their calls are not repeated by it: what to do after a
death is the scheduler's decision, and that an old actor may still be alive somewhere is the
ledger's business.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from render_farm.errors import DeviceLost, InputError, RenderFarmError
from render_farm.farm.messages import Answer, Assignment, WorkerOptions
from render_farm.farm.pool import Answered, Lost, PoolEvent, Ready, Refusal
from render_farm.farm.worker import SamplerBuilder, ShardWorker
from render_farm.job.spec import WorkersSpec

log = logging.getLogger(__name__)

DEVICE_LOST_STATUS = 70
REACH_S = 10.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What each worker reserves of its node, and how many workers there are to be."""

    count: int
    cpus: int
    gpus: float


class _Worker:
    """The actor: a `ShardWorker` in a process of its own."""

    def __init__(self, builder: str) -> None:
        self._builder = builder
        self._worker: ShardWorker | None = None

    def open(self, options: WorkerOptions) -> RenderFarmError | None:
        """Open the run; the error, if one is the user's to mend."""
        try:
            self._worker = ShardWorker.open(options, _load(self._builder))
        except RenderFarmError as error:
            return error
        return None

    def run(self, assignment: Assignment) -> Answer:
        """Render one shard. A device in an unknown state ends the process."""
        assert self._worker is not None
        try:
            return self._worker.run(assignment)
        except DeviceLost:
            log.exception("the device is lost, the process ends")
            os._exit(DEVICE_LOST_STATUS)

    def stop(self) -> None:
        """End after the batch in hand; runs beside `run` in a thread of its own."""
        if self._worker is not None:
            self._worker.stop()


class RayPool:
    """Actors by name; an event for each of their calls that has ended."""

    def __init__(self, resources: Resources, builder: SamplerBuilder) -> None:
        self._builder = f"{builder.__module__}:{builder.__qualname__}"
        self._actor_class: Any = ray.remote(_Worker).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
        )
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, tuple[str, Literal["open", "run"]]] = {}

    def start(self, options: WorkerOptions) -> None:
        actor = self._actor_class.remote(self._builder)
        self._actors[options.worker] = actor
        self._calls[actor.open.remote(options)] = (options.worker, "open")

    def assign(self, worker: str, assignment: Assignment) -> None:
        self._calls[self._actors[worker].run.remote(assignment)] = (worker, "run")

    def stop(self) -> None:
        for actor in self._actors.values():
            actor.stop.remote()

    def discard(self, worker: str) -> None:
        actor = self._actors.pop(worker, None)
        self._calls = {call: owner for call, owner in self._calls.items() if owner[0] != worker}
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        if not self._calls:
            time.sleep(timeout_s)
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        if done and len(self._calls) > 1:
            done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        return [self._event(call) for call in done]

    def close(self) -> None:
        for worker in list(self._actors):
            self.discard(worker)

    def _event(self, call: Any) -> PoolEvent:
        """What a finished call means. A call whose end is not known loses its worker for good."""
        worker, kind = self._calls.pop(call)
        try:
            result = ray.get(call)
        except RayTaskError as error:
            lost = Lost(worker, str(error.cause or error))
        except RayError as error:
            lost = Lost(worker, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        else:
            if kind == "run":
                return Answered(worker, result)
            return Ready(worker) if result is None else Refusal(worker, result)
        self.discard(worker)
        return lost


def connect(address: str | None, workers: WorkersSpec) -> Resources:
    """Join the cluster at `address`, or start one on this machine, and size the workers.

    A cluster of our own gets as many logical CPUs as the job's workers ask for, so that a worker
    is never waited for in vain; how many threads each uses is `workers.cpus`.

    Raises:
        InputError: there is no cluster at the address, or it cannot hold one worker.
    """
    if address is None:
        count = workers.count if workers.count != "auto" else 1
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, count * workers.cpus),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
        )
    else:
        _check_reachable(address)
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, error) from error
    return size_workers(workers, _nodes(), growing=address is not None)


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


def _load(builder: str) -> Callable[..., Any]:
    """The sampler builder by its name: the worker's own copy, not one shipped by pickle."""
    module, _, name = builder.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded
