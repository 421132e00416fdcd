"""Objects in S3 or a store with its interface, by boto3."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from botocore.exceptions import ClientError

from render_farm.errors import Damaged, NotFound, StoreError, Unavailable, Unknown
from render_farm.store.base import ObjectInfo
from render_farm.store.fingerprint import content_md5
from render_farm.store.keys import checked_key, checked_prefix
from render_farm.store.patience import Patience, patiently
from render_farm.store.s3_body import CHUNK_BYTES
from render_farm.store.s3_client import S3Options, make_client
from render_farm.store.s3_errors import FOREIGN, is_transient, translated
from render_farm.store.s3_listing import Listing
from render_farm.store.s3_reading import ObjectReader, lies_beyond_end
from render_farm.store.s3_upload import Uploader

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")


class S3Store:
    """A `Store` in a bucket, below a prefix.

    Endpoint, profile, region and credentials are boto3's own affair; nothing of them is in the
    URI. Nothing is connected to before the first request. Safe among threads; pickling keeps URI
    and options and makes a new client on the other side.

    `create` is one PUT with ``If-None-Match: *``, never sent twice. What is written carries its
    MD5; whole objects that are read are held against their ETag.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, uri: str = "", options: S3Options | None = None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{checked_key(prefix)}/" if prefix else ""
        self._uri = uri or f"s3://{bucket}/{prefix}".rstrip("/")
        self._options = options or S3Options()
        self._made: S3Client | None = None
        self._making = Lock()
        self._bucket_seen = False

    def __reduce__(self) -> tuple[Callable[..., S3Store], tuple[object, ...]]:
        return _rebuilt, (self._bucket, self._prefix.rstrip("/"), self._uri, self._options)

    @property
    def uri(self) -> str:
        return self._uri

    def get(self, key: str) -> bytes:
        def read() -> bytes:
            with self._reader(key).open(0, None) as body:
                return body.readall()

        return patiently(
            read,
            patience_s=self._options.patience_s,
            is_transient=lambda error: isinstance(error, Damaged),
            operation="get",
            key=key,
        )

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            self.head(key)
            return b""
        try:
            with self._reader(key).open(start, start + length) as body:
                return body.readall()
        except StoreError as error:
            if lies_beyond_end(error):
                return b""
            raise

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """As `Store.open`; a large object comes in several ranges at once, all of one version."""
        # Buffered: a read gives all the bytes asked for, as a read of a local file does.
        with io.BufferedReader(self._reader(key).open_ahead(), CHUNK_BYTES) as stream:
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
                Bucket=self._bucket, Key=full, Body=data, ContentMD5=content_md5(data)
            ),
        )

    def upload(self, key: str, path: Path) -> None:
        full, patiently_on_key = self._full(key), self._patience(key)
        Uploader(self._client(), self._bucket, full, patiently_on_key, self._options).upload(path)

    def create(self, key: str, data: bytes) -> None:
        full = self._full(key)
        client = self._client()
        try:
            client.put_object(
                Bucket=self._bucket,
                Key=full,
                Body=data,
                ContentMD5=content_md5(data),
                IfNoneMatch="*",
            )
        except FOREIGN as error:
            if is_transient(error):
                why = f"the outcome of the request is not known ({error})"
                raise Unknown(self._uri, key, why) from error
            raise translated(self._uri, key, error) from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As `Store.list`; passes over the ``name/`` objects that some tools make for folders."""
        for item in self._listing(prefix).objects():
            if not item["Key"].endswith("/"):
                key = item["Key"].removeprefix(self._prefix)
                yield ObjectInfo(key, item["Size"], item["LastModified"])

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
        found = [(item["Key"], item["UploadId"]) for item in self._listing(prefix).uploads()]
        doomed = [(full, upload) for full, upload in found if wanted(full[len(self._prefix) :])]
        for full, upload_id in doomed:
            self._abort(full, upload_id)
        return len(doomed)

    def now(self) -> datetime:
        """The server's clock, by the Date header: whole seconds."""
        date = self._ask_bucket().get("date")
        if date is None:
            raise Unavailable(self._uri, "", "the store sends no Date header")
        return parsedate_to_datetime(date).astimezone(UTC)

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _client(self) -> S3Client:
        with self._making:
            if self._made is None:
                self._made = make_client(self._uri, self._options)
            return self._made

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

    def _patience(self, key: str) -> Patience:
        return lambda operation, call: self._patiently(operation, key, call)

    def _listing(self, prefix: str) -> Listing:
        return Listing(
            self._client(),
            self._bucket,
            self._prefix + checked_prefix(prefix),
            self._options.page_size,
            self._patience(prefix),
        )

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

    def _reader(self, key: str) -> ObjectReader:
        full, patiently_on_key = self._full(key), self._patience(key)
        return ObjectReader(
            self._client(), self._bucket, full, patiently_on_key, self._options, self._uri, key
        )

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
