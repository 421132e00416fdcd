"""What a run came to, read from the bytes in its store: no code of the ledger is asked.

For runs in the container webdataset whose receipts are all of kind rendered.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.store.base import Store

Line = tuple[int, int, str]
"""(row, sample, SHA-256 of its picture), or (row, -1, error type) of a quarantined row."""


def read_lines(store: Store) -> list[Line]:
    """Every picture and every quarantined row that a receipt answers for, sorted.

    Fails where an object is not the one that its receipt names, and where the metadata of a shard
    do not tell of exactly the pictures in its tar.
    """
    lines: list[Line] = []
    for receipt in read_receipts(store):
        pictures: list[Line] = []
        told: list[Line] = []
        for item in receipt["objects"]:
            data = store.get(item["key"])
            assert (len(data), _sha256(data)) == (item["size_bytes"], item["sha256"]), item["key"]
            if item["key"].endswith(".tar"):
                pictures += _pictures(data)
            elif item["key"].startswith("data/"):
                told += _rows(data, "row", "sample", "sha256")
            else:
                lines += [(row, -1, error) for row, error in _rows(data, "row", "error_type")]
        assert sorted(pictures) == sorted(told)
        lines += pictures
    return sorted(lines)


def read_receipts(store: Store) -> list[dict[str, Any]]:
    """Every receipt, in the order of shards, each under its own shard's key."""
    receipts = [json.loads(store.get(info.key)) for info in store.list("receipts/")]
    expected = [f"receipts/{receipt['shard']:06d}.json" for receipt in receipts]
    assert expected == [info.key for info in store.list("receipts/")]
    return receipts


def assert_whole(store: Store, expected: list[Line]) -> None:
    """The run is complete and is what it should be, and it says so."""
    assert read_lines(store) == expected
    named = [item for receipt in read_receipts(store) for item in receipt["objects"]]
    assert json.loads(store.get("manifest.json"))["objects"] == named
    quarantined = [row for row, sample, _ in expected if sample == -1]
    told = _rows(store.get("quarantine.parquet"), "rf_row")
    assert [row for (row,) in told] == quarantined


def assert_only_named_objects(store: Store) -> None:
    """Every object that a receipt names is there, and no other: as a sweep leaves a whole run."""
    named = {item["key"] for receipt in read_receipts(store) for item in receipt["objects"]}
    there = {info.key for prefix in ("data/", "rejected/") for info in store.list(prefix)}
    assert there == named


def _pictures(tar: bytes) -> list[Line]:
    """The pictures in a tar, by their names: 000000012_03.png is sample 3 of row 12."""
    found: list[Line] = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            name, _, kind = member.name.partition(".")
            if kind == "png":
                content = members.extractfile(member)
                assert content is not None
                row, sample = name.split("_")
                found.append((int(row), int(sample), _sha256(content.read())))
    return found


def _rows(parquet: bytes, *columns: str) -> list[tuple[Any, ...]]:
    table = pq.ParquetFile(pa.BufferReader(parquet)).read(list(columns))
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
