"""Two drivers on one run from the start, neither of which knows of the other."""

from __future__ import annotations

import time
from typing import Any

from tests.storm.field import Field
from tests.storm.journal import Attempt, Step
from tests.storm.runs import Driver, write_run
from tests.storm.victims import Victims

GATE_S = 60.0
PATIENCE_S = 600.0
POLL_S = 0.05


class Race:
    """A run that two drivers submitted at the same moment.

    Whichever worker comes first stands still in its first shard until the other driver's has come
    too, so that they really run side by side, however long this machine took to start them.
    """

    def __init__(self, field: Field, name: str, shards: int, rows: int, **sections: Any) -> None:
        self.run = write_run(field.farm, name, shards, rows, **sections)
        self._farm = field.farm
        self._journal = field.journal
        self._drivers = [Driver(field.farm, self.run) for _ in range(2)]
        self._began_s = time.monotonic()
        self._waiting: dict[str, Attempt] = {}

    def take(self, step: Step, attempt: Attempt, victims: Victims) -> None:
        """An attempt has taken a step: the gate, on the wire."""
        if step != "noted" or attempt.run != self.run.key or len(self._waiting) > 1:
            return
        driver = attempt.slot.rpartition("-")[0]
        if driver in self._waiting:
            return
        self._waiting[driver] = attempt
        if len(self._waiting) == 1:
            victims.suspend(attempt.slot)
        else:
            self.open_gate(victims)

    def open_gate(self, victims: Victims) -> None:
        for attempt in self._waiting.values():
            victims.resume(attempt.slot)

    def finished(self, victims: Victims) -> bool:
        """Whether both drivers have ended; a gate at which nobody else will come is opened."""
        ended = [driver.process.poll() is not None for driver in self._drivers]
        if any(ended) or time.monotonic() - self._began_s > GATE_S:
            self.open_gate(victims)
        return all(ended)

    def conclude(self) -> None:
        """Both may have been told that the other took over: then it is resumed, as users would."""
        logs = "\n\n".join(driver.log() for driver in self._drivers)
        self.run.codes.extend(driver.process.returncode for driver in self._drivers)
        assert set(self.run.codes) <= {0, 4}, f"{self.run.name}: {self.run.codes}\n{logs}"
        if 0 not in self.run.codes:
            self._drivers.append(Driver(self._farm, self.run, by_uri=True))
            self.run.codes.append(self._drivers[-1].wait())
            assert self.run.codes[-1] == 0, f"{self.run.name}: {self.run.codes}\n{logs}"

    def stop(self) -> None:
        for driver in self._drivers:
            if driver.process.poll() is None:
                driver.kill()

    def contested(self) -> int:
        """How many shards more than one attempt was made at."""
        shards = [attempt.shard for attempt in self._journal.of_run(self.run.key)]
        return len({shard for shard in shards if shards.count(shard) > 1})

    def refused(self) -> int:
        """How many attempts were told that another one had won."""
        return sum(a.lost_s is not None for a in self._journal.of_run(self.run.key))


def run_races(field: Field, races: list[Race]) -> None:
    """See races that were started to their ends."""
    victims = Victims(field.cluster, field.journal)

    def trap(step: Step, attempt: Attempt) -> None:
        for race in races:
            race.take(step, attempt, victims)

    field.journal.trap = trap
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not all(race.finished(victims) for race in races):
            assert time.monotonic() < deadline, f"still under way: {[r.run.name for r in races]}"
            time.sleep(POLL_S)
        for race in races:
            race.conclude()
    finally:
        for race in races:
            race.open_gate(victims)
            race.stop()
