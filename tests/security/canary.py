"""Secrets that are searched for in every byte that a run leaves, in any of their disguises."""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import io
import json
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

PARQUET = b"PAR1"
ZSTD_FRAME = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Canary:
    """Secrets by name; random, and full of characters that are written differently elsewhere."""

    secrets: dict[str, str] = field(
        default_factory=lambda: {
            "access key": f"CANARY{secrets.token_hex(7).upper()}",
            "secret key": f"canary/{secrets.token_hex(8)}+{secrets.token_hex(8)}/x",
            "session token": f"canary-session//{secrets.token_hex(16)}==",
            "hub token": f"hf_canary{secrets.token_hex(12)}",
        }
    )

    def finds(self, places: Iterable[tuple[str, bytes]]) -> list[str]:
        """Every secret that stands in one of the named texts: name, disguise, place."""
        wanted = [
            (f"{name}, {disguise}", needle)
            for name, secret in self.secrets.items()
            for disguise, needle in disguises(secret).items()
        ]
        return [
            f"{what} in {place}{layer}"
            for place, data in places
            for layer, text in layers(data)
            for what, needle in wanted
            if needle in text
        ]


def disguises(secret: str) -> dict[str, bytes]:
    """The ways in which a text may stand in other texts."""
    plain = secret.encode()
    found = {
        "plain": plain,
        "percent": quote(secret, safe="").encode(),
        "percent, small": quote(secret, safe="")
        .replace("%2F", "%2f")
        .replace("%2B", "%2b")
        .encode(),
        "percent, slashes kept": quote(secret).encode(),
        "form": quote_plus(secret).encode(),
        "json": json.dumps(secret)[1:-1].replace("/", "\\/").encode(),
        "hex": binascii.hexlify(plain),
        "HEX": binascii.hexlify(plain).upper(),
        "utf-16": secret.encode("utf-16-le"),
        "reversed": plain[::-1],
    }
    for offset in range(3):
        # Wherever it begins in what was encoded; the ends, which the neighbours decide, are cut.
        whole = base64.b64encode(b"\0" * offset + plain)
        core = whole[4 if offset else 0 : len(whole) // 4 * 4 - 4]
        found[f"base64, {offset}"] = core
        found[f"base64 for URLs, {offset}"] = core.replace(b"+", b"-").replace(b"/", b"_")
    return found


def layers(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A text, and what lies compressed in it."""
    yield "", data
    if data[:4] == PARQUET != data[-4:]:
        # Left half written, without a footer, by a process that was killed.
        for at in re.finditer(re.escape(ZSTD_FRAME), data):
            yield " (pages)", b"".join(_unpacked(data[at.start() :]))
    elif data[:4] == PARQUET:
        file = pq.ParquetFile(io.BytesIO(data))
        yield " (metadata)", repr(file.schema_arrow.metadata).encode()
        yield " (rows)", b"\n".join(_flat(file.read().to_pylist()))
    if data[:2] == b"\x1f\x8b":
        yield " (gzip)", gzip.decompress(data)


def _unpacked(frame: bytes) -> Iterator[bytes]:
    """A zstd frame at the beginning of a text, byte by byte as far as it goes."""
    stream = pa.CompressedInputStream(pa.BufferReader(frame), "zstd")
    with contextlib.suppress(OSError):  # what follows the frame is none, or it was cut
        while byte := stream.read(1):
            yield byte


def _flat(value: object) -> Iterator[bytes]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key).encode()
            yield from _flat(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner)
    else:
        yield value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def in_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, links and sockets left out, and every name."""
    for path in sorted(folder.rglob("*")):
        yield f"the name of {path}", str(path.relative_to(folder)).encode()
        if stat.S_ISREG(path.lstat().st_mode):
            yield str(path), path.read_bytes()


def in_bucket(client: Any, bucket: str) -> Iterator[tuple[str, bytes]]:
    """Every object of a bucket, with key and headers."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            answer = client.get_object(Bucket=bucket, Key=item["Key"])
            yield f"the key {item['Key']}", item["Key"].encode()
            yield f"the headers of {item['Key']}", repr(answer["ResponseMetadata"]).encode()
            yield item["Key"], answer["Body"].read()
