"""Which driver drives: epochs and the heartbeat.

Saves work, never guards it: two drivers on one run are safe, they only render twice what one
could have rendered once. So the newest driver wins at once, without waiting for an old one's
silence, and an older one that sees a higher epoch stands down.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Literal

from pydantic import ValidationError

from render_farm.errors import AlreadyExists, NotFound
from render_farm.ledger import keys
from render_farm.ledger.receipt import LedgerModel
from render_farm.ledger.settle import is_unanswered
from render_farm.store.base import Store
from render_farm.store.patience import patiently

FRESH = timedelta(seconds=60)
"""A run whose heartbeat is younger than this, by the store's clock, is running."""

PATIENCE_S = 60.0
"""How long a driver tries to begin an epoch at a store that does not answer."""


class Heartbeat(LedgerModel):
    """What the driver last said; `reason` is why it ended before the run was complete."""

    epoch: int
    state: Literal["running", "ended"]
    reason: str | None = None


class Lease:
    """One driver's hold on a run."""

    def __init__(self, store: Store, epoch: int) -> None:
        self._store = store
        self.epoch = epoch

    @classmethod
    def take(cls, store: Store, driver: str) -> Lease:
        """Begin the next epoch; `driver` names the process for people who read the store.

        Raises:
            Unknown, Unavailable: the store did not answer for `PATIENCE_S`.
        """
        epoch = patiently(
            lambda: _begin(store, driver),
            patience_s=PATIENCE_S,
            is_transient=is_unanswered,
            operation="begin an epoch",
            key=keys.EPOCHS,
        )
        lease = cls(store, epoch)
        lease.beat()
        return lease

    def superseded(self) -> bool:
        """Whether a newer driver has begun."""
        return any(keys.epoch_of(info.key) > self.epoch for info in self._store.list(keys.EPOCHS))

    def beat(self) -> None:
        """Say that this driver is alive."""
        self._write(Heartbeat(epoch=self.epoch, state="running"))

    def end(self, reason: str | None) -> None:
        """Say that this driver has ended in order, and why; a newer driver's word stands."""
        if not self.superseded():
            self._write(Heartbeat(epoch=self.epoch, state="ended", reason=reason))

    def _write(self, heartbeat: Heartbeat) -> None:
        self._store.put(keys.HEARTBEAT, heartbeat.model_dump_json().encode())


def read_heartbeat(store: Store) -> tuple[Heartbeat, bool] | None:
    """The last heartbeat and whether it is fresh by the store's clock; None if there is none."""
    try:
        heartbeat = Heartbeat.model_validate_json(store.get(keys.HEARTBEAT))
        age = store.now() - store.head(keys.HEARTBEAT).modified_at
    except (NotFound, ValidationError):
        return None
    return heartbeat, age < FRESH


def _begin(store: Store, driver: str) -> int:
    """A new epoch. One whose answer was lost is left to nobody: the next try begins a higher."""
    number = max((keys.epoch_of(info.key) for info in store.list(keys.EPOCHS)), default=0) + 1
    while True:
        try:
            store.create(keys.epoch(number), json.dumps({"driver": driver}).encode())
        except AlreadyExists:
            number += 1
        else:
            return number
