"""The seed rule: which random numbers a sample starts from.

A sample's seed depends on the job's seed, on the row's key and on the sample's number alone. It
does not depend on shards, workers, batches, attempts or on the other rows, so a sample can be
rendered again anywhere and give the same picture.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

SEED_LIMIT = 2**63
"""Seeds lie in 0…2^63−1: what a `torch.Generator` and a Parquet int64 both hold."""

_CANONICAL: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, sort_keys=True)

RowKey = str | list[str | int]
"""The row's `id`, or ``[file, row in file]`` where it has none."""


def derive_seed(*parts: object) -> int:
    """H of the design: the first 8 bytes of SHA-256 over canonical JSON, modulo 2^63.

    Canonical: no white space, ASCII with escapes, big-endian bytes.
    """
    digest = hashlib.sha256(_CANONICAL.encode(parts).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


def row_key(row_id: str | None, file: str, row_in_file: int) -> RowKey:
    """What a row is known by: its id or, without one, where it stands."""
    return [file, row_in_file] if row_id is None else row_id


def sample_seed(job_seed: int, key: RowKey, row_seed: int | None, sample: int) -> int:
    """The seed of one sample.

    `row_seed` is the value of the `seed` column: sample 0 takes it as it is, so that a picture
    known from elsewhere can be made again; later samples are derived from it.
    """
    if row_seed is None:
        return derive_seed(job_seed, key, sample)
    return row_seed if sample == 0 else derive_seed(row_seed, "sample", sample)


def reroll_seed(seed: int, reroll: int) -> int:
    """The seed of the `reroll`-th try (1, 2, …) at a sample whose picture was not wanted."""
    return derive_seed(seed, "reroll", reroll)
