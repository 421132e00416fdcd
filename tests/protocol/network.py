"""The network, which keeps requests that their senders gave up, and delivers them when it likes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.protocol.search import Step
from tests.protocol.state import LATE_CREATE, LATE_MARK, changed, late_delete, late_put
from tests.protocol.world import Change, World


class Did(StrEnum):
    """What arrived. A request that never does stays under way for ever."""

    PUT = "network: a late put arrives"
    DELETE = "network: a late delete arrives"
    CREATE = "network: a late create arrives first"
    CREATE_REFUSED = "network: a late create arrives and is refused"
    CANCEL = "network: a late create of a cancel arrives first"
    CANCEL_REFUSED = "network: a late create of a cancel arrives and is refused"
    MARK = "network: a late cancel.json arrives"
    MANIFEST = "network: a late manifest arrives"


class Network:
    """Every request under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.layout = world.layout
        self.renderings = (1, 2)

    def steps(self, state: bytes) -> Iterator[Step]:
        """What can arrive now."""
        if not any(state[self.layout.late]):
            return
        for attempt, place in enumerate(self.layout.attempt_late):
            if state[place]:
                yield from self._of_attempt(state, attempt, place)
        for who, place in enumerate(self.layout.canceller_late):
            if state[place]:
                yield from self._of_canceller(state, who, place)
        for who, place in enumerate(self.layout.driver_late):
            if state[place]:
                written = (self.layout.manifest, state[place])
                yield Did.MANIFEST, who, changed(state, written, (place, 0))

    def _of_attempt(self, state: bytes, attempt: int, place: int) -> Iterator[Step]:
        late = state[place]
        for number in self.world.objects:
            lies = self.world.place_of_object(attempt, number)
            for rendering in self.renderings:
                if late & (bit := late_put(rendering, number)):
                    written = (lies, self.world.content(attempt, rendering))
                    yield Did.PUT, attempt, changed(state, written, (place, late & ~bit))
            if late & (bit := late_delete(number)):
                yield Did.DELETE, attempt, changed(state, (lies, 0), (place, late & ~bit))
        if late & LATE_CREATE:
            shard = self.world.config.shards[attempt]
            rendering = state[self.layout.attempt_rendering[attempt]]
            changes = self._create(state, shard, 1 << attempt, rendering)
            what = Did.CREATE if changes else Did.CREATE_REFUSED
            yield what, attempt, changed(state, *changes, (place, late & ~LATE_CREATE))

    def _of_canceller(self, state: bytes, who: int, place: int) -> Iterator[Step]:
        late = state[place]
        for shard in self.world.shards:
            if late & (bit := 1 << shard):
                changes = self._create(state, shard, self.world.first_canceller << who, 1)
                what = Did.CANCEL if changes else Did.CANCEL_REFUSED
                yield what, who, changed(state, *changes, (place, late & ~bit))
        if late & LATE_MARK:
            yield Did.MARK, who, changed(state, (self.layout.marked, 1), (place, late & ~LATE_MARK))

    def _create(self, state: bytes, shard: int, owner: int, rendering: int) -> tuple[Change, ...]:
        """What the store does with a conditional PUT whose sender no longer waits."""
        if self.world.stops_create(state, shard, owner):
            return ()
        return self.world.write_receipt(state, shard, owner, rendering)
