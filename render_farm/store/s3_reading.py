"""How objects are asked for: one GET, continued where it breaks off, or a few ranges at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from render_farm.errors import StoreError
from render_farm.store.patience import Patience
from render_farm.store.s3_ahead import ReadAhead
from render_farm.store.s3_body import ContinuedBody, Part
from render_farm.store.s3_client import S3Options
from render_farm.store.s3_errors import status_and_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """Opens one object. `uri` and `key` are what errors name, `full` is its key in the bucket."""

    client: S3Client
    bucket: str
    full: str
    patiently: Patience
    options: S3Options
    uri: str
    key: str

    def open(self, start: int, stop: int | None, etag: str | None = None) -> ContinuedBody:
        """The bytes from `start` to `stop` by one GET; see `ContinuedBody`."""
        return ContinuedBody(
            lambda position: self._get(position, stop),
            start,
            uri=self.uri,
            key=self.key,
            patience_s=self.options.patience_s,
            etag=etag,
        )

    def open_ahead(self) -> ContinuedBody:
        """The whole object; a large one in several ranges at once, all of one version."""
        return ContinuedBody(
            self._get_ahead,
            0,
            uri=self.uri,
            key=self.key,
            patience_s=self.options.patience_s,
        )

    def _get(self, position: int, stop: int | None) -> Part:
        if position == 0 and stop is None:  # an empty object has no range
            answer = self.patiently(
                "get", lambda: self.client.get_object(Bucket=self.bucket, Key=self.full)
            )
        else:
            span = f"bytes={position}-{'' if stop is None else stop - 1}"
            answer = self.patiently(
                "get",
                lambda: self.client.get_object(Bucket=self.bucket, Key=self.full, Range=span),
            )
        over_tls = self.client.meta.endpoint_url.startswith("https:")
        return Part(
            answer["Body"],
            answer["ContentLength"],
            answer["ETag"],
            _total_bytes(answer),
            sealed=not (_encrypted(answer) and over_tls),
        )

    def _get_ahead(self, position: int) -> Part:
        first = self._open_first(position)
        body = ReadAhead(
            first,
            lambda start, stop: self.open(start, stop, first.etag),
            range_bytes=self.options.range_bytes,
            ranges=self.options.ranges,
        )
        return Part(
            body,
            first.total_bytes - position,
            first.etag,
            first.total_bytes,
            # where `first` is all of it, it holds the ETag against it
            sealed=first.sealed and first.stop < first.total_bytes,
        )

    def _open_first(self, position: int) -> ContinuedBody:
        try:
            return self.open(position, position + self.options.range_bytes)
        except StoreError as error:
            if position == 0 and lies_beyond_end(error):  # an empty object has no range
                return self.open(0, None)
            raise


def lies_beyond_end(error: StoreError) -> bool:
    """Whether it was raised because nothing of the object lies in the range asked for."""
    cause = error.__cause__
    return cause is not None and status_and_code(cause)[0] == RANGE_NOT_SATISFIABLE


def _total_bytes(answer: GetObjectOutputTypeDef) -> int:
    """The size of the whole object, of which the answer may be a range."""
    _span, _, total = answer.get("ContentRange", "").rpartition("/")
    return int(total) if total.isdecimal() else answer["ContentLength"]


def _encrypted(answer: GetObjectOutputTypeDef) -> bool:
    """Whether the ETag is the MD5 of something encrypted, not of what is read."""
    kms = answer.get("ServerSideEncryption", "").startswith("aws:")
    return kms or bool(answer.get("SSECustomerAlgorithm"))
