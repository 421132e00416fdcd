"""Receipts as JSON, and nothing believed of them that can be recounted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.set_checker.blobs import Blobs

ENDS = ("done", "filtered", "quarantined", "cancelled")
_RECEIPT = re.compile(r"receipts/(\d{6})\.json")


@dataclass(frozen=True)
class NamedObject:
    """An object that a receipt vouches for."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ReadReceipt:
    """What a receipt claims."""

    shard: int
    attempt: str
    cancelled: bool
    first_row: int
    rows: int
    row_ends: dict[str, int]
    samples: dict[str, int]
    objects: tuple[NamedObject, ...]


def shard_of_receipt(key: str) -> int | None:
    """The shard whose receipt lies under this key, None if nobody's does."""
    match = _RECEIPT.fullmatch(key)
    return int(match[1]) if match else None


def read_receipt(blobs: Blobs, key: str) -> ReadReceipt:
    """The receipt under a key. Raises: `ValueError`, with what is wrong with it."""
    try:
        document = json.loads(blobs.read(key))
        receipt = _parsed(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{key} is no receipt ({error!r})") from error
    if receipt.shard != shard_of_receipt(key):
        raise ValueError(f"{key} is the receipt of shard {receipt.shard}")
    return receipt


def _parsed(document: dict[str, Any]) -> ReadReceipt:
    if document["version"] != 1 or document["kind"] not in {"rendered", "cancelled"}:
        raise ValueError(f"version {document['version']!r}, kind {document['kind']!r}")
    objects = tuple(
        NamedObject(str(item["key"]), _whole(item["size_bytes"]), str(item["sha256"]))
        for item in document["objects"]
    )
    return ReadReceipt(
        shard=_whole(document["shard"]),
        attempt=str(document["attempt"]),
        cancelled=document["kind"] == "cancelled",
        first_row=_whole(document["first_row"]),
        rows=_whole(document["rows"]),
        row_ends={end: _whole(document["counts"][end]) for end in ENDS},
        samples={end: _whole(document["samples"][end]) for end in ("done", "filtered")},
        objects=objects,
    )


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
