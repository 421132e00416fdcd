"""The storm: runs under way on one cluster while workers, drivers and raylets are killed.

Which kills there are and in what order comes from a seed; whom they hit is whoever is at work.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.storm.cluster import Worker, signal_process
from tests.storm.field import RAYLETS, Field
from tests.storm.journal import Attempt, Step
from tests.storm.runs import Driver, Run, write_run
from tests.storm.victims import Death, Kind, Victims
from tests.storm.zombies import Zombie

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 300.0
STEPS: tuple[Step, ...] = ("noted", "noted", "uploads", "commits", "committed")
"""Where workers are killed: while they render, at their uploads, with the receipt sent and its
answer unheard, with the shard closed and the driver not told."""
RENDERING_S = 0.4
PAUSE_S = 0.3
SPARE_ZOMBIES = 3


@dataclass(frozen=True)
class Plan:
    """How many of each kind there are to be, in runs of which size."""

    workers: int
    drivers: int
    raylets: int
    zombies: int
    shards: int
    rows: int = 32
    lanes: int = 2
    seed: int = 4

    def kinds(self) -> list[Kind]:
        kinds: list[Kind] = [
            *["worker"] * self.workers,
            *["driver"] * self.drivers,
            *["raylet"] * self.raylets,
            *["zombie"] * self.zombies,
        ]
        random.Random(self.seed).shuffle(kinds)
        return kinds


@dataclass
class Lane:
    """One run after another, each driven until it is complete."""

    driver: Driver
    runs: list[Run] = field(default_factory=list)


class Storm:
    """Carries a plan out. Everything that it kills it kills by process id."""

    def __init__(self, field: Field, name: str, plan: Plan, **sections: Any) -> None:
        self.victims = Victims(field.cluster, field.journal)
        self.zombies: list[Zombie] = []
        self.steps: Counter[str] = Counter()
        self.stops: list[str] = []
        self.seconds = 0.0
        self._name = name
        self._cluster = field.cluster
        self._journal = field.journal
        self._farm = field.farm
        self._plan = plan
        self._sections = sections
        self._random = random.Random(plan.seed + 1)
        self._more = True
        self._lanes: list[Lane] = []
        self._count = 0

    @property
    def runs(self) -> list[Run]:
        return [run for lane in self._lanes for run in lane.runs]

    def rage(self) -> None:
        """Start the runs, kill as planned, and see every run to its end."""
        began_s = time.monotonic()
        for _ in range(self._plan.lanes):
            run = self._next_run()
            self._lanes.append(Lane(Driver(self._farm, run), [run]))
        strike: dict[Kind, Callable[[], None]] = {
            "worker": self._kill_worker,
            "driver": self._kill_driver,
            "raylet": self._kill_raylet,
            "zombie": self._make_zombie,
        }
        for kind in self._plan.kinds():
            strike[kind]()
            self._tend()
        self._bury_zombies()
        self._more = False
        self._wait("zombies' ends", lambda: all(z.done for z in self.zombies) or None)
        self._wait("the runs' ends", lambda: not self._lanes_open() or None)
        self.seconds = time.monotonic() - began_s

    def _bury_zombies(self) -> None:
        """See every zombie to its end; if none of them got to write, have another."""
        for _ in range(SPARE_ZOMBIES if self.zombies else 0):
            self._more = False
            self._wait("zombies' ends", lambda: all(z.done for z in self.zombies) or None)
            if any(zombie.wrote_too_late for zombie in self.zombies):
                return
            self._more = True
            self._tend()
            self._make_zombie()

    def stop(self) -> None:
        """End whatever is still under way, after a failure."""
        for zombie in self.zombies:
            zombie.free()
        for lane in self._lanes:
            if lane.driver.process.poll() is None:
                lane.driver.kill()

    def _kill_worker(self) -> None:
        step = self._random.choice(STEPS)
        delay_s = self._random.uniform(0, RENDERING_S) if step == "noted" else 0.0
        strike = (lambda worker: True) if delay_s else _kill
        caught = self.victims.catch(step, strike)
        worker, attempt, moment_s = self._wait(f"a worker that {step}", caught)
        if delay_s:
            time.sleep(delay_s)
            moment_s = time.monotonic()
            if not _kill(worker):  # it ended with its raylet, in these few tenths of a second
                self._kill_worker()
                return
        self._record(Death("worker", moment_s, slots=frozenset({attempt.slot})))
        self.steps[step] += 1

    def _kill_driver(self) -> None:
        def busy() -> Lane | None:
            slots = [attempt.slot for _, attempt in self.victims.at_work()]
            lanes = [
                lane
                for lane in self._lanes
                if lane.driver.process.poll() is None
                and any(slot.startswith(lane.driver.slots) for slot in slots)
            ]
            return self._random.choice(lanes) if lanes else None

        lane = self._wait("a driver with a shard open", busy)
        moment_s = time.monotonic()
        lane.driver.kill()
        self._record(Death("driver", moment_s, driver=lane.driver.slots))

    def _kill_raylet(self) -> None:
        worker, _ = self._wait("a raylet with a shard open", self._someone_at_work)
        moment_s = time.monotonic()
        self._cluster.kill(worker.raylet)
        self._record(Death("raylet", moment_s, raylet=worker.raylet))

    def _make_zombie(self) -> None:
        """Stop a worker that has just begun, then its raylet and what else hangs on it."""
        caught = self.victims.catch("noted", _stop)
        worker, attempt, moment_s = self._wait("a worker to make a zombie of", caught)
        self.zombies.append(Zombie(self._cluster, self._journal, worker, attempt))
        self._record(Death("zombie", moment_s, raylet=worker.raylet))

    def _someone_at_work(self) -> tuple[Worker, Attempt] | None:
        found = self.victims.at_work()
        return self._random.choice(found) if found else None

    def _record(self, death: Death) -> None:
        self.victims.record(death)
        log.info("%s", death)

    def _tend(self) -> None:
        """Keep the cluster and the lanes going: what fell is set up again."""
        now = time.monotonic()
        for raylet in self._cluster.forget_dead():
            self._record(Death("stray", now - PAUSE_S, raylet=raylet))
        self._cluster.fill(RAYLETS)
        for zombie in self.zombies:
            zombie.tend()
        for lane in self._lanes:
            self._tend_lane(lane)

    def _tend_lane(self, lane: Lane) -> None:
        code = lane.driver.process.poll()
        if code is None or (code in (0, 3) and not self._more):
            return
        run = lane.runs[-1]
        log.info("driver of %s ended with %d", run.name, code)
        run.codes.append(code)
        assert code in (0, 3, 4, -9), f"{run.name} ended with {code}:\n{lane.driver.log()}"
        if code == 4:
            self.stops.append(lane.driver.log())
        if code in (0, 3):
            run = self._next_run()
            lane.runs.append(run)
        lane.driver = Driver(
            self._farm, run, by_uri=bool(run.codes) and self._random.random() < 0.5
        )

    def _lanes_open(self) -> bool:
        return any(lane.driver.process.poll() not in (0, 3) for lane in self._lanes)

    def _next_run(self) -> Run:
        self._count += 1
        name = f"{self._name}-{self._count}"
        return write_run(self._farm, name, self._plan.shards, self._plan.rows, **self._sections)

    def _wait(self, what: str, found: Callable[[], T | None]) -> T:
        """Wait for something to happen on the wire or among the processes."""
        deadline = time.monotonic() + PATIENCE_S
        while (result := found()) is None:
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self._logs()}"
            with self._journal.news:
                self._journal.news.wait(PAUSE_S)
            self._tend()
        return result

    def _logs(self) -> str:
        return "\n\n".join(lane.driver.log() for lane in self._lanes)


def _kill(worker: Worker) -> bool:
    return signal_process(worker.process, signal.SIGKILL)


def _stop(worker: Worker) -> bool:
    return signal_process(worker.process, signal.SIGSTOP)
