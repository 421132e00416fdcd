"""Tar files as webdataset reads them: `KEY.png`, `KEY.json` (metadata), `KEY.txt` (prompt).

USTAR, with time, owner and group zero: the same samples give the same bytes.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from render_farm.output.codecs import EXTENSIONS, ImageFormat
from render_farm.output.corrupt import CorruptFile
from render_farm.output.json_form import to_json
from render_farm.output.layout import StoredSample, image_name
from render_farm.output.tar_header import member_header

_BLOCK: Final = tarfile.BLOCKSIZE
_ZERO_BLOCK: Final = bytes(_BLOCK)
_BUFFER: Final = 1 << 20


def write_tar(path: Path, samples: Iterable[StoredSample], image_format: ImageFormat) -> None:
    """Write samples in the order given, one in memory at a time."""
    with path.open("wb", buffering=_BUFFER) as file:
        for sample in samples:
            _add(file, image_name(sample.key, image_format), sample.image)
            _add(file, f"{sample.key}.json", to_json(sample.record))
            _add(file, f"{sample.key}.txt", sample.record["prompt"].encode("utf-8"))
        file.write(_ZERO_BLOCK * 2)
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def read_samples(stream: BinaryIO, name: str = "tar") -> Iterator[StoredSample]:
    """The samples of a tar file, in order, one in memory at a time; `stream` need not seek.

    Stricter than `tarfile`, which takes a file cut between two members for a whole one.

    Raises:
        CorruptFile: truncated, altered, or not the three members of each sample in their order.
    """
    members = _members(stream, name)
    extensions = set(EXTENSIONS.values())
    for member, image in members:
        key, _, extension = member.partition(".")
        record_name, record = next(members, ("", b""))
        prompt_name, prompt = next(members, ("", b""))
        if (
            extension not in extensions
            or record_name != f"{key}.json"
            or prompt_name != f"{key}.txt"
        ):
            found = ", ".join(filter(None, (member, record_name, prompt_name)))
            raise CorruptFile(name, f"not an image, its .json and its .txt: {found}")
        columns = _record(record, f"{name}: {record_name}")
        if columns.get("key") != key or str(columns.get("prompt")).encode("utf-8") != prompt:
            raise CorruptFile(name, f"{record_name} and {prompt_name} do not belong together")
        yield StoredSample(key, image, columns)


def _add(file: BinaryIO, name: str, data: bytes) -> None:
    file.write(member_header(name, len(data)))
    file.write(data)
    file.write(_ZERO_BLOCK[: -len(data) % _BLOCK])


def _record(data: bytes, name: str) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError as error:
        raise CorruptFile(name, f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorruptFile(name, "not a JSON object")
    return record


def _members(stream: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    while (header := _exactly(stream, _BLOCK, name)) != _ZERO_BLOCK:
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise CorruptFile(name, f"a broken tar header: {error}") from error
        if not member.isreg():
            raise CorruptFile(name, f"member {member.name!r} is not a regular file")
        data = _exactly(stream, member.size, f"{name}: {member.name}")
        _exactly(stream, -member.size % _BLOCK, f"{name}: {member.name}")
        yield member.name, data
    _exactly(stream, _BLOCK, name)
    while tail := stream.read(1 << 16):
        if tail.strip(b"\0"):
            raise CorruptFile(name, "there are bytes after the end of the archive")


def _exactly(stream: BinaryIO, size: int, name: str) -> bytes:
    parts = []
    missing = size
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    if missing:
        raise CorruptFile(name, f"truncated: {missing} of {size} bytes are missing")
    return b"".join(parts)
