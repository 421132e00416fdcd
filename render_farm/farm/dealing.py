"""Handing shards to the workers that have a place free. No clock, no I/O."""

from __future__ import annotations

from render_farm.farm.blame import Blame
from render_farm.farm.decisions import Abandon, Assign, Decision
from render_farm.farm.hands import Hands
from render_farm.farm.messages import Assignment, Tally
from render_farm.farm.second_attempts import second_attempts
from render_farm.farm.shard_queue import ShardQueue


class Dealer:
    """Fills hands from the queue; when that is empty, from the hands of others."""

    def __init__(self, hands: Hands, queue: ShardQueue, blame: Blame) -> None:
        self._hands = hands
        self._queue = queue
        self._blame = blame

    def fill(self, worker: str, tally: Tally) -> list[Decision]:
        """Hand shards to a worker until it has its hands full, or there is none for it.

        A shard that is to be rendered alone comes into empty hands, and no other to it.
        """
        decisions: list[Decision] = []
        lonely = any(self._queue.is_lonely(shard) for shard in self._hands.of(worker))
        while not lonely and self._hands.has_place(worker):
            shard = self._queue.take(
                worker, self._blame.node_of(worker), empty_handed=not self._hands.of(worker)
            )
            if shard is None:
                break
            lonely = self._queue.is_lonely(shard)
            decisions.append(self._assign(worker, shard, tally))
        return decisions

    def steal(self, tally: Tally) -> list[Decision]:
        """Let workers with nothing in hand, none of which leaves, take what others have as well."""
        decisions: list[Decision] = []
        if self._queue:
            return decisions
        for thief, victim, shard in second_attempts(self._hands, self._queue):
            decisions.append(Abandon(victim, shard, unless_begun=True))
            decisions.append(self._assign(thief, shard, tally))
        return decisions

    def _assign(self, worker: str, shard: int, tally: Tally) -> Assign:
        self._hands.give(worker, shard)
        heard = self._hands.heard(worker)
        return Assign(worker, Assignment(shard, self._queue.log(shard), tally, heard))
