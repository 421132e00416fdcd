"""Opening a shard's objects: lines of metadata, and the image that goes with each."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.set_checker.blobs import Blobs

COLUMNS = (
    "shard",
    "row",
    "sample",
    "id",
    "prompt",
    "width",
    "height",
    "status",
    "key",
    "format",
    "size_bytes",
    "sha256",
    "attempt",
)
"""What is checked of the metadata; what else there is, is not read."""

IMAGE = "image"
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


class Unreadable(Exception):
    """Bytes that are not what the layout says lies there."""


@dataclass(frozen=True)
class Line:
    """One line of metadata, with its image where the container has it there; else None."""

    columns: dict[str, Any]
    image: bytes | None = None

    def number(self, name: str) -> int:
        """A whole number. Raises: `Unreadable`."""
        value = self.columns.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unreadable(f"{name} is {value!r}")
        return value

    def text(self, name: str) -> str | None:
        """A text or None. Raises: `Unreadable`."""
        value = self.columns.get(name)
        if value is not None and not isinstance(value, str):
            raise Unreadable(f"{name} is {value!r}")
        return value


def parquet_lines(data: bytes) -> list[Line]:
    """The lines of a Parquet file, with images where it has the column. Raises: `Unreadable`."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        image = [IMAGE] if IMAGE in file.schema_arrow.names else []
        rows = file.read(columns=[*COLUMNS, *image]).select([*COLUMNS, *image]).to_pylist()
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise Unreadable(f"no whole Parquet file of a result ({error})") from error
    return [Line(row, (row.pop(IMAGE, None) or {}).get("bytes")) for row in rows]


def has_images(data: bytes) -> bool:
    """Whether a Parquet file is one of container parquet."""
    try:
        return IMAGE in pq.read_schema(pa.BufferReader(data)).names
    except (pa.ArrowException, OSError):
        return False


def tar_lines(data: bytes) -> Iterator[Line | Unreadable]:
    """The samples of a tar, three members of one name each; a broken one hides no other.

    Raises: `Unreadable`, for the whole.
    """
    name, members = "", dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                stem, _, extension = member.name.partition(".")
                # A member that is there twice begins a sample of its own.
                if members and (stem != name or extension in members):
                    yield _sample(name, members)
                    members = {}
                content = tar.extractfile(member) if member.isreg() else None
                name, members[extension] = stem, content.read() if content else b""
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Unreadable(f"no whole tar ({error})") from error
    if members:
        yield _sample(name, members)


def _sample(name: str, members: dict[str, bytes]) -> Line | Unreadable:
    images = [members[extension] for extension in EXTENSIONS.values() if extension in members]
    if len(images) != 1 or len(members) != 3 or not {"json", "txt"} <= members.keys():
        return Unreadable(f"sample {name} has the members {', '.join(sorted(members))}")
    try:
        columns = json.loads(members["json"])
        prompt = members["txt"].decode()
    except ValueError as error:
        return Unreadable(f"sample {name}: {error}")
    if not isinstance(columns, dict) or not columns.keys() >= set(COLUMNS):
        return Unreadable(f"sample {name}: its .json is no metadata")
    if (columns["key"], columns["prompt"]) != (name, prompt):
        return Unreadable(f"sample {name}: its .json is of {columns['key']}, or its .txt is")
    return Line(columns, images[0])


def image_beside(blobs: Blobs, line: Line) -> tuple[str, bytes | None]:
    """Of a line of container files the key of the image and the image; None if it is not there.

    Raises: `Unreadable`.
    """
    extension = EXTENSIONS.get(line.text("format") or "", "?")
    folder = f"data/{line.number('shard'):06d}-{line.text('attempt')}"
    key = f"{folder}/{line.text('key')}.{extension}"
    try:
        return key, blobs.read(key)
    except FileNotFoundError:
        return key, None
    except ValueError as error:
        raise Unreadable(f"{key!r} cannot be asked for") from error


def shown_size(image: bytes, image_format: str | None) -> tuple[int, int]:
    """Width and height after decoding every pixel. Raises: `Unreadable`."""
    try:
        with Image.open(io.BytesIO(image)) as picture:
            picture.load()
            if (picture.format or "").lower() != image_format:
                raise Unreadable(f"it is a {picture.format}, not a {image_format}")
            return picture.size
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Unreadable(f"it does not decode ({error})") from error
