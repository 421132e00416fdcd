"""Every key below a run's URI. No key is made of anything that a dataset says."""

from __future__ import annotations

import re

RUN = "run.json"
MANIFEST = "manifest.json"
CANCEL = "cancel.json"
QUARANTINE = "quarantine.parquet"
RECEIPTS = "receipts/"
DATA = "data/"
REJECTED = "rejected/"
RETRIES = "retries/"
HEARTBEAT = "driver/heartbeat.json"
EPOCHS = "driver/epochs/"
ATTEMPTS = "driver/attempts/"
SHAPES = "driver/shape/"
ROLLUPS = "driver/rollup/"
PROBE = "driver/probe/"

_BY_SHARD = re.compile(r"(?:receipts|driver/attempts)/(\d{6})\.json")
_EPOCH = re.compile(r"driver/epochs/(\d{6,})\.json")
_SHARD_OBJECT = re.compile(r"(?:data|rejected)/(\d{6})-([0-9a-z]+)[./]")


def receipt(shard: int) -> str:
    """The commit point of a shard."""
    return f"{RECEIPTS}{shard:06d}.json"


def shard_of(key: str) -> int | None:
    """The shard that an object under `RECEIPTS` or `ATTEMPTS` is of; None if it is not ours."""
    match = _BY_SHARD.fullmatch(key)
    return int(match[1]) if match else None


def epoch_of(key: str) -> int:
    """The number of an epoch's mark; 0 if the object is not ours."""
    match = _EPOCH.fullmatch(key)
    return int(match[1]) if match else 0


def attempts(shard: int) -> str:
    """What is known of the attempts at an open shard."""
    return f"{ATTEMPTS}{shard:06d}.json"


def rollup(number: int) -> str:
    """The receipts of the `number`-th thousand of shards, in one object."""
    return f"{ROLLUPS}{number}.json"


def epoch(number: int) -> str:
    """The mark of the `number`-th driver of a run."""
    return f"{EPOCHS}{number:06d}.json"


def retry(number: int) -> str:
    """The folder of a child run."""
    return f"{RETRIES}{number:03d}"


def owner(key: str) -> tuple[int, str] | None:
    """Shard and attempt that an object under `DATA` or `REJECTED` belongs to."""
    match = _SHARD_OBJECT.match(key)
    return (int(match[1]), match[2]) if match else None
