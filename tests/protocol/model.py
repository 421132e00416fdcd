"""The protocol of the ledger as a model: who there is, what they may do, what must always hold."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol import attempts, cancellers, drivers, network, sweeps
from tests.protocol.search import Step
from tests.protocol.state import A, C, Config, changed, late_delete
from tests.protocol.world import World

EVERY_STEP = frozenset(
    step
    for did in (attempts.Did, cancellers.Did, drivers.Did, network.Did, sweeps.Did)
    for step in did
)


class Promise(StrEnum):
    """What holds in every state, whatever happens on the way to it."""

    ONE = "a shard has one receipt at most: every row counts once"
    FINAL = "a receipt stays as it was first written"
    THERE = "what a receipt names is there, as its attempt wrote it"
    DONE = "an attempt that says done owns the receipt"
    LOST = "an attempt that withdraws has read another's receipt"
    SWEPT = "only objects of losers of closed shards are deleted"
    CANCELLED = "a cancel that says done has closed every shard"
    MANIFEST = "the manifest says what the receipts say"


RESULT = frozenset({Promise.ONE, Promise.FINAL, Promise.THERE})
"""What a reader of the result sees; the other promises are the reasons why it holds."""


class Ledger:
    """A `search.Model` of the whole protocol, which watches some of its promises."""

    def __init__(self, config: Config, watched: frozenset[Promise] = frozenset(Promise)) -> None:
        self.watched = watched
        self.world = world = World(config)
        self.layout = world.layout
        trying = attempts.Attempts(world)
        self.parts = (
            trying,
            sweeps.Sweeps(world),
            cancellers.Cancellers(world),
            drivers.Drivers(world, trying),
            network.Network(world),
        )
        self.looks = (
            self._broken_receipt,
            self._broken_belief,
            self._broken_delete,
            self._broken_word,
        )
        self.doomed_bits = tuple(
            (attempt, late_delete(number)) for attempt in world.attempts for number in world.objects
        )

    def initial(self) -> bytes:
        """An empty store and nobody at work; every attempt would render for the first time."""
        first = ((place, 1) for place in self.layout.attempt_rendering)
        return changed(bytes(self.layout.size), *first)

    def steps(self, state: bytes) -> Iterator[Step]:
        """One step of one process, or of the network."""
        for part in self.parts:
            yield from part.steps(state)

    def closed(self, state: bytes) -> bool:
        """The goal: every shard has its receipt."""
        return self.world.closed(state)

    def broken(self, state: bytes) -> str | None:
        """The promise that a state breaks, the plainest first."""
        for look in self.looks:
            promise = look(state)
            if promise is not None and promise in self.watched:
                return promise
        return None

    def _broken_receipt(self, state: bytes) -> str | None:
        for shard, place in enumerate(self.layout.receipt):
            receipt = state[place]
            if receipt & (receipt - 1) if receipt else 0:
                return Promise.ONE
            if receipt != state[self.layout.first[shard]]:
                return Promise.FINAL
            if 0 < receipt < self.world.first_canceller:
                owner = receipt.bit_length() - 1
                named = self.world.content(owner, state[self.layout.named[shard]])
                for number in self.world.objects:
                    if state[self.world.place_of_object(owner, number)] != named:
                        return Promise.THERE
        return None

    def _broken_belief(self, state: bytes) -> str | None:
        for attempt, place in enumerate(self.layout.attempt_pc):
            pc = state[place]
            if pc < A.WITHDRAW:
                continue
            receipt = state[self.layout.receipt[self.world.config.shards[attempt]]]
            if pc == A.DONE and receipt != 1 << attempt:
                return Promise.DONE
            withdraws = pc == A.LOST or A.WITHDRAW <= pc < A.CLEAN
            if withdraws and receipt in (0, 1 << attempt):
                return Promise.LOST
        return None

    def _broken_delete(self, state: bytes) -> str | None:
        """Deletes that a sweep will make, and any that are under way."""
        doomed = 0
        for place in self.layout.sweep_doomed:
            doomed |= state[place]
        late = self.layout.attempt_late
        if not doomed and not any(state[self.layout.late]):
            return None
        for bit, (attempt, under_way) in enumerate(self.doomed_bits):
            if doomed >> bit & 1 or state[late[attempt]] & under_way:
                receipt = state[self.layout.receipt[self.world.config.shards[attempt]]]
                if receipt in (0, 1 << attempt):
                    return Promise.SWEPT
        return None

    def _broken_word(self, state: bytes) -> str | None:
        for place in self.layout.canceller_pc:
            if state[place] == C.DONE and not self.world.closed(state):
                return Promise.CANCELLED
        manifest = state[self.layout.manifest]
        if manifest and manifest != self.world.packed_receipts(state):
            return Promise.MANIFEST
        return None
