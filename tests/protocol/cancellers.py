"""People who cancel the run, again and again if need be: `ledger.cancel`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol.search import Step
from tests.protocol.state import LATE_MARK, Bug, C, changed
from tests.protocol.world import Change, Outcome, World


class Did(StrEnum):
    """What a canceller did."""

    FINDS_ALL_CLOSED = "cancel: finds every shard closed"
    FINDS_OPEN = "cancel: reads which shards are open"
    MARKS = "cancel: creates cancel.json"
    MARK_DELAYED = "cancel: gives its mark up that is still under way"
    CREATES = f"cancel: {Outcome.CREATED}"
    CREATE_UNANSWERED = f"cancel: {Outcome.UNANSWERED}"
    CREATE_EXISTS = f"cancel: {Outcome.EXISTS}"
    CREATE_NEVER_ARRIVED = f"cancel: {Outcome.NEVER_ARRIVED}"
    CREATE_DELAYED = f"cancel: {Outcome.DELAYED}"
    READS_RECEIPT = "cancel: reads a receipt, its own or another's"
    READS_NONE = "cancel: reads that there is no receipt"
    READ_FAILS = "cancel: cannot read the receipt and begins the round anew"
    DIES = "cancel: dies or loses patience"


CREATE = {
    Outcome.CREATED: Did.CREATES,
    Outcome.UNANSWERED: Did.CREATE_UNANSWERED,
    Outcome.EXISTS: Did.CREATE_EXISTS,
    Outcome.NEVER_ARRIVED: Did.CREATE_NEVER_ARRIVED,
    Outcome.DELAYED: Did.CREATE_DELAYED,
}


class Cancellers:
    """Every call of `cancel_run` of a model. They are alike, so they begin in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.layout = world.layout
        self.steps_by_pc = {C.MARK: self._mark, C.CREATE: self._create, C.READ: self._read}

    def steps(self, state: bytes) -> Iterator[Step]:
        """What any canceller can do."""
        last = self.world.config.cancellers - 1
        for who, place in enumerate(self.layout.canceller_pc):
            pc = state[place]
            if pc == C.IDLE:
                yield self._begin(state, who)
                return
            if pc >= C.DONE:
                continue
            yield from self.steps_by_pc[pc](state, who)
            if not (self.world.config.steadfast and who == last):
                yield Did.DIES, who, self._go(state, who, C.GONE, 0)

    def _go(self, state: bytes, who: int, pc: C, todo: int, *changes: Change) -> bytes:
        """On to `pc`, with the shards of `todo` still to close."""
        pc = C.DONE if pc is C.CREATE and not todo else pc
        places = (self.layout.canceller_pc[who], pc), (self.layout.canceller_todo[who], todo)
        return changed(state, *changes, *places)

    def _begin(self, state: bytes, who: int) -> Step:
        """`cancel_run`: which shards have a receipt."""
        receipts = enumerate(self.layout.receipt)
        todo = sum(1 << shard for shard, place in receipts if not state[place])
        if todo == 0:
            return Did.FINDS_ALL_CLOSED, who, self._go(state, who, C.DONE, 0)
        return Did.FINDS_OPEN, who, self._go(state, who, C.MARK, todo)

    def _mark(self, state: bytes, who: int) -> Iterator[Step]:
        """`cancel_run`: `settle` on cancel.json, which is the same whoever wrote it.

        So an answer that was lost costs another round and nothing else.
        """
        todo = state[self.layout.canceller_todo[who]]
        by_mark = self.world.bug is Bug.CANCEL_BY_MARK
        pc, todo_now = (C.DONE, 0) if by_mark else (C.CREATE, todo)
        yield Did.MARKS, who, self._go(state, who, pc, todo_now, (self.layout.marked, 1))
        late = self.layout.canceller_late[who]
        if not state[late] & LATE_MARK and self.world.one_more_late(state):
            yield Did.MARK_DELAYED, who, changed(state, (late, state[late] | LATE_MARK))

    def _create(self, state: bytes, who: int) -> Iterator[Step]:
        """`cancel._close`: `commit` of a receipt of kind cancelled, shard after shard."""
        todo = state[self.layout.canceller_todo[who]]
        bit = todo & -todo
        late = (self.layout.canceller_late[who], bit)
        owner = self.world.first_canceller << who
        shard = bit.bit_length() - 1
        for outcome, changes in self.world.create(state, shard, owner, 1, late):
            if outcome is Outcome.CREATED:
                after = self._go(state, who, C.CREATE, todo & ~bit, *changes)
            else:
                after = self._go(state, who, C.READ, todo, *changes)
            yield CREATE[outcome], who, after

    def _read(self, state: bytes, who: int) -> Iterator[Step]:
        """`settle._create_or_read`: whoever's receipt is there, the shard is closed."""
        todo = state[self.layout.canceller_todo[who]]
        bit = todo & -todo
        if state[self.layout.receipt[bit.bit_length() - 1]]:
            yield Did.READS_RECEIPT, who, self._go(state, who, C.CREATE, todo & ~bit)
        else:
            yield Did.READS_NONE, who, self._go(state, who, C.CREATE, todo)
        yield Did.READ_FAILS, who, self._go(state, who, C.CREATE, todo)
