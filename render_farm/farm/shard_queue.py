"""The shards that wait for a worker, and what is known of those that failed. No clock, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping

from render_farm.ledger.attempts import AttemptLog


class ShardQueue:
    """Hands out open shards: fresh ones in order, and those that failed where they have not yet.

    A shard with which a process ended is *lonely*: only a worker with nothing in hand gets it, so
    that the next end is blamed on the right one. A worker that it is promised to gets nothing else
    until its hands are empty. Nothing is kept of a shard that will not be tried again: memory must
    not grow.
    """

    def __init__(self, fresh: Iterator[int], logs: Mapping[int, AttemptLog], attempts: int) -> None:
        self._fresh = fresh
        self._next: int | None = None
        self._logs = dict(logs)
        self._attempts = attempts
        self._returned: deque[int] = deque()
        self._retries: dict[int, None] = {}
        self._promised: dict[str, int] = {}
        self._failed_by: dict[int, set[str]] = {}
        self._failed_on: dict[int, set[str]] = {}
        self._used: dict[int, int] = {}
        self._advance()

    def __bool__(self) -> bool:
        return self._next is not None or bool(self._returned) or bool(self._retries)

    def log(self, shard: int) -> AttemptLog:
        """What is known of a shard."""
        return self._logs.get(shard) or AttemptLog(shard=shard)

    def is_lonely(self, shard: int) -> bool:
        """Whether the shard is to be a worker's only one."""
        return shard in self._logs and self._logs[shard].ended_a_process

    def has_failed(self, worker: str, shard: int) -> bool:
        """Whether the worker has failed the shard."""
        return worker in self._failed_by.get(shard, ())

    def take(self, worker: str, node: str, *, empty_handed: bool) -> int | None:
        """A shard that failed on other nodes, a fresh one, or one that failed on this node, too."""
        self._promised.pop(worker, None)
        retries = [shard for shard in self._retries if not self.has_failed(worker, shard)]
        elsewhere = [s for s in retries if node not in self._failed_on.get(s, ())]
        shard = self._first(elsewhere, worker, empty_handed=empty_handed)
        if shard is None and worker not in self._promised:
            shard = self._take_fresh()
            if shard is None:
                shard = self._first(retries, worker, empty_handed=empty_handed)
        return shard

    def put_back(self, shard: int) -> None:
        """A shard was not tried after all, or given back."""
        if shard in self._failed_by or self.is_lonely(shard):
            self._retries[shard] = None
        else:
            self._returned.append(shard)

    def convicts(self, shard: int, log: AttemptLog) -> bool:
        """Whether the last failure in a shard's new log convicts a row that was none before."""
        return len(log.condemned()) > len(self.log(shard).condemned())

    def failed(self, worker: str, node: str, log: AttemptLog, *, counts: bool) -> None:
        """An attempt at a shard failed, as its `log` says; it is used if the failure `counts`."""
        shard = log.shard
        self._logs[shard] = log
        self._failed_by.setdefault(shard, set()).add(worker)
        self._failed_on.setdefault(shard, set()).add(node)
        if counts:
            self._used[shard] = self._used.get(shard, 0) + 1

    def used_up(self, shard: int) -> bool:
        """Whether the shard has used its attempts."""
        return self._used.get(shard, 0) >= self._attempts

    def forget(self, shard: int) -> None:
        """The shard is decided."""
        for kept in (self._failed_by, self._failed_on, self._used, self._logs):
            kept.pop(shard, None)

    def gone(self, worker: str) -> None:
        """The worker takes no more."""
        self._promised.pop(worker, None)

    def failed_by_all(self, workers: Collection[str]) -> Iterator[int]:
        """The waiting shards that each of the workers has failed."""
        for shard in tuple(self._retries):
            if all(self.has_failed(worker, shard) for worker in workers):
                yield shard

    def _advance(self) -> None:
        """Find the next fresh shard; lonely ones wait among those that failed."""
        for shard in self._fresh:
            if not self.is_lonely(shard):
                self._next = shard
                return
            self._retries[shard] = None
        self._next = None

    def _take_fresh(self) -> int | None:
        if self._returned:
            return self._returned.popleft()
        shard = self._next
        if shard is not None:
            self._advance()
        return shard

    def _first(self, shards: list[int], worker: str, *, empty_handed: bool) -> int | None:
        """The first of the shards that the worker can have now; or one is promised to it."""
        for shard in shards:
            if empty_handed or not self.is_lonely(shard):
                self._hand_out(shard)
                return shard
            if shard not in self._promised.values():
                self._promised[worker] = shard
                return None
        return None

    def _hand_out(self, shard: int) -> None:
        del self._retries[shard]
        for worker in [w for w, promised in self._promised.items() if promised == shard]:
            del self._promised[worker]
