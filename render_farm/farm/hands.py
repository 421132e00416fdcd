"""Who has which shards in hand. No clock, no I/O.

A worker has several shards in hand; a shard is in up to two hands, and one that is settled may be
in one for a while: until its worker has heard of it.
"""

from __future__ import annotations


class Hands:
    """The books of assignments that are not answered yet. `heard` counts answers by worker."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._held: dict[str, dict[int, int]] = {}
        self._turns = 0
        self._heard: dict[str, int] = {}
        self._holders: dict[int, list[str]] = {}
        self._settled: set[int] = set()
        self._free: dict[str, None] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """All of them, those with nothing in hand as well."""
        return tuple(self._held)

    @property
    def free(self) -> tuple[str, ...]:
        """The workers that can take a shard more, the longest free first."""
        return tuple(self._free)

    @property
    def empty(self) -> tuple[str, ...]:
        """The workers with nothing in hand."""
        return tuple(worker for worker in self._free if not self._held[worker])

    @property
    def open_shards(self) -> int:
        """Shards in hand that are not settled."""
        return len(self._holders) - len(self._settled)

    def join(self, worker: str, places: int) -> None:
        """A worker can take `places` shards at a time."""
        self._places[worker], self._held[worker], self._heard[worker] = places, {}, 0
        self._free[worker] = None

    def leave(self, worker: str) -> list[int]:
        """A worker is no more; the shards it had in hand, in the order of assignment."""
        held = list(self._held.pop(worker, {}))
        for shard in held:
            self._let_go(worker, shard)
        self._places.pop(worker, None)
        self._heard.pop(worker, None)
        self._free.pop(worker, None)
        return held

    def give(self, worker: str, shard: int) -> None:
        """A worker is given a shard."""
        self._turns += 1
        self._held[worker][shard] = self._turns
        self._holders.setdefault(shard, []).append(worker)
        if len(self._held[worker]) >= self._places[worker]:
            del self._free[worker]

    def answered(self, worker: str, shard: int) -> None:
        """A worker has the shard in hand no more."""
        self._heard[worker] += 1
        del self._held[worker][shard]
        self._free.setdefault(worker)
        self._let_go(worker, shard)

    def settle(self, shard: int) -> None:
        """The shard is decided, whoever still has it in hand."""
        if shard in self._holders:
            self._settled.add(shard)

    def has_place(self, worker: str) -> bool:
        """Whether the worker can take a shard more."""
        return worker in self._free

    def of(self, worker: str) -> tuple[int, ...]:
        """What a worker has in hand, in the order of assignment."""
        return tuple(self._held.get(worker, ()))

    def open_of(self, worker: str) -> tuple[int, ...]:
        """Those of a worker's shards that are not settled."""
        return tuple(shard for shard in self.of(worker) if shard not in self._settled)

    def turn(self, worker: str, shard: int) -> int:
        """When a worker was given a shard that it has in hand, counted in assignments."""
        return self._held[worker][shard]

    def holders(self, shard: int) -> tuple[str, ...]:
        """Who has the shard in hand."""
        return tuple(self._holders.get(shard, ()))

    def is_open(self, shard: int) -> bool:
        """Whether the shard is in hand and not settled."""
        return shard in self._holders and shard not in self._settled

    def heard(self, worker: str) -> int:
        """How many answers of a worker were heard."""
        return self._heard[worker]

    def _let_go(self, worker: str, shard: int) -> None:
        holders = self._holders[shard]
        holders.remove(worker)
        if not holders:
            del self._holders[shard]
            self._settled.discard(shard)
