"""The names of a shard's files, and what of them goes where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from render_farm.output.codecs import EXTENSIONS, ImageFormat

Container: TypeAlias = Literal["webdataset", "parquet", "files"]

CONTAINERS: Final[tuple[Container, ...]] = get_args(Container)


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """One attempt at one shard: rows `first_row` … `first_row + rows - 1`, `samples` of each."""

    shard: int
    attempt: str
    first_row: int
    rows: int
    samples: int
    container: Container
    image_format: ImageFormat

    @property
    def tar_key(self) -> str:
        """The tar file of container webdataset."""
        return f"{self._data_stem}.tar"

    @property
    def metadata_key(self) -> str:
        """The Parquet file of the done samples, with their images in container parquet."""
        return f"{self._data_stem}.parquet"

    @property
    def rejected_key(self) -> str:
        """The Parquet file of the filtered samples and quarantined rows."""
        return f"rejected/{self.shard:06d}-{self.attempt}.parquet"

    def image_key(self, sample_key: str) -> str:
        """The object of one image in container files."""
        return image_key(self.shard, self.attempt, sample_key, self.image_format)

    def image_name(self, sample_key: str) -> str:
        """The name of an image as a file."""
        return image_name(sample_key, self.image_format)

    @property
    def _data_stem(self) -> str:
        return f"data/{self.shard:06d}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A finished local file: `path` is to be stored under `key`, relative to the run's URI.

    `sha256` is hexadecimal. `listed_in_receipt` is false for the single images of container
    files, which the receipt does not name: its metadata Parquet does, each with its sha256.
    """

    key: str
    path: Path
    size_bytes: int
    sha256: str
    listed_in_receipt: bool


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A done sample as it lies in a container: `record` is its metadata in JSON form."""

    key: str
    image: bytes
    record: dict[str, Any]


def image_key(shard: int, attempt: str, sample: str, image_format: ImageFormat) -> str:
    """The object of an image in container files, from the columns of its metadata.

    `sample` is the column `key`, `image_format` the column `format`.
    """
    return f"data/{shard:06d}-{attempt}/{image_name(sample, image_format)}"


def image_name(sample: str, image_format: ImageFormat) -> str:
    """The name of a sample's image as a file, and as a member of a tar."""
    return f"{sample}.{EXTENSIONS[image_format]}"
