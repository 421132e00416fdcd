"""Objects in S3 or a store with its interface, by boto3."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from botocore.exceptions import ClientError

from render_farm.errors import NotFound, StoreError, Unavailable, Unknown
from render_farm.store.base import ObjectInfo
from render_farm.store.keys import checked_key, checked_prefix
from render_farm.store.patience import patiently
from render_farm.store.s3_body import CHUNK_BYTES, ContinuedBody, Part
from render_farm.store.s3_client import S3Clients, S3Options, make_clients
from render_farm.store.s3_errors import FOREIGN, is_transient, status_and_code, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

T = TypeVar("T")


class S3Store:
    """A `Store` in a bucket, below a prefix.

    Endpoint, profile, region and credentials are boto3's own affair; nothing of them is in the
    URI. Nothing is connected to before the first request. Safe among threads; pickling keeps URI
    and options and makes new clients on the other side.

    `create` is one PUT with ``If-None-Match: *``, never sent twice.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, uri: str = "", options: S3Options | None = None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{checked_key(prefix)}/" if prefix else ""
        self._uri = uri or f"s3://{bucket}/{prefix}".rstrip("/")
        self._options = options or S3Options()
        self._clients: S3Clients | None = None
        self._clients_lock = Lock()
        self._bucket_seen = False

    def __reduce__(self) -> tuple[Callable[..., S3Store], tuple[object, ...]]:
        return _rebuilt, (self._bucket, self._prefix.rstrip("/"), self._uri, self._options)

    @property
    def uri(self) -> str:
        return self._uri

    def get(self, key: str) -> bytes:
        with self._body(key, 0, None) as body:
            return body.readall()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            self.head(key)
            return b""
        try:
            with self._body(key, start, start + length) as body:
                return body.readall()
        except StoreError as error:
            if error.__cause__ is not None and status_and_code(error.__cause__)[0] == 416:
                return b""  # nothing of the object lies there
            raise

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        # Buffered: a read gives all the bytes asked for, as a read of a local file does.
        with io.BufferedReader(self._body(key, 0, None), CHUNK_BYTES) as stream:
            yield stream

    def head(self, key: str) -> ObjectInfo:
        full = self._full(key)
        client = self._client()
        try:
            answer = self._patiently(
                "head", key, lambda: client.head_object(Bucket=self._bucket, Key=full)
            )
        except NotFound:
            # An answer to HEAD does not say what was not found: ask, once a store.
            if not self._bucket_seen:
                self._ask_bucket()
            raise
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"])

    def put(self, key: str, data: bytes) -> None:
        full = self._full(key)
        client = self._client()
        self._patiently(
            "put",
            key,
            lambda: client.put_object(
                Bucket=self._bucket, Key=full, Body=data, ContentMD5=_md5(data)
            ),
        )

    def upload(self, key: str, path: Path) -> None:
        full = self._full(key)
        client = self._client()
        path.stat()  # a missing local file is not the store's fault
        self._patiently(
            "upload",
            key,
            lambda: client.upload_file(
                str(path), self._bucket, full, Config=self._options.transfer()
            ),
        )

    def create(self, key: str, data: bytes) -> None:
        full = self._full(key)
        client = self._make_clients().once
        try:
            client.put_object(
                Bucket=self._bucket, Key=full, Body=data, ContentMD5=_md5(data), IfNoneMatch="*"
            )
        except FOREIGN as error:
            if is_transient(error):
                why = f"the outcome of the request is not known ({error})"
                raise Unknown(self._uri, key, why) from error
            raise translated(self._uri, key, error) from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As `Store.list`; passes over the ``name/`` objects that some tools make for folders."""
        wanted = self._prefix + checked_prefix(prefix)
        page = self._page(wanted, None)
        while True:
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    key = item["Key"].removeprefix(self._prefix)
                    yield ObjectInfo(key, item["Size"], item["LastModified"])
            if not page["IsTruncated"]:
                return
            page = self._page(wanted, page["NextContinuationToken"])

    def delete(self, key: str) -> None:
        full = self._full(key)
        client = self._client()
        try:
            self._patiently(
                "delete", key, lambda: client.delete_object(Bucket=self._bucket, Key=full)
            )
        except NotFound:
            return

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        found = self._uploads(self._prefix + checked_prefix(prefix))
        uploads = [(full, upload) for full, upload in found if wanted(full[len(self._prefix) :])]
        for full, upload_id in uploads:
            self._abort(full, upload_id)
        return len(uploads)

    def now(self) -> datetime:
        """The server's clock, by the Date header: whole seconds."""
        date = self._ask_bucket().get("date")
        if date is None:
            raise Unavailable(self._uri, "", "the store sends no Date header")
        return parsedate_to_datetime(date).astimezone(UTC)

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _client(self) -> S3Client:
        return self._make_clients().retrying

    def _make_clients(self) -> S3Clients:
        with self._clients_lock:
            if self._clients is None:
                self._clients = make_clients(self._uri, self._options)
            return self._clients

    def _patiently(self, operation: str, key: str, call: Callable[[], T]) -> T:
        try:
            result = patiently(
                call,
                patience_s=self._options.patience_s,
                is_transient=is_transient,
                operation=operation,
                key=key,
            )
        except FOREIGN as error:
            raise translated(self._uri, key, error) from error
        self._bucket_seen = True
        return result

    def _ask_bucket(self) -> Mapping[str, str]:
        """The headers of an answer about the bucket.

        Raises: `AccessDenied` if there is no such bucket.
        """
        client = self._client()
        try:
            answer = self._patiently(
                "look at the bucket", "", lambda: client.head_bucket(Bucket=self._bucket)
            )
        except NotFound as error:  # an answer to HEAD does not say what was not found
            missing = ClientError({"Error": {"Code": "NoSuchBucket"}}, "HeadBucket")
            raise translated(self._uri, "", missing) from error
        return answer["ResponseMetadata"]["HTTPHeaders"]

    def _body(self, key: str, start: int, stop: int | None) -> ContinuedBody:
        full = self._full(key)
        client = self._client()

        def fetch(position: int) -> Part:
            if position == 0 and stop is None:  # an empty object has no range
                answer = self._patiently(
                    "get", key, lambda: client.get_object(Bucket=self._bucket, Key=full)
                )
            else:
                span = f"bytes={position}-{'' if stop is None else stop - 1}"
                answer = self._patiently(
                    "get",
                    key,
                    lambda: client.get_object(Bucket=self._bucket, Key=full, Range=span),
                )
            return Part(answer["Body"], answer["ContentLength"], answer["ETag"])

        return ContinuedBody(
            fetch, start, uri=self._uri, key=key, patience_s=self._options.patience_s
        )

    def _page(self, wanted: str, token: str | None) -> ListObjectsV2OutputTypeDef:
        client = self._client()
        size = self._options.page_size
        if token is None:
            return self._patiently(
                "list",
                wanted,
                lambda: client.list_objects_v2(Bucket=self._bucket, Prefix=wanted, MaxKeys=size),
            )
        return self._patiently(
            "list",
            wanted,
            lambda: client.list_objects_v2(
                Bucket=self._bucket, Prefix=wanted, MaxKeys=size, ContinuationToken=token
            ),
        )

    def _uploads(self, wanted: str) -> Sequence[tuple[str, str]]:
        """Key and id of every unfinished upload."""
        pages = self._client().get_paginator("list_multipart_uploads")

        def all_pages() -> Sequence[tuple[str, str]]:
            return [
                (upload["Key"], upload["UploadId"])
                for page in pages.paginate(Bucket=self._bucket, Prefix=wanted)
                for upload in page.get("Uploads", [])
            ]

        return self._patiently("list uploads", wanted, all_pages)

    def _abort(self, full: str, upload_id: str) -> None:
        client = self._client()
        key = full.removeprefix(self._prefix)
        try:
            self._patiently(
                "abort an upload",
                key,
                lambda: client.abort_multipart_upload(
                    Bucket=self._bucket, Key=full, UploadId=upload_id
                ),
            )
        except NotFound:  # finished or aborted meanwhile
            return


def _rebuilt(bucket: str, prefix: str, uri: str, options: S3Options) -> S3Store:
    return S3Store(bucket, prefix, uri=uri, options=options)


def _md5(data: bytes) -> str:
    """By which the store refuses a body damaged on its way; old, but all stores know it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
