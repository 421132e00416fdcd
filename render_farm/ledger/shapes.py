"""The batch shape of a model and size on a device model, settled once for the whole run.

The shape decides the last bits of a picture, so it must not change from worker to worker. It only
ever goes down, when a batch did not fit, and each sample's metadata say which one it had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
        self._known: dict[Kind, _Version] = {}

    def adopt(self, kind: Kind, propose: Callable[[], int]) -> int:
        """The batch size in force for images of a kind.

        The first worker to ask settles it; only where none is settled yet is `propose` called.
        """
        newest = self._newest(kind)
        return newest.batch if newest.number else self._settle(kind, 1, propose())

    def settled(self, kinds: Iterable[Kind]) -> dict[Kind, int]:
        """The batch sizes in force for those of `kinds` that have one."""
        found = ((kind, self._newest(kind)) for kind in kinds)
        return {kind: newest.batch for kind, newest in found if newest.number}

    def lower(self, kind: Kind, failed: int) -> int:
        """The batch size to go on with after `failed` did not fit: half of it, or what another
        worker has settled below it since.

        Raises:
            ValueError: a batch of one did not fit.
        """
        if failed <= 1:
            raise ValueError("a batch of one cannot be halved")
        newest = self._newest(kind)
        if newest.number and newest.batch < failed:
            return newest.batch
        return self._settle(kind, newest.number + 1, failed // 2)

    def _newest(self, kind: Kind) -> _Version:
        newest = self._known.get(kind, _NONE)
        while (batch := self._read(kind, newest.number + 1)) is not None:
            newest = _Version(newest.number + 1, batch)
            self._known[kind] = newest
        return newest

    def _read(self, kind: Kind, number: int) -> int | None:
        """The batch size of a version; None if there is none."""
        try:
            data = self._store.get(self._key(kind, number))
        except NotFound:
            return None
        return int(json.loads(data)["batch_size"])

    def _settle(self, kind: Kind, number: int, batch: int) -> int:
        def in_force() -> int | None:
            newest = self._newest(kind)
            return newest.batch if newest.number >= number else None

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


@dataclass(frozen=True, slots=True)
class _Version:
    number: int
    batch: int


_NONE = _Version(0, 0)
