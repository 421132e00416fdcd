"""The bytes of a run, read with plain means: a folder's files, or a client of boto3's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


class Blobs(Protocol):
    """The bytes of a run under keys relative to its URI."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin so."""
        ...

    def read(self, key: str) -> bytes:
        """A whole object. Raises: `FileNotFoundError`."""
        ...


def folder_blobs(path: Path) -> Blobs:
    """A run in a local folder."""
    return _Folder(path)


def bucket_blobs(bucket: str, prefix: str) -> Blobs:
    """A run in a bucket; endpoint and credentials are those of the environment now."""
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 8},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
    )
    client = boto3.session.Session().client("s3", config=config)
    return _Bucket(client, bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else "")


@dataclass(frozen=True)
class _Folder:
    root: Path

    def keys(self, prefix: str = "") -> Iterator[str]:
        # From the deepest folder of the prefix on: a storm asks while the run goes on.
        start = self.root / prefix.rpartition("/")[0]
        for path in sorted(start.rglob("*")):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and path.is_file():
                yield key

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()


@dataclass(frozen=True)
class _Bucket:
    client: Any
    bucket: str
    prefix: str

    def keys(self, prefix: str = "") -> Iterator[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        for page in pages:
            for item in page.get("Contents", ()):
                yield item["Key"].removeprefix(self.prefix)

    def read(self, key: str) -> bytes:
        try:
            found = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise FileNotFoundError(key) from error
            raise
        with found["Body"] as body:
            return body.read()
