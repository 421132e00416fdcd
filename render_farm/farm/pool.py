"""What the driver's loop needs of its workers, wherever they run, and the pool in this process."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from render_farm.errors import RenderFarmError
from render_farm.farm.messages import Answer, Assignment, WorkerOptions
from render_farm.farm.overlap import OverlappedWorker
from render_farm.farm.worker import SamplerBuilder

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Placed:
    """The worker's process has started on a node, and opens the run."""

    worker: str
    node: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has opened the run and loaded the model, which took `load_s` seconds."""

    worker: str
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The worker cannot start, and knows why."""

    worker: str
    error: RenderFarmError


@dataclass(frozen=True, slots=True)
class Answered:
    """The worker has answered its assignment."""

    worker: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker's process has ended, or nothing is known of it any more.

    `with_node` if its whole node went: no row did that.
    """

    worker: str
    error: str
    with_node: bool = False


@dataclass(frozen=True, slots=True)
class Draining:
    """The node will go soon, and all workers on it; told once."""

    node: str


PoolEvent = Placed | Ready | Refusal | Answered | Lost | Draining


class Pool(Protocol):
    """Workers by name. Every call returns at once but `poll`."""

    @property
    def separate(self) -> bool:
        """Whether workers are processes of their own, which can be ended whatever they do."""
        ...

    def start(self, options: WorkerOptions) -> None:
        """Start a worker; `Placed` and then `Ready`, `Refusal` or `Lost` follows.

        Where there are no nodes to tell apart `Placed` is left out.
        """
        ...

    def assign(self, worker: str, assignment: Assignment) -> None:
        """Hand a shard to a worker that is ready; `Answered` or `Lost` follows.

        A worker takes several: it reads the next ones ahead and writes the last ones meanwhile,
        and answers them in whatever order they end.
        """
        ...

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        """Ask a worker to give a shard back; its answer follows all the same.

        It is `ShardGivenBack`, unless the attempt was faster. `unless_begun` leaves a shard of
        which anything was rendered to be ended.
        """
        ...

    def stop(self) -> None:
        """Ask all workers to end after the batch in hand."""
        ...

    def discard(self, worker: str) -> None:
        """End a worker; nothing follows."""
        ...

    def avoid(self, nodes: Set[str]) -> None:
        """Start no workers on these nodes from now on."""
        ...

    def room(self) -> int:
        """How many workers more there would be room for, besides those that were started."""
        ...

    def want(self, workers: int) -> None:
        """Ask whoever adds nodes for room for so many workers in all."""
        ...

    def poll(self, timeout_s: float) -> Iterable[PoolEvent]:
        """What happened since the last call; waits for the first event at most `timeout_s`.

        Never of a worker that was discarded, be it while the events before were handled.
        """
        ...

    def close(self) -> None:
        """End every worker."""
        ...


def drained(waiting: queue.SimpleQueue[Item], timeout_s: float) -> list[Item]:
    """All that waits; none if nothing comes for `timeout_s`."""
    try:
        items = [waiting.get(timeout=timeout_s)]
    except queue.Empty:
        return []
    while not waiting.empty():
        items.append(waiting.get())
    return items


class LocalPool:
    """Workers in this process."""

    separate = False

    def __init__(self, build: SamplerBuilder) -> None:
        self._build = build
        self._workers: dict[str, OverlappedWorker] = {}
        self._dead: list[OverlappedWorker] = []
        self._events: queue.SimpleQueue[PoolEvent] = queue.SimpleQueue()
        self._opening = ThreadPoolExecutor(1, thread_name_prefix="open")

    def start(self, options: WorkerOptions) -> None:
        self._opening.submit(self._open, options)

    def assign(self, worker: str, assignment: Assignment) -> None:
        answer = self._workers[worker].submit(assignment)
        answer.add_done_callback(partial(self._ended, worker))

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        self._workers[worker].abandon(shard, unless_begun=unless_begun)

    def stop(self) -> None:
        for worker in list(self._workers.values()):
            worker.stop()

    def discard(self, worker: str) -> None:
        discarded = self._workers.pop(worker, None)
        if discarded is not None:
            discarded.close()

    def avoid(self, nodes: Set[str]) -> None:
        """There is one node, and it is never left out."""

    def room(self) -> int:
        return 0

    def want(self, workers: int) -> None:
        """Nobody adds to this process."""

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        return drained(self._events, timeout_s)

    def close(self) -> None:
        self.stop()
        self._opening.shutdown(cancel_futures=True)
        for worker in list(self._workers):
            self.discard(worker)
        for dead in self._dead:
            dead.close()

    def _open(self, options: WorkerOptions) -> None:
        name = options.worker
        began_s = time.monotonic()
        try:
            self._workers[name] = OverlappedWorker.open(options, self._build)
        except RenderFarmError as error:
            self._events.put(Refusal(name, error))
        except Exception as error:  # noqa: BLE001 - a thread's errors would be lost
            self._events.put(Lost(name, f"{type(error).__name__}: {error}"))
        else:
            self._events.put(Ready(name, time.monotonic() - began_s))

    def _ended(self, worker: str, answer: Future[Answer]) -> None:
        error = answer.exception()
        if error is None:
            self._events.put(Answered(worker, answer.result()))
        elif (lost := self._workers.pop(worker, None)) is not None:
            # Once, whatever it had in hand. This may be one of its own threads: it is closed later.
            self._dead.append(lost)
            self._events.put(Lost(worker, f"{type(error).__name__}: {error}"))
