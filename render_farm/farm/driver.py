"""Workers as Ray actors.

One actor is one worker. Two messages cross a shard: the assignment and the answer; pixels never
do. Actors are not restarted by Ray and their calls are not repeated by it: what to do after a
death is the scheduler's decision, and that an old actor may still be alive somewhere is the
ledger's business.
"""

from __future__ import annotations

import logging
import queue
import re
import socket
from collections.abc import Iterator, Set
from concurrent.futures import Future
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from render_farm import __version__
from render_farm.errors import InputError, RenderFarmError
from render_farm.farm.actor import WorkerActor
from render_farm.farm.code_on_nodes import version_refusal
from render_farm.farm.elastic import Elastic
from render_farm.farm.messages import Assignment, WorkerOptions
from render_farm.farm.pool import (
    Answered,
    Draining,
    Lost,
    Placed,
    PoolEvent,
    Ready,
    Refusal,
    drained,
)
from render_farm.farm.sizing import Resources
from render_farm.farm.worker import SamplerBuilder

log = logging.getLogger(__name__)

NODE_ID = "ray.io/node-id"

# What Ray says of an actor whose class cannot be imported where it is to start.
NO_CODE = re.compile(r"ip=(?P<host>[^,)\s]+).*failed to import on the worker", re.DOTALL)

REACH_S = 3.0

CONTROL_CALLS = 2
"""Threads of an actor for what comes beside its shards: to stop, and to abandon one."""

_Kind = Literal["where", "open", "run"]
_Call = tuple[str, _Kind, "Future[Any]"]


class RayPool:
    """Actors by name; an event for each of their calls that has ended.

    Ray calls back when a call ends, so that waiting for one costs the same however many there are:
    `ray.wait` looks at every one, each time.
    """

    separate = True

    def __init__(self, resources: Resources, builder: SamplerBuilder) -> None:
        self._builder = f"{builder.__module__}:{builder.__qualname__}"
        self._actor_class: Any = ray.remote(WorkerActor)
        self._actor_options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "resources": dict(resources.custom),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        self._elastic = Elastic(resources.bundle)
        self._avoided: Set[str] = frozenset()
        self._actors: dict[str, Any] = {}
        self._node_of: dict[str, str] = {}
        self._unopened: dict[str, WorkerOptions] = {}
        self._ended: queue.SimpleQueue[_Call] = queue.SimpleQueue()

    def start(self, options: WorkerOptions) -> None:
        elsewhere = {NODE_ID: f"!in({','.join(sorted(self._avoided))})"} if self._avoided else {}
        actor = self._actor_class.options(
            **self._actor_options,
            label_selector=elsewhere,
            max_concurrency=options.open_shards + CONTROL_CALLS,
        ).remote(self._builder)
        self._actors[options.worker] = actor
        self._expect(options.worker, "where", actor.where.remote())
        self._unopened[options.worker] = options  # until it has said which version it is of

    def assign(self, worker: str, assignment: Assignment) -> None:
        self._expect(worker, "run", self._actors[worker].run.remote(assignment))

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        self._actors[worker].abandon.remote(shard, unless_begun=unless_begun)

    def stop(self) -> None:
        for actor in self._actors.values():
            actor.stop.remote()

    def discard(self, worker: str) -> None:
        actor = self._actors.pop(worker, None)
        self._node_of.pop(worker, None)
        self._unopened.pop(worker, None)
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def avoid(self, nodes: Set[str]) -> None:
        self._avoided = nodes

    def room(self) -> int:
        return self._elastic.room(self._avoided, len(self._actors) - len(self._node_of))

    def want(self, workers: int) -> None:
        self._elastic.want(workers)

    def poll(self, timeout_s: float) -> Iterator[PoolEvent]:
        for node in self._elastic.draining():
            yield Draining(node)
        for worker, kind, answer in drained(self._ended, timeout_s):
            if worker in self._actors:  # handling one event may discard the worker of another
                yield self._event(worker, kind, answer)

    def close(self) -> None:
        self._elastic.want(0)
        for worker in list(self._actors):
            self.discard(worker)

    def _expect(self, worker: str, kind: _Kind, call: Any) -> None:
        answer: Future[Any] = call.future()
        answer.add_done_callback(lambda ended: self._ended.put((worker, kind, ended)))

    def _event(self, worker: str, kind: _Kind, answer: Future[Any]) -> PoolEvent:
        """What a finished call means. A call whose end is not known loses its worker for good."""
        try:
            result = answer.result()
        except RayTaskError as error:
            cause = error.cause or error
            lost = Lost(worker, f"{type(cause).__name__}: {cause}")
        except RayError as error:
            refusal = _no_code(error)
            if refusal is not None:
                self.discard(worker)
                return Refusal(worker, refusal)
            lost = Lost(worker, _told(error), with_node=not self._node_lives(worker))
        else:
            match kind:
                case "where":
                    return self._placed(worker, result)
                case "run":
                    return Answered(worker, result)
                case "open":
                    if isinstance(result, RenderFarmError):
                        return Refusal(worker, result)
                    return Ready(worker, result)
        self.discard(worker)
        return lost

    def _placed(self, worker: str, told: tuple[str, str] | str) -> Placed:
        """Let the worker open the run if it is of our version; else its refusal is its answer."""
        node, version = (told, None) if isinstance(told, str) else told
        self._node_of[worker] = node
        options = self._unopened.pop(worker)
        known = _node(node)
        host = node if known is None else str(known["NodeManagerAddress"])
        refusal = version_refusal(__version__, version, host)
        if refusal is None:
            self._expect(worker, "open", self._actors[worker].open.remote(options))
        else:
            answer: Future[RenderFarmError] = Future()
            answer.set_result(refusal)
            self._ended.put((worker, "open", answer))
        return Placed(worker, node)

    def _node_lives(self, worker: str) -> bool:
        """Whether the worker's node is there still.

        Its cluster takes half a minute to notice that it is not; that nobody answers shows at once.
        What was in flight on a node that is gone is no suspect: a suspect costs a batch of its own.
        """
        if (name := self._node_of.get(worker)) is None:
            return True
        node = _node(name)
        if node is None or not node["Alive"]:
            return False
        return _answers(node["NodeManagerAddress"], node["NodeManagerPort"])


def _node(name: str) -> dict[str, Any] | None:
    """What the cluster knows of one of its nodes."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return next((node for node in nodes if node["NodeID"] == name), None)


def _no_code(error: RayError) -> InputError | None:
    """The refusal of a worker whose node lacks this program, or a part that it has here."""
    found = NO_CODE.search(str(error))
    return version_refusal(__version__, None, found["host"]) if found else None


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError:
        return False
    return True


def _told(error: RayError) -> str:
    """What Ray says of a loss: the reason stands below lines of names, which are indented."""
    lines = (line for line in str(error).splitlines() if line and not line[0].isspace())
    return f"{type(error).__name__}: {' '.join(lines)}"
