"""The task that every rival gets, and the form of its answer."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from render_farm.engine.checks import picture_flags
from render_farm.output.codecs import as_image, encode, luma

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


@dataclass(frozen=True)
class Case:
    """`prompts` is a local Parquet file of `rows` rows, `output` a local folder or an s3:// prefix.

    `model` is a model folder; None: pictures are drawn as a rehearsal draws them. `marks` is a
    local folder of the rival's own, for processes to note when their first batch was done.
    `by_block` lets Ray Data hand over `rows_a_file` rows at once, instead of a batch.
    """

    prompts: str
    output: str
    marks: str
    rows: int
    prompt_column: str = "prompt"
    model: str | None = None
    width: int = 64
    height: int = 64
    steps: int = 20
    guidance_scale: float = 7.5
    batch: int = 16
    image: str = "png"
    quality: int = 95
    processes: int = 2
    threads: int = 1
    rows_a_file: int = 1000
    by_block: bool = False

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_arguments(cls) -> Case:
        return cls(**json.loads(sys.argv[1]))

    def read(self) -> list[dict[str, Any]]:
        """All rows: the plain scripts hold them in memory, as such scripts do."""
        return pq.read_table(self.prompts).to_pylist()

    @cached_property
    def schema(self) -> pa.Schema:
        """What a finished row holds: the columns below, and those that the prompts bring along."""
        own = {"seed", self.prompt_column}
        carried = [field for field in pq.read_schema(self.prompts) if field.name not in own]
        return pa.schema([*COLUMNS, *carried])

    def filesystem(self) -> tuple[fs.FileSystem, str]:
        """Where the output is, by pyarrow, which reads ``AWS_ENDPOINT_URL`` itself."""
        if "://" not in self.output:
            return fs.LocalFileSystem(), self.output
        return fs.FileSystem.from_uri(self.output)


def finished_rows(
    case: Case, rows: Iterable[Mapping[str, Any]], pictures: Iterable[np.ndarray]
) -> list[dict[str, Any]]:
    """Encoded pictures uint8 [H, W, 3], what the farm records of a picture, and carried columns."""
    found: list[dict[str, Any]] = []
    for row, pixels in zip(rows, pictures, strict=True):
        image = as_image(pixels)
        data = encode(image, case.image, case.quality)
        mean_luma, std_luma = luma(image)
        found.append(
            {
                **row,
                "seed": row["seed"],
                "prompt": row[case.prompt_column],
                "negative_prompt": "",
                "width": case.width,
                "height": case.height,
                "steps": case.steps,
                "guidance_scale": case.guidance_scale,
                "scheduler": "model",
                "model": case.model or "rehearsal",
                "format": case.image,
                "size_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "mean_luma": mean_luma,
                "std_luma": std_luma,
                "flags": picture_flags(pixels),
                "created_at": time.time(),
                "image": {"bytes": data, "path": None},
            }
        )
    return found


COLUMNS = pa.schema(
    [
        ("seed", pa.int64()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("steps", pa.int32()),
        ("guidance_scale", pa.float64()),
        ("scheduler", pa.string()),
        ("model", pa.string()),
        ("format", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("mean_luma", pa.float64()),
        ("std_luma", pa.float64()),
        ("flags", pa.list_(pa.string())),
        ("created_at", pa.float64()),
        ("image", IMAGE),
    ]
)


class Files:
    """Writes finished rows as Parquet files of `rows_a_file` rows."""

    def __init__(self, case: Case, name: str) -> None:
        self._case = case
        self._name = name
        self._filesystem, self._folder = case.filesystem()
        self._filesystem.create_dir(self._folder, recursive=True)
        self._waiting: list[dict[str, Any]] = []
        self._written = 0

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        self._waiting += rows
        if len(self._waiting) >= self._case.rows_a_file:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        path = f"{self._folder}/{self._name}-{self._written:06d}.parquet"
        table = pa.Table.from_pylist(self._waiting, schema=self._case.schema)
        pq.write_table(table, path, filesystem=self._filesystem)
        self._written += 1
        self._waiting = []


def in_batches(
    rows: Sequence[Mapping[str, Any]], size: int
) -> Iterator[Sequence[Mapping[str, Any]]]:
    left = iter(rows)
    while batch := list(islice(left, size)):
        yield batch


def say(case: Case, first_done_at: float, ended_at: float) -> None:
    """The answer: images after every process's first batch, from that batch to the last file."""
    images = case.rows - case.batch * case.processes
    seconds = ended_at - first_done_at
    answer = {"images": case.rows, "seconds": seconds, "images_per_s": images / seconds}
    sys.stdout.write(json.dumps(answer) + "\n")
