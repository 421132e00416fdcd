"""Who can be killed, who was, and what was open then."""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.storm.cluster import Raylets, Worker, signal_process
from tests.storm.journal import Attempt, Journal, Step

Kind = Literal["worker", "driver", "raylet", "zombie", "stray"]
"""`stray` is a raylet that ended without our doing: this machine was too busy for its heartbeat."""


@dataclass(frozen=True)
class Death:
    """A worker's end (or standstill), or that of several at once with what they hung on."""

    kind: Kind
    moment_s: float
    slots: frozenset[str] = frozenset()
    driver: str | None = None
    raylet: int | None = None


class Victims:
    """The workers that the store has heard of, as processes; all deaths, and who died of which."""

    def __init__(self, cluster: Raylets, journal: Journal) -> None:
        self._cluster = cluster
        self._journal = journal
        self.workers: dict[str, Worker] = {}
        self.with_torch: set[str] = set()
        self.deaths: list[Death] = []
        self._died_of: dict[str, Death] = {}
        journal.on_slot = self._meet

    def at_work(self) -> list[tuple[Worker, Attempt]]:
        """Workers of living raylets that have an open shard, with their attempts at it."""
        with self._journal.news:
            newest = {slot: made[-1] for slot, made in self._journal.by_slot.items() if made}
        return [
            (self.workers[slot], attempt)
            for slot, attempt in newest.items()
            if attempt.won_s is None and attempt.lost_s is None and self._killable(slot)
        ]

    def catch(
        self, step: Step, strike: Callable[[Worker], bool]
    ) -> Callable[[], tuple[Worker, Attempt, float] | None]:
        """Strike the next worker that takes `step`, before the wire carries it any further.

        What is returned tells who it was and when, once there was one.
        """
        caught: list[tuple[Worker, Attempt, float]] = []

        def trap(taken: Step, attempt: Attempt) -> None:
            if caught or taken != step or not self._killable(attempt.slot):
                return
            moment_s = time.monotonic()
            if strike(self.workers[attempt.slot]):
                caught.append((self.workers[attempt.slot], attempt, moment_s))

        with self._journal.news:
            self._journal.trap = trap
        return lambda: caught[0] if caught else None

    def suspend(self, slot: str) -> None:
        """SIGSTOP a worker, if it is still there."""
        if slot in self.workers:
            signal_process(self.workers[slot].process, signal.SIGSTOP)

    def resume(self, slot: str) -> None:
        """SIGCONT a worker, if it is still there."""
        if slot in self.workers:
            signal_process(self.workers[slot].process, signal.SIGCONT)

    def record(self, death: Death) -> None:
        """Add a death. Each worker dies once: of the first that hits it."""
        with self._journal.news:
            self.deaths.append(death)
            for slot in self._journal.by_slot:
                self._let_die(slot, death)

    def open_at_deaths(self) -> dict[str, Counter[int]]:
        """Of each run, how often each shard was open at a death."""
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for slot, death in self._died_of.items():
            run = self._journal.by_slot[slot][0].run
            counts[run].update(self._journal.open_at(slot, death.moment_s))
        return counts

    def _killable(self, slot: str) -> bool:
        worker = self.workers.get(slot)
        alive = worker is not None and worker.raylet in self._cluster.alive
        return alive and slot not in self._died_of

    def _let_die(self, slot: str, death: Death) -> None:
        worker = self.workers.get(slot)
        if (
            slot in death.slots
            or (death.driver is not None and slot.startswith(death.driver))
            or (worker is not None and worker.raylet == death.raylet)
        ):
            self._died_of.setdefault(slot, death)

    def _meet(self, slot: str, port: int) -> None:
        """Find the process of a worker while its first note waits to be handed on.

        It may speak its first when its raylet or its driver is dead already.
        """
        for worker in self._cluster.workers():
            if port in worker.ports():
                self.workers[slot] = worker
                if worker.maps_torch():
                    self.with_torch.add(slot)
                break
        for death in self.deaths:
            self._let_die(slot, death)
