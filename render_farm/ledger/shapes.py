"""The batch shape of a model and size on a device model, settled once for the whole run.

The shape decides the last bits of a picture, so it must not change from worker to worker. It only
ever goes down, when a batch did not fit, and each sample's metadata say which one it had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from render_farm.errors import NotFound
from render_farm.job.request import Kind
from render_farm.job.spec import ONLY_MODEL
from render_farm.ledger import keys
from render_farm.ledger.settle import settle
from render_farm.store.base import Store

PATIENCE_S = 60.0
"""How long a worker waits to learn which shape was settled."""


class Shapes:
    """The batch sizes in force on a device model. Threads may share it.

    Versions are numbered without a gap and never written again, so what is known of a kind is read
    once, and whether it still holds is a question for the next version alone.
    """

    def __init__(self, store: Store, device: str) -> None:
        self._store = store
        self._device = device
        self._known: dict[Kind, tuple[int, ...]] = {}  # the batch sizes of its versions, in order

    def adopt(self, kind: Kind, propose: Callable[[], int]) -> int:
        """The batch size in force for images of a kind.

        The first worker to ask settles it; only where none is settled yet is `propose` called.
        """
        batches = self._batches(kind)
        return batches[-1] if batches else self._settle(kind, 1, propose())

    def settled(self, kinds: Iterable[Kind]) -> dict[Kind, int]:
        """The batch sizes in force for those of `kinds` that have one."""
        found = ((kind, self._batches(kind)) for kind in kinds)
        return {kind: batches[-1] for kind, batches in found if batches}

    def lower(self, kind: Kind, failed: int) -> int:
        """The batch size to go on with after `failed` did not fit: half of it, or what another
        worker has settled below it since.

        Raises:
            ValueError: a batch of one did not fit.
        """
        if failed <= 1:
            raise ValueError("a batch of one cannot be halved")
        batches = self._batches(kind)
        if batches and batches[-1] < failed:
            return batches[-1]
        return self._settle(kind, len(batches) + 1, failed // 2)

    def _batches(self, kind: Kind) -> tuple[int, ...]:
        """The batch sizes of all versions; the last is in force."""
        batches = self._known.get(kind, ())
        while (batch := self._read(kind, len(batches) + 1)) is not None:
            batches = (*batches, batch)
            self._known[kind] = batches
        return batches

    def _read(self, kind: Kind, number: int) -> int | None:
        """The batch size of a version; None if there is none."""
        try:
            data = self._store.get(self._key(kind, number))
        except NotFound:
            return None
        return int(json.loads(data)["batch_size"])

    def _settle(self, kind: Kind, number: int, batch: int) -> int:
        def in_force() -> int | None:
            batches = self._batches(kind)
            return batches[-1] if len(batches) >= number else None

        return settle(
            self._store,
            self._key(kind, number),
            json.dumps({"batch_size": batch, "device": self._device}).encode(),
            batch,
            in_force,
            PATIENCE_S,
        )

    def _key(self, kind: Kind, number: int) -> str:
        """No name of a model, and no slug, has an @."""
        slug = re.sub(r"[^a-z0-9]+", "-", self._device.lower()).strip("-")
        device_and_model = f"{slug}-" if kind.model == ONLY_MODEL else f"{slug}@{kind.model}@"
        return f"{keys.SHAPES}{device_and_model}{kind.width}x{kind.height}-{number}.json"
