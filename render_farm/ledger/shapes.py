"""The batch shape of a model and size on a device model, settled once for the whole run.

The shape decides the last bits of a picture, so it must not change from worker to worker. It only
ever goes down, when a batch did not fit, and each sample's metadata say which one it had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from render_farm.job.request import Kind
from render_farm.job.spec import ONLY_MODEL
from render_farm.ledger import keys
from render_farm.ledger.settle import settle
from render_farm.store.base import Store

PATIENCE_S = 60.0
"""How long a worker waits to learn which shape was settled."""


def adopt_shape(store: Store, device: str, kind: Kind, propose: Callable[[], int]) -> int:
    """The batch size in force for images of a kind.

    The first worker to ask settles it; only where none is settled yet is `propose` called.
    """
    return _settled(store, device, kind) or _settle(store, device, kind, 1, propose())


def settled_shapes(store: Store, device: str, kinds: Iterable[Kind]) -> dict[Kind, int]:
    """The batch sizes in force for those of `kinds` that have one."""
    found = ((kind, _settled(store, device, kind)) for kind in kinds)
    return {kind: batch for kind, batch in found if batch is not None}


def lower_shape(store: Store, device: str, kind: Kind, failed: int) -> int:
    """The batch size to go on with after `failed` did not fit: half of it, or what another
    worker has settled below it since.

    Raises:
        ValueError: a batch of one did not fit.
    """
    if failed <= 1:
        raise ValueError("a batch of one cannot be halved")
    known = _versions(store, device, kind)
    number = max(known, default=0)
    if number and (current := _read(store, known[number])) < failed:
        return current
    return _settle(store, device, kind, number + 1, failed // 2)


def _settled(store: Store, device: str, kind: Kind, since: int = 1) -> int | None:
    """The newest version; None if there is none from number `since` on."""
    known = _versions(store, device, kind)
    newest = max(known, default=0)
    return _read(store, known[newest]) if newest >= since else None


def _settle(store: Store, device: str, kind: Kind, number: int, batch: int) -> int:
    return settle(
        store,
        f"{_prefix(device, kind)}{number}.json",
        json.dumps({"batch_size": batch, "device": device}).encode(),
        batch,
        lambda: _settled(store, device, kind, number),
        PATIENCE_S,
    )


def _versions(store: Store, device: str, kind: Kind) -> dict[int, str]:
    prefix = _prefix(device, kind)
    found = [info.key for info in store.list(prefix)]
    return {int(key.removeprefix(prefix).removesuffix(".json")): key for key in found}


def _read(store: Store, key: str) -> int:
    return int(json.loads(store.get(key))["batch_size"])


def _prefix(device: str, kind: Kind) -> str:
    """What names of its versions begin with: no name of a model, and no slug, has an @."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    device_and_model = f"{slug}-" if kind.model == ONLY_MODEL else f"{slug}@{kind.model}@"
    return f"{keys.SHAPES}{device_and_model}{kind.width}x{kind.height}-"
