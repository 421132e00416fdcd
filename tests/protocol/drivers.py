"""Drivers with the lease: `farm.loop.Driver`, `ledger.lease`, `ledger.manifest`.

The heartbeat and the notes on attempts are left out: nothing that ends a shard reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol.attempts import Attempts
from tests.protocol.search import Step
from tests.protocol.state import Bug, D, changed
from tests.protocol.world import Change, World


class Did(StrEnum):
    """What a driver did."""

    GOES_ON = "driver: finds no cancel.json"
    REFUSES = "driver: finds cancel.json and refuses"
    LISTS = "driver: lists the epochs"
    BEGINS = "driver: creates the next epoch"
    BEGIN_UNANSWERED = "driver: creates the next epoch, the answer is lost"
    EPOCH_TAKEN = "driver: is told that the epoch is there"
    ASSIGNS = "driver: assigns a shard"
    STANDS_DOWN = "driver: sees a newer epoch"
    HEEDS_CANCEL = "driver: sees cancel.json"
    STOPS = "driver: ends, having all answers or being asked to"
    READS_ALL = "driver: reads a receipt of every shard"
    READS_SOME = "driver: finds shards without a receipt"
    PUBLISHES = "driver: puts the manifest"
    PUBLISH_DELAYED = "driver: gives its manifest up that is still under way"
    DIES = "driver: dies"


class Drivers:
    """Every driver of a model. An older one goes on until it looks at the lease."""

    def __init__(self, world: World, attempts: Attempts) -> None:
        self.world = world
        self.attempts = attempts
        self.bug = world.bug
        self.layout = world.layout
        self.last = world.config.drivers - 1
        self.steps_by_pc = {
            D.IDLE: self._refuse_cancelled,
            D.LIST: self._list,
            D.BEGIN: self._begin,
            D.DRIVE: self._drive,
            D.CLOSE: self._close,
            D.PUBLISH: self._publish,
        }

    def steps(self, state: bytes) -> Iterator[Step]:
        """What any driver can do. They are alike, so they begin in order."""
        for who, place in enumerate(self.layout.driver_pc):
            pc = state[place]
            if pc >= D.ENDED:
                continue
            if pc != D.IDLE or self._may_begin(state, who):
                yield from self.steps_by_pc[pc](state, who)
            if pc == D.IDLE:
                return
            if not self._is_steadfast(who):
                yield Did.DIES, who, self._end(state, who)

    def _may_begin(self, state: bytes, who: int) -> bool:
        """Any time; but one that others may count on comes after them, or it could be replaced."""
        others = self.layout.driver_pc[:who]
        return not self._is_steadfast(who) or all(state[place] >= D.DRIVE for place in others)

    def _is_steadfast(self, who: int) -> bool:
        return self.world.config.steadfast and who == self.last

    def _most_epochs(self, who: int) -> int:
        """Lost answers never use up the epoch of a driver that others may count on."""
        kept = self.world.config.steadfast and who != self.last
        return self.world.config.epochs - kept

    def _go(self, state: bytes, who: int, pc: D, *changes: Change) -> bytes:
        return changed(state, *changes, (self.layout.driver_pc[who], pc))

    def _end(self, state: bytes, who: int, *changes: Change) -> bytes:
        """The driver does nothing more; what it knew matters no longer."""
        if self.bug is not Bug.LEASE_ALONE:
            changes = (*changes, (self.layout.driver_epoch[who], 0))
        return self._go(state, who, D.ENDED, *changes, (self.layout.driver_read[who], 0))

    def _refuse_cancelled(self, state: bytes, who: int) -> Iterator[Step]:
        """`cancel.refuse_cancelled`: before anything else."""
        if state[self.layout.marked]:
            yield Did.REFUSES, who, self._end(state, who)
        else:
            yield Did.GOES_ON, who, self._go(state, who, D.LIST)

    def _list(self, state: bytes, who: int) -> Iterator[Step]:
        """`lease._begin`: the number after the highest."""
        if state[self.layout.epoch] < self._most_epochs(who):
            number = (self.layout.driver_epoch[who], state[self.layout.epoch] + 1)
            yield Did.LISTS, who, self._go(state, who, D.BEGIN, number)

    def _begin(self, state: bytes, who: int) -> Iterator[Step]:
        """`lease._begin`: the epoch is created; `Lease.take` begins anew after a lost answer."""
        place, top = self.layout.driver_epoch[who], state[self.layout.epoch]
        number = state[place]
        if number <= top:
            if number < self._most_epochs(who):
                yield Did.EPOCH_TAKEN, who, changed(state, (place, number + 1))
            return
        if self.bug is Bug.LEASE_FOR_EVER and state[self.layout.held]:
            return
        begun = [(self.layout.epoch, number)]
        again = self._go(state, who, D.LIST, *begun, (place, 0))
        if self.bug is Bug.LEASE_FOR_EVER:
            begun.append((self.layout.held, 1))
        if self.bug is Bug.TAKEOVER_CLEANS:
            begun += self._objects_of_open_shards(state)
        yield Did.BEGINS, who, self._go(state, who, D.DRIVE, *begun)
        if not self._is_steadfast(who):
            yield Did.BEGIN_UNANSWERED, who, again

    def _objects_of_open_shards(self, state: bytes) -> Iterator[Change]:
        for attempt in self.world.attempts:
            if not state[self.layout.receipt[self.world.config.shards[attempt]]]:
                for number in self.world.objects:
                    yield self.world.place_of_object(attempt, number), 0

    def _drive(self, state: bytes, who: int) -> Iterator[Step]:
        """`Driver._loop`: assigns as long as it likes, and looks around now and then.

        Which shards it believes open, and what workers answered, is left open: it may assign a
        closed shard, or end although nothing is done. The real one does less.
        """
        for attempt in self.attempts.waiting(state):
            yield Did.ASSIGNS, who, changed(state, *self.attempts.start(attempt, who + 1))
        closing = self._go(state, who, D.CLOSE)
        if state[self.layout.epoch] > state[self.layout.driver_epoch[who]]:
            yield Did.STANDS_DOWN, who, closing
        if state[self.layout.marked]:
            yield Did.HEEDS_CANCEL, who, closing
        if not self._is_steadfast(who) or self.world.closed(state):
            yield Did.STOPS, who, closing

    def _close(self, state: bytes, who: int) -> Iterator[Step]:
        """`write_manifest`: reads the receipts, at every orderly end."""
        if self.bug is Bug.LEASE_FOR_EVER:
            state = changed(state, (self.layout.held, 0))
        if not self.world.closed(state):
            yield Did.READS_SOME, who, self._end(state, who)
            return
        owners = self.world.packed_receipts(state)
        if self.bug is Bug.MANIFEST_BY_HEARSAY:
            owners = self._assigned(state, who)
        read = (self.layout.driver_read[who], owners)
        yield Did.READS_ALL, who, self._go(state, who, D.PUBLISH, read)

    def _assigned(self, state: bytes, who: int) -> int:
        packed = 0
        for attempt, place in enumerate(self.layout.attempt_driver):
            if state[place] == who + 1:
                packed |= (attempt + 1) << (4 * self.world.config.shards[attempt])
        return packed

    def _publish(self, state: bytes, who: int) -> Iterator[Step]:
        """`write_manifest`: uploads what the receipts added up to when they were read."""
        written = (self.layout.manifest, state[self.layout.driver_read[who]])
        yield Did.PUBLISHES, who, self._end(state, who, written)
        if self.world.one_more_late(state):
            late = changed(state, (self.layout.driver_late[who], written[1]))
            yield Did.PUBLISH_DELAYED, who, self._end(late, who)
