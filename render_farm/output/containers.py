"""Reading the samples of a shard back, whatever container they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeAlias

from render_farm.output import parquet, webdataset
from render_farm.output.json_form import json_rows
from render_farm.output.layout import Container, StoredSample, image_key

Fetch: TypeAlias = Callable[[str], bytes]
"""Gives the whole object under a key relative to the run's URI."""


def iter_samples(
    container: Container, stream: BinaryIO, fetch: Fetch, name: str = "shard"
) -> Iterator[StoredSample]:
    """The done samples of a shard, in order of (row, sample), few in memory at a time.

    `stream` is the tar of container webdataset, which need not seek, or the Parquet file of the
    other two, which must. `fetch` is asked for the images of container files and for nothing else.
    Whether an image is the one recorded is for the caller to see: `record["sha256"]`.

    Raises:
        CorruptFile: truncated or altered; `name` is in it.
    """
    if container == "webdataset":
        yield from webdataset.read_samples(stream, name)
    elif container == "parquet":
        yield from parquet.read_samples(stream, name)
    else:
        for record in json_rows(parquet.read_metadata(stream, name)):
            key = image_key(record["shard"], record["attempt"], record["key"], record["format"])
            yield StoredSample(record["key"], fetch(key), record)
