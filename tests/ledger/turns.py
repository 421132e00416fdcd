"""Turns: threads that go on one at a time, in an order that a chance decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Semaphore, Thread

PATIENCE_S = 300.0
"""Far more than all the participants need together: who waits longer never ends."""


class Stuck(AssertionError):
    """Somebody did not come to an end."""


@dataclass
class Turns:
    """Runs participants, each in a thread of its own, of which only one goes on at a time.

    A participant goes on until it calls `wait` with its name, or ends; then `chance` says whose
    turn it is, and keeps to the same one with the probability `steady`. So the same chance gives
    the same order, as long as nothing else decides what the participants do.
    """

    chance: random.Random
    steady: float
    _gates: dict[str, Semaphore] = field(default_factory=dict)
    _turn: str = ""

    def run(self, participants: dict[str, Callable[[], object]]) -> dict[str, object]:
        """Take turns until all have ended; returns what each of them returned or raised."""
        ends: dict[str, object] = {}
        self._gates = {name: Semaphore(0) for name in participants}
        threads = [
            Thread(target=self._take_part, args=(name, act, ends), name=name, daemon=True)
            for name, act in participants.items()
        ]
        for thread in threads:
            thread.start()
        self._pass_on()
        for thread in threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise Stuck(f"{thread.name} did not end; it is the turn of {self._turn}")
        return ends

    def wait(self, name: str) -> None:
        """Wait until it is this participant's turn again, which may be at once."""
        if name != self._turn:
            raise Stuck(f"{name} went on in the turn of {self._turn}")
        self._pass_on()
        self._await_turn(name)

    def _pass_on(self) -> None:
        if self._turn not in self._gates or self.chance.random() >= self.steady:
            self._turn = self.chance.choice(list(self._gates))
        self._gates[self._turn].release()

    def _await_turn(self, name: str) -> None:
        if not self._gates[name].acquire(timeout=PATIENCE_S):
            raise Stuck(f"{name} waited for its turn in vain")

    def _take_part(self, name: str, act: Callable[[], object], ends: dict[str, object]) -> None:
        self._await_turn(name)
        try:
            ends[name] = act()
        except BaseException as error:  # noqa: BLE001 - what it was is the caller's to judge
            ends[name] = error
        del self._gates[name]
        if self._gates:
            self._pass_on()
