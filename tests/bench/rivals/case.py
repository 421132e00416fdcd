"""The task that every rival gets, and the form of its answer."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from render_farm.output.codecs import as_image, encode

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


@dataclass(frozen=True)
class Case:
    """`prompts` is a local Parquet file of `rows` rows, `output` a local folder or an s3:// prefix.

    `model` is a model folder; None: pictures are drawn as a rehearsal draws them. `marks` is a
    local folder of the rival's own, for processes to note when their first batch was done.
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

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_arguments(cls) -> Case:
        return cls(**json.loads(sys.argv[1]))

    def read(self) -> list[dict[str, Any]]:
        """All rows: the plain scripts hold them in memory, as such scripts do."""
        columns = ["seed", self.prompt_column]
        return pq.read_table(self.prompts, columns=columns).to_pylist()

    def filesystem(self) -> tuple[fs.FileSystem, str]:
        """Where the output is, by pyarrow, which reads ``AWS_ENDPOINT_URL`` itself."""
        if "://" not in self.output:
            return fs.LocalFileSystem(), self.output
        return fs.FileSystem.from_uri(self.output)


def finished_rows(
    case: Case, rows: Iterable[Mapping[str, Any]], pictures: Iterable[np.ndarray]
) -> pa.Table:
    """Encoded pictures uint8 [H, W, 3] and what is to be known of each, as the farm's container."""
    found: list[dict[str, Any]] = []
    for row, pixels in zip(rows, pictures, strict=True):
        data = encode(as_image(pixels), case.image, case.quality)
        found.append(
            {
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
                "mean_luma": float(pixels.mean()),
                "created_at": time.time(),
                "image": {"bytes": data, "path": None},
            }
        )
    return pa.Table.from_pylist(found, schema=SCHEMA)


SCHEMA = pa.schema(
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
        self._waiting: list[pa.Table] = []
        self._written = 0

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(each.num_rows for each in self._waiting) >= self._case.rows_a_file:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        path = f"{self._folder}/{self._name}-{self._written:06d}.parquet"
        pq.write_table(pa.concat_tables(self._waiting), path, filesystem=self._filesystem)
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
