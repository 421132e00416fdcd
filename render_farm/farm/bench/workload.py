"""The prompts of a measured run. The same number of rows gives the same file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_A_GROUP = 10_000

KINDS = ("a photograph of", "an oil painting of", "a pencil drawing of", "a 3d render of")
ADJECTIVES = ("old", "tiny", "enormous", "crystal", "wooden", "sleeping", "abandoned", "cheerful")
SUBJECTS = ("lighthouse", "fox", "locomotive", "castle", "astronaut", "cat", "market", "whale")
PLACES = ("on a hill", "in the rain", "under the stars", "by the sea", "in a dense forest")
LIGHTS = ("at dawn", "in soft evening light", "lit by candles", "in harsh noon sun", "at night")
STYLES = ("highly detailed", "muted colours", "wide angle", "35mm film, shallow depth of field")

_FIELDS: list[pa.Field[Any]] = [
    pa.field("id", pa.string()),
    pa.field("prompt", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("label", pa.string()),
]
SCHEMA = pa.schema(_FIELDS)


def write_prompts(path: Path, rows: int) -> None:
    """A Parquet file of `rows` prompts of some twenty words, each with an id, a seed and a label.

    Memory does not grow with the rows.
    """
    with pq.ParquetWriter(path, SCHEMA, write_page_checksum=True) as writer:
        for table in _tables(rows):
            writer.write_table(table, row_group_size=ROWS_A_GROUP)


def _tables(rows: int) -> Iterator[pa.Table]:
    draw = random.Random(0)  # noqa: S311 - to be repeated, not to be secret
    for first in range(0, rows, ROWS_A_GROUP):
        numbers = range(first, min(rows, first + ROWS_A_GROUP))
        columns = {
            "id": [f"prompt-{number:09d}" for number in numbers],
            "prompt": [_prompt(draw, number) for number in numbers],
            "seed": list(numbers),
            "label": [f"class {number % 1000}" for number in numbers],
        }
        yield pa.table(columns, schema=SCHEMA)


def _prompt(draw: random.Random, number: int) -> str:
    words = [draw.choice(part) for part in (KINDS, ADJECTIVES, SUBJECTS, PLACES, LIGHTS, STYLES)]
    kind, adjective, subject, place, light, style = words
    return f"{kind} the {adjective} {subject} number {number} {place}, {light}, {style}"
