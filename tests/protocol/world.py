"""What the processes of the model share: the store's side of a request, questions to a state."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol.state import Bug, Config, Layout

Change = tuple[int, int]


class Outcome(StrEnum):
    """What can become of a create."""

    CREATED = "creates the receipt"
    UNANSWERED = "creates the receipt, the answer is lost"
    EXISTS = "is told that there is a receipt"
    NEVER_ARRIVED = "gets no answer, its create never arrived"
    DELAYED = "gets no answer, its create is still under way"


class World:
    """The store of one model: sizes, keys and what a create does."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layout = Layout(config)
        self.bug = config.bug
        self.attempts = range(len(config.shards))
        self.objects = range(config.objects)
        self.shards = range(len(self.layout.receipt))
        self.first_canceller = 1 << len(config.shards)
        self.objects_of_shard = tuple(
            sum(self.objects_of(a) for a in self.attempts if config.shards[a] == shard)
            for shard in self.shards
        )

    def objects_of(self, attempt: int) -> int:
        """The bits of an attempt's objects in a set of objects."""
        count = self.config.objects
        return ((1 << count) - 1) << (attempt * count)

    def place_of_object(self, attempt: int, number: int) -> int:
        """Where an object lies. Keys hold the attempt: `keys.owner`."""
        if self.bug is Bug.SHARED_KEYS:
            attempt = self.config.shards.index(self.config.shards[attempt])
        return self.layout.content[attempt * self.config.objects + number]

    def content(self, attempt: int, rendering: int) -> int:
        """What an attempt writes: no two write the same, as pictures carry the attempt's id."""
        return 2 * attempt + rendering

    def closed(self, state: bytes) -> bool:
        """Whether every shard has a receipt."""
        return all(state[place] for place in self.layout.receipt)

    def one_more_late(self, state: bytes) -> bool:
        """Whether the network may hold back another request."""
        under_way = int.from_bytes(state[self.layout.late], "big").bit_count()
        return under_way < self.config.late

    def present(self, state: bytes) -> int:
        """The set of objects that are there, as a listing shows them."""
        bits = 0
        for bit, place in enumerate(self.layout.content):
            if state[place]:
                bits |= 1 << bit
        return bits

    def packed_receipts(self, state: bytes) -> int:
        """Who owns each shard, in one byte: what a manifest says."""
        packed = 0
        for shard, place in enumerate(self.layout.receipt):
            packed |= state[place].bit_length() << (4 * shard)
        return packed

    def write_receipt(
        self, state: bytes, shard: int, owner: int, rendering: int
    ) -> tuple[Change, ...]:
        """The receipt is `owner`'s from now on; a plain put replaces what was there."""
        layout = self.layout
        mine = owner
        if self.bug is Bug.RECEIPT_PER_ATTEMPT:
            mine |= state[layout.receipt[shard]]
        first = state[layout.first[shard]] or owner
        named = state[layout.named[shard]] or rendering
        return (
            (layout.receipt[shard], mine),
            (layout.first[shard], first),
            (
                layout.named[shard],
                named,
            ),
        )

    def stops_create(self, state: bytes, shard: int, owner: int) -> bool:
        """Whether ``If-None-Match: *`` refuses this create."""
        if self.bug is Bug.PLAIN_PUT or (
            self.bug is Bug.CANCEL_PUTS and owner >= self.first_canceller
        ):
            return False
        receipt = state[self.layout.receipt[shard]]
        if self.bug is Bug.RECEIPT_PER_ATTEMPT:
            receipt &= owner
        return receipt != 0

    def create(
        self, state: bytes, shard: int, owner: int, rendering: int, late: Change
    ) -> Iterator[tuple[Outcome, tuple[Change, ...]]]:
        """`S3Store.create`: one conditional PUT, never sent twice; `late` is its bit's place.

        A request is one step of the model, and what the client does with the answer another: the
        time on the way back is the time before the client's next step.
        """
        place, bit = late
        if self.stops_create(state, shard, owner):
            yield Outcome.EXISTS, ()
        else:
            written = self.write_receipt(state, shard, owner, rendering)
            yield Outcome.CREATED, written
            yield Outcome.UNANSWERED, written
            yield Outcome.NEVER_ARRIVED, ()
        if not state[place] & bit and self.one_more_late(state):
            yield Outcome.DELAYED, ((place, state[place] | bit),)
