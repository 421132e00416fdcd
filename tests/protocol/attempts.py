"""Attempts at shards: `ShardWorker.begin`, `delivery.deliver`, `ledger.commit` and `ledger.settle`.

A zombie needs no step of its own: an attempt may take its next step at any time, so also after
all others took all of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol.search import Step
from tests.protocol.state import LATE_CREATE, A, Bug, D, changed, late_delete, late_put
from tests.protocol.world import Change, Outcome, World


class Did(StrEnum):
    """What an attempt did."""

    STARTS = "attempt: starts"
    FINDS_CLOSED = "attempt: finds a receipt and renders nothing"
    RENDERS = "attempt: finds no receipt and renders"
    DRAINS = "attempt: gives the shard back, its driver has stopped"
    UPLOADS = "attempt: uploads an object"
    UPLOAD_UNANSWERED = "attempt: uploads an object, the answer is lost"
    UPLOAD_DELAYED = "attempt: gives an upload up that is still under way"
    UPLOAD_FAILS = "attempt: cannot upload"
    CREATES = f"attempt: {Outcome.CREATED}"
    CREATE_UNANSWERED = f"attempt: {Outcome.UNANSWERED}"
    CREATE_EXISTS = f"attempt: {Outcome.EXISTS}"
    CREATE_NEVER_ARRIVED = f"attempt: {Outcome.NEVER_ARRIVED}"
    CREATE_DELAYED = f"attempt: {Outcome.DELAYED}"
    READS_OWN = "attempt: reads its own receipt"
    READS_OTHER = "attempt: reads another's receipt"
    READS_NONE = "attempt: reads that there is no receipt"
    READ_FAILS = "attempt: cannot read the receipt and begins the round anew"
    LOSES_PATIENCE = "attempt: cannot read the receipt and halts the run"
    WITHDRAWS = "attempt: deletes an object of its own"
    WITHDRAW_DELAYED = "attempt: gives a delete up that is still under way"
    DIES = "attempt: dies"


class Mistake(StrEnum):
    """What an attempt does with a seeded bug only."""

    LOOKS = "attempt: looks once more for a receipt"
    HAS_LEASE = "attempt: sees that its driver holds the lease"
    PUTS = "attempt: puts the receipt"
    CLEANS = "attempt: deletes its objects, not knowing whose the receipt is"


CREATE = {
    Outcome.CREATED: Did.CREATES,
    Outcome.UNANSWERED: Did.CREATE_UNANSWERED,
    Outcome.EXISTS: Did.CREATE_EXISTS,
    Outcome.NEVER_ARRIVED: Did.CREATE_NEVER_ARRIVED,
    Outcome.DELAYED: Did.CREATE_DELAYED,
}


class Attempts:
    """Every attempt of a model."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bug = world.bug
        self.layout = world.layout
        self.shards = world.config.shards
        # Ids are random, so attempts that have not begun are interchangeable: at a shard they
        # begin in order. That loses no behaviour but for names.
        self.before = [
            max((b for b in range(a) if self.shards[b] == self.shards[a]), default=None)
            for a in world.attempts
        ]
        self.steps_by_pc = {
            A.ASK: self._ask,
            A.CREATE: self._create,
            A.READ: self._read,
            A.CLEAN: self._clean,
            A.PUT: self._put,
        }
        for number in world.objects:
            self.steps_by_pc[A.UPLOAD + number] = self._upload
            self.steps_by_pc[A.WITHDRAW + number] = self._withdraw
        self.remembers_driver = self.bug in (Bug.MANIFEST_BY_HEARSAY, Bug.LEASE_ALONE)
        first_uploads = self.bug is not Bug.RECEIPT_FIRST
        self.rendered = A.UPLOAD if first_uploads else A.CREATE
        self.uploaded = A.CREATE if first_uploads else A.DONE
        self.won = A.DONE if first_uploads else A.UPLOAD

    def steps(self, state: bytes) -> Iterator[Step]:
        """What any attempt can do."""
        if not self.world.config.drivers:
            for attempt in self.waiting(state):
                yield Did.STARTS, attempt, changed(state, *self.start(attempt, 0))
        for attempt, place in enumerate(self.layout.attempt_pc):
            pc = state[place]
            if pc == A.IDLE or pc >= A.DONE:
                continue
            yield from self.steps_by_pc[pc](state, attempt)
            if not self._is_steadfast(attempt):
                yield Did.DIES, attempt, self._go(state, attempt, A.GONE)

    def waiting(self, state: bytes) -> Iterator[int]:
        """The next attempt at each shard."""
        pcs = self.layout.attempt_pc
        for attempt, before in enumerate(self.before):
            if state[pcs[attempt]] == A.IDLE and (before is None or state[pcs[before]] != A.IDLE):
                yield attempt

    def start(self, attempt: int, driver: int) -> tuple[Change, ...]:
        """`Pool.assign`: a worker is given the shard; numbers of drivers begin with 1."""
        return (self.layout.attempt_pc[attempt], A.ASK), (
            self.layout.attempt_driver[attempt],
            driver,
        )

    def _is_steadfast(self, attempt: int) -> bool:
        return self.world.config.steadfast and attempt == len(self.shards) - 1

    def _go(self, state: bytes, attempt: int, pc: int, *changes: Change) -> bytes:
        """On to `pc`. Whose the attempt is matters until it has rendered, and is forgotten then."""
        changes = (*changes, (self.layout.attempt_pc[attempt], pc))
        if pc > A.UPLOAD and not self.remembers_driver:
            changes = (*changes, (self.layout.attempt_driver[attempt], 0))
        if self.bug is Bug.LOCK and pc in (A.DONE, A.LOST):
            changes = (*changes, (self.layout.lock[self.shards[attempt]], 0))
        return changed(state, *changes)

    def _ask(self, state: bytes, attempt: int) -> Iterator[Step]:
        """`ShardWorker.begin`: the first look for a receipt."""
        shard = self.shards[attempt]
        if state[self.layout.receipt[shard]]:
            yield Did.FINDS_CLOSED, attempt, self._go(state, attempt, A.LOST)
        elif self.bug is Bug.LOCK:
            if not state[self.layout.lock[shard]]:
                locked = (self.layout.lock[shard], 1)
                yield Did.RENDERS, attempt, self._go(state, attempt, self.rendered, locked)
        else:
            yield Did.RENDERS, attempt, self._go(state, attempt, self.rendered)

    def _upload(self, state: bytes, attempt: int) -> Iterator[Step]:
        """`Store.upload` of one object, which tries again by itself with the same bytes.

        `Drained` is raised while the worker renders, before anything is uploaded.
        """
        number = state[self.layout.attempt_pc[attempt]] - A.UPLOAD
        last = number + 1 == self.world.config.objects
        further = self.uploaded if last else A.UPLOAD + number + 1
        rendering = state[self.layout.attempt_rendering[attempt]]
        place = self.world.place_of_object(attempt, number)
        written = (place, self.world.content(attempt, rendering))
        yield Did.UPLOADS, attempt, self._go(state, attempt, further, written)
        if state[place] != written[1]:
            yield Did.UPLOAD_UNANSWERED, attempt, changed(state, written)
        bit = late_put(rendering, number)
        late = self.layout.attempt_late[attempt]
        if not state[late] & bit and self.world.one_more_late(state):
            yield Did.UPLOAD_DELAYED, attempt, changed(state, (late, state[late] | bit))
        if self._is_steadfast(attempt):
            return
        yield Did.UPLOAD_FAILS, attempt, self._after_failed_upload(state, attempt, further)
        if number == 0 and self._driver_has_stopped(state, attempt):
            yield Did.DRAINS, attempt, self._go(state, attempt, A.GONE)

    def _after_failed_upload(self, state: bytes, attempt: int, further: int) -> bytes:
        if self.bug is Bug.UPLOAD_ERRORS_PASS:
            return self._go(state, attempt, further)
        rendering = self.layout.attempt_rendering[attempt]
        if self.bug is Bug.RENDERS_AGAIN and state[rendering] == 1:
            return self._go(state, attempt, A.UPLOAD, (rendering, 2))
        return self._go(state, attempt, A.GONE)

    def _driver_has_stopped(self, state: bytes, attempt: int) -> bool:
        driver = state[self.layout.attempt_driver[attempt]]
        return driver > 0 and state[self.layout.driver_pc[driver - 1]] >= D.CLOSE

    def _create(self, state: bytes, attempt: int) -> Iterator[Step]:
        """`settle._create_or_read`, its first half: `Store.create`."""
        if self.bug is Bug.LEASE_ALONE or self.bug is Bug.LOOK_THEN_PUT:
            yield from self._look(state, attempt)
            return
        late = (self.layout.attempt_late[attempt], LATE_CREATE)
        own = (self.shards[attempt], 1 << attempt, state[self.layout.attempt_rendering[attempt]])
        for outcome, changes in self.world.create(state, *own, late):
            further = self._after_create(outcome)
            yield CREATE[outcome], attempt, self._go(state, attempt, further, *changes)

    def _after_create(self, outcome: Outcome) -> A:
        if outcome is Outcome.CREATED:
            return self.won
        if outcome is Outcome.EXISTS:
            return A.WITHDRAW if self.bug is Bug.EXISTS_IS_LOST else A.READ
        return A.DONE if self.bug is Bug.UNKNOWN_IS_DONE else A.READ

    def _read(self, state: bytes, attempt: int) -> Iterator[Step]:
        """`settle._create_or_read`, its second half, and `patience.patiently` around both.

        Where it cannot be read, the next round creates again: that is refused or is the first.
        """
        receipt = state[self.layout.receipt[self.shards[attempt]]]
        if receipt & (1 << attempt):
            yield Did.READS_OWN, attempt, self._go(state, attempt, self.won)
        elif receipt:
            yield Did.READS_OTHER, attempt, self._go(state, attempt, A.WITHDRAW)
        else:
            again = A.PUT if self.bug is Bug.PUT_AGAIN else A.CREATE
            yield Did.READS_NONE, attempt, self._go(state, attempt, again)
        unreadable = A.WITHDRAW if self.bug is Bug.UNREADABLE_IS_LOST else A.CREATE
        yield Did.READ_FAILS, attempt, self._go(state, attempt, unreadable)
        if not self._is_steadfast(attempt):
            halted = A.CLEAN if self.bug is Bug.CLEANS_UP_AFTER_UNKNOWN else A.GONE
            yield Did.LOSES_PATIENCE, attempt, self._go(state, attempt, halted)

    def _withdraw(self, state: bytes, attempt: int) -> Iterator[Step]:
        """`commit.withdraw`: the attempt deletes its own objects, one after another."""
        number = state[self.layout.attempt_pc[attempt]] - A.WITHDRAW
        last = number + 1 == self.world.config.objects
        further = A.LOST if last else A.WITHDRAW + number + 1
        removed = [(self.world.place_of_object(attempt, number), 0)]
        if last and self.bug is Bug.LOSER_DELETES_RECEIPT:
            removed.append((self.layout.receipt[self.shards[attempt]], 0))
        yield Did.WITHDRAWS, attempt, self._go(state, attempt, further, *removed)
        late, bit = self.layout.attempt_late[attempt], late_delete(number)
        if not state[late] & bit and self.world.one_more_late(state):
            # Its sender tries again; where it gave up, that is a death from here on.
            yield Did.WITHDRAW_DELAYED, attempt, changed(state, (late, state[late] | bit))

    def _look(self, state: bytes, attempt: int) -> Iterator[Step]:
        """Seeded bugs: a condition is looked at, and held for true a step later."""
        if self.bug is Bug.LEASE_ALONE:
            driver = state[self.layout.attempt_driver[attempt]]
            own = state[self.layout.driver_epoch[driver - 1]]
            may, look = own == state[self.layout.epoch], Mistake.HAS_LEASE
        else:
            may = not state[self.layout.receipt[self.shards[attempt]]]
            look = Mistake.LOOKS
        yield look, attempt, self._go(state, attempt, A.PUT if may else A.GONE)

    def _put(self, state: bytes, attempt: int) -> Iterator[Step]:
        """Seeded bugs: the receipt is written whatever is there."""
        rendering = state[self.layout.attempt_rendering[attempt]]
        written = self.world.write_receipt(state, self.shards[attempt], 1 << attempt, rendering)
        yield Mistake.PUTS, attempt, self._go(state, attempt, A.DONE, *written)

    def _clean(self, state: bytes, attempt: int) -> Iterator[Step]:
        """A seeded bug: an outcome that is not known passes for a failure."""
        places = (self.world.place_of_object(attempt, number) for number in self.world.objects)
        gone = self._go(state, attempt, A.GONE, *((place, 0) for place in places))
        yield Mistake.CLEANS, attempt, gone
