"""Raylets that stand still with their workers, and go on when the world has moved on."""

from __future__ import annotations

import logging
import signal
import time
from typing import Literal

import psutil

from tests.storm.cluster import Raylets, Worker, signal_process
from tests.storm.journal import Attempt, Journal

log = logging.getLogger(__name__)

LAST_WORDS_S = 30.0
"""How long a woken worker gets to write. It needs a second; but nothing obliges it to write."""


class Zombie:
    """A raylet that was stopped with its workers, one of which was in the middle of `attempt`.

    They stand still until another attempt has closed the shard. Then the workers wake, write, and
    are refused; and their raylet wakes, learns that it is taken for dead, and ends with them.
    """

    def __init__(
        self, cluster: Raylets, journal: Journal, worker: Worker, attempt: Attempt
    ) -> None:
        self.attempt = attempt
        self.winner: Attempt | None = None
        self._journal = journal
        self._state: Literal["still", "awake", "done"] = "still"
        self._workers = [other.process for other in cluster.workers_of(worker.raylet)]
        self._raylet = cluster.lay_out(worker.raylet)
        for process in (self._raylet, *self._workers):
            signal_process(process, signal.SIGSTOP)
        self._woken_s = 0.0

    @property
    def done(self) -> bool:
        return self._state == "done"

    @property
    def wrote_too_late(self) -> bool:
        """Whether it uploaded after its replacement had won, and was then refused."""
        uploaded_s, lost_s = self.attempt.uploaded_s, self.attempt.lost_s
        if self.winner is None or self.winner.won_s is None or uploaded_s is None:
            return False
        return lost_s is not None and self.winner.won_s < uploaded_s < lost_s

    def tend(self) -> None:
        """Go on with it, if it is time."""
        if self._state == "still":
            self.winner = self._journal.winner(self.attempt.run, self.attempt.shard)
            if self.winner is not None:
                log.info("zombie wakes: %s, as %s won", self.attempt, self.winner)
                self._wake(self._workers)
                self._state = "awake"
                self._woken_s = time.monotonic()
        elif self._state == "awake":
            silent = time.monotonic() - self._woken_s > LAST_WORDS_S
            heard = self.attempt.lost_s is not None or self.attempt.won_s is not None
            if heard or silent or not any(map(_lives, self._workers)):
                self._wake([self._raylet])
                if silent:
                    # Nobody took it for dead: a driver's end came first.
                    signal_process(self._raylet, signal.SIGKILL)
                if not any(map(_lives, [self._raylet, *self._workers])):
                    log.info("zombie is gone: %s", self.attempt)
                    self._state = "done"

    def free(self) -> None:
        """Let everything go on, whatever the state."""
        self._wake([self._raylet, *self._workers])

    def _wake(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            signal_process(process, signal.SIGCONT)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
