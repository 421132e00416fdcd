"""Sweeps, which may be slow, and two at once: `ledger.sweep`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol.search import Step
from tests.protocol.state import Bug, S, changed, late_delete, late_put
from tests.protocol.world import World

ALL_PUTS = sum(late_put(rendering, number) for rendering in (1, 2) for number in (0, 1))


class Did(StrEnum):
    """What a sweep did."""

    LISTS = "sweep: lists the objects"
    FINDS_OPEN = "sweep: finds no receipt and leaves the shard alone"
    FINDS_CLOSED = "sweep: reads a receipt"
    DELETES = "sweep: deletes an object"
    DELETE_DELAYED = "sweep: gives a delete up that is still under way"
    ABORTS = "sweep: aborts the uploads of closed shards"
    DIES = "sweep: dies"


class Mistake(StrEnum):
    """What a sweep does with a seeded bug only."""

    READS = "sweep: reads all receipts before it lists"
    FINDS_OLD = "sweep: finds no receipt, and the objects old"
    CANNOT_READ = "sweep: cannot read a receipt and takes the shard's objects for orphans"


class Sweeps:
    """Every sweep of a model."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bug = world.bug
        self.layout = world.layout

    def steps(self, state: bytes) -> Iterator[Step]:
        """What any sweep can do. They are alike, so they begin in order."""
        for sweep, place in enumerate(self.layout.sweep_pc):
            pc = state[place]
            if pc == S.IDLE:
                yield from self._begin(state, sweep)
                return
            if pc == S.ENDED:
                continue
            if pc == S.ABORT:
                yield from self._abort(state, sweep)
            elif pc == S.LIST:
                yield self._list_late(state, sweep)
            elif state[self.layout.sweep_doomed[sweep]]:
                yield from self._delete(state, sweep)
            elif state[self.layout.sweep_seen[sweep]]:
                yield from self._judge(state, sweep)
            else:
                yield from self._abort(state, sweep)
            yield Did.DIES, sweep, self._end(state, sweep)

    def _end(self, state: bytes, sweep: int) -> bytes:
        return changed(
            state,
            (self.layout.sweep_pc[sweep], S.ENDED),
            (self.layout.sweep_seen[sweep], 0),
            (self.layout.sweep_doomed[sweep], 0),
        )

    def _begin(self, state: bytes, sweep: int) -> Iterator[Step]:
        """`iter_orphans`: the listing.

        Its pages come one by one, but of an object that appears meanwhile it makes no difference
        whether the listing saw it: what becomes of it hangs on the receipt that is read later.
        """
        if self.bug is Bug.SWEEP_READS_FIRST:
            winners = 0
            for attempt in self.world.attempts:
                shard = self.world.config.shards[attempt]
                if state[self.layout.receipt[shard]] & (1 << attempt):
                    winners |= self.world.objects_of(attempt)
            seen, pc, what = winners, S.LIST, Mistake.READS
        else:
            seen, pc, what = self.world.present(state), S.JUDGE, Did.LISTS
        places = (self.layout.sweep_pc[sweep], pc), (self.layout.sweep_seen[sweep], seen)
        yield what, sweep, changed(state, *places)

    def _list_late(self, state: bytes, sweep: int) -> Step:
        """A seeded bug: what no receipt named when they were read is an orphan now."""
        doomed = self.world.present(state) & ~state[self.layout.sweep_seen[sweep]]
        places = (self.layout.sweep_pc[sweep], S.JUDGE), (self.layout.sweep_seen[sweep], 0)
        doom = (self.layout.sweep_doomed[sweep], doomed)
        return Did.LISTS, sweep, changed(state, *places, doom)

    def _judge(self, state: bytes, sweep: int) -> Iterator[Step]:
        """`iter_orphans`: the receipt of the next shard that has objects, and who lost by it."""
        seen = state[self.layout.sweep_seen[sweep]]
        shard = next(s for s in self.world.shards if seen & self.world.objects_of_shard[s])
        here = seen & self.world.objects_of_shard[shard]
        rest = (self.layout.sweep_seen[sweep], seen & ~here)
        doomed = self.layout.sweep_doomed[sweep]
        receipt = state[self.layout.receipt[shard]]
        if receipt:
            for attempt in self.world.attempts:
                if receipt & (1 << attempt):
                    here &= ~self.world.objects_of(attempt)
            yield Did.FINDS_CLOSED, sweep, changed(state, rest, (doomed, here))
        elif self.bug is Bug.SWEEP_BY_AGE:
            yield Mistake.FINDS_OLD, sweep, changed(state, rest, (doomed, here))
        else:
            yield Did.FINDS_OPEN, sweep, changed(state, rest)
        if self.bug is Bug.SWEEP_TAKES_UNREADABLE:
            yield Mistake.CANNOT_READ, sweep, changed(state, rest, (doomed, here))

    def _delete(self, state: bytes, sweep: int) -> Iterator[Step]:
        """`sweep_run`: the next orphan goes."""
        place = self.layout.sweep_doomed[sweep]
        doomed = state[place]
        bit = (doomed & -doomed).bit_length() - 1
        attempt, number = divmod(bit, self.world.config.objects)
        rest = (place, doomed & (doomed - 1))
        yield Did.DELETES, sweep, changed(state, rest, (self.layout.content[bit], 0))
        late, flag = self.layout.attempt_late[attempt], late_delete(number)
        if not state[late] & flag and self.world.one_more_late(state):
            yield Did.DELETE_DELAYED, sweep, changed(state, (late, state[late] | flag))

    def _abort(self, state: bytes, sweep: int) -> Iterator[Step]:
        """`sweep_run`: the unfinished uploads of closed shards are aborted.

        A put that came in one part cannot be aborted; that is the sweep that dies before.
        """
        shards = self.world.config.shards
        changes = [
            (late, state[late] & ~ALL_PUTS)
            for attempt, late in enumerate(self.layout.attempt_late)
            if state[self.layout.receipt[shards[attempt]]]
        ]
        yield Did.ABORTS, sweep, changed(self._end(state, sweep), *changes)
