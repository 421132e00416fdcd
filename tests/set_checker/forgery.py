"""Changing a committed run so that what was changed vouches for itself again."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass
class Sample:
    """A done sample: its metadata and its picture."""

    columns: dict[str, Any]
    image: bytes

    def repaint(self, image: bytes) -> None:
        """Give it a picture that its metadata agrees with."""
        digest = hashlib.sha256(image).hexdigest()
        self.image = image
        self.columns = self.columns | {"sha256": digest, "size_bytes": len(image)}


Change = Callable[[list[Sample]], list[Sample]]


@dataclass(frozen=True)
class Forger:
    """Works on one shard of a run in a folder; `webdataset`, `parquet` and `files` alike."""

    folder: Path
    container: str
    shard: int = 1

    @property
    def receipt(self) -> dict[str, Any]:
        return json.loads((self.folder / f"receipts/{self.shard:06d}.json").read_bytes())

    def write_receipt(self, **fields: Any) -> None:
        """Change fields of the receipt, and leave no manifest that knows better."""
        document = self.receipt | fields
        (self.folder / f"receipts/{self.shard:06d}.json").write_text(json.dumps(document))
        (self.folder / "manifest.json").unlink(missing_ok=True)

    def key(self, suffix: str, room: str = "data") -> str:
        [key] = [
            item["key"]
            for item in self.receipt["objects"]
            if item["key"].startswith(room) and item["key"].endswith(suffix)
        ]
        return key

    def main_key(self) -> str:
        """The object with the samples in it."""
        return self.key(".tar" if self.container == "webdataset" else ".parquet")

    def vouch(self, key: str, data: bytes) -> None:
        """Write an object and make the receipt agree with it."""
        (self.folder / key).write_bytes(data)
        item = {"key": key, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        objects = [item if old["key"] == key else old for old in self.receipt["objects"]]
        self.write_receipt(objects=objects)

    def rewrite_lines(self, key: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Change the lines of a Parquet file."""
        table = pq.read_table(pa.BufferReader((self.folder / key).read_bytes()))
        lines = change(table.to_pylist())
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(lines, table.schema), sink, write_page_checksum=True)
        self.vouch(key, sink.getvalue())

    def rewrite_samples(self, change: Change) -> None:
        """Change the done samples, pictures and metadata, wherever the container has them."""
        samples = change(self._samples())
        if self.container == "webdataset":
            self.vouch(self.main_key(), tar_of(samples))
        lines = [dict(sample.columns) for sample in samples]
        for sample, line in zip(samples, lines, strict=True):
            if self.container == "parquet":
                line["image"] = {"bytes": sample.image, "path": f"{line['key']}.png"}
            elif self.container == "files":
                self.image_path(line).write_bytes(sample.image)
        self.rewrite_lines(self.key(".parquet"), lambda _: lines)

    def image_path(self, line: dict[str, Any]) -> Path:
        """The object of one picture in container files."""
        return self.folder / f"data/{line['shard']:06d}-{line['attempt']}/{line['key']}.png"

    def _samples(self) -> list[Sample]:
        path = self.folder / self.key(".parquet")
        lines = pq.read_table(pa.BufferReader(path.read_bytes())).to_pylist()
        if self.container == "webdataset":
            pictures = dict(members((self.folder / self.main_key()).read_bytes()))
            return [Sample(line, pictures[f"{line['key']}.png"]) for line in lines]
        if self.container == "parquet":
            return [Sample(line, line.pop("image")["bytes"]) for line in lines]
        return [Sample(line, self.image_path(line).read_bytes()) for line in lines]


def members(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of a tar, in order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def tar_of(samples: list[Sample]) -> bytes:
    """Samples as a shard's tar."""
    content = []
    for sample in samples:
        key = sample.columns["key"]
        told = json.dumps(sample.columns, default=str).encode()
        content += [(f"{key}.png", sample.image), (f"{key}.json", told)]
        content.append((f"{key}.txt", sample.columns["prompt"].encode()))
    return tar_of_members(content)


def tar_of_members(content: list[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()
