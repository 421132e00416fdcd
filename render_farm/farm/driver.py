"""Workers as Ray actors. Of this program only this module and `cluster` import Ray.

One actor is one worker. Two messages cross a shard: the assignment and the answer; pixels never
do. Actors are not restarted by Ray and their calls are not repeated by it: what to do after a
death is the scheduler's decision, and that an old actor may still be alive somewhere is the
ledger's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Set
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from render_farm.farm.actor import WorkerActor
from render_farm.farm.cluster import Resources
from render_farm.farm.messages import Assignment, WorkerOptions
from render_farm.farm.pool import Answered, Lost, Placed, PoolEvent, Ready, Refusal
from render_farm.farm.worker import SamplerBuilder

log = logging.getLogger(__name__)

NODE_ID = "ray.io/node-id"

_Kind = Literal["where", "open", "run"]


class RayPool:
    """Actors by name; an event for each of their calls that has ended."""

    separate = True

    def __init__(self, resources: Resources, builder: SamplerBuilder) -> None:
        self._builder = f"{builder.__module__}:{builder.__qualname__}"
        self._actor_class: Any = ray.remote(WorkerActor)
        self._actor_options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,
        }
        self._avoided: Set[str] = frozenset()
        self._actors: dict[str, Any] = {}
        self._node_of: dict[str, str] = {}
        self._calls: dict[Any, tuple[str, _Kind]] = {}

    def start(self, options: WorkerOptions) -> None:
        elsewhere = {NODE_ID: f"!in({','.join(sorted(self._avoided))})"} if self._avoided else {}
        options_here = {**self._actor_options, "label_selector": elsewhere}
        actor = self._actor_class.options(**options_here).remote(self._builder)
        self._actors[options.worker] = actor
        self._calls[actor.where.remote()] = (options.worker, "where")
        self._calls[actor.open.remote(options)] = (options.worker, "open")

    def assign(self, worker: str, assignment: Assignment) -> None:
        self._calls[self._actors[worker].run.remote(assignment)] = (worker, "run")

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        self._actors[worker].abandon.remote(shard, unless_begun=unless_begun)

    def stop(self) -> None:
        for actor in self._actors.values():
            actor.stop.remote()

    def discard(self, worker: str) -> None:
        actor = self._actors.pop(worker, None)
        self._node_of.pop(worker, None)
        self._calls = {call: owner for call, owner in self._calls.items() if owner[0] != worker}
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def avoid(self, nodes: Set[str]) -> None:
        self._avoided = nodes

    def poll(self, timeout_s: float) -> Iterator[PoolEvent]:
        if not self._calls:
            time.sleep(timeout_s)
            return
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        if done and len(self._calls) > 1:
            done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        for call in done:
            if call in self._calls:  # handling one event may discard the worker of another
                yield self._event(call)

    def close(self) -> None:
        for worker in list(self._actors):
            self.discard(worker)

    def _event(self, call: Any) -> PoolEvent:
        """What a finished call means. A call whose end is not known loses its worker for good."""
        worker, kind = self._calls.pop(call)
        try:
            result = ray.get(call)
        except RayTaskError as error:
            cause = error.cause or error
            lost = Lost(worker, f"{type(cause).__name__}: {cause}")
        except RayError as error:
            lost = Lost(worker, _told(error), with_node=not self._node_lives(worker))
        else:
            match kind:
                case "where":
                    self._node_of[worker] = result
                    return Placed(worker, result)
                case "run":
                    return Answered(worker, result)
                case "open":
                    return Ready(worker) if result is None else Refusal(worker, result)
        self.discard(worker)
        return lost

    def _node_lives(self, worker: str) -> bool:
        """Whether the worker's node is there still, as far as its cluster has noticed."""
        node = self._node_of.get(worker)
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return node is None or any(each["NodeID"] == node and each["Alive"] for each in nodes)


def _told(error: RayError) -> str:
    """What Ray says of a loss: the reason stands below lines of names, which are indented."""
    lines = (line for line in str(error).splitlines() if line and not line[0].isspace())
    return f"{type(error).__name__}: {' '.join(lines)}"
