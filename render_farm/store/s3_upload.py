"""Local files as objects, every request of it checked by an MD5 and repeated by itself.

boto3's own transfers send a file without a checksum of its content, and start a large one all over
again when one of its parts has failed too often.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from render_farm.errors import NotFound, Unavailable
from render_farm.store.fingerprint import content_md5
from render_farm.store.patience import Patience
from render_farm.store.s3_client import S3Options
from render_farm.store.s3_errors import FOREIGN

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

logger = logging.getLogger(__name__)

MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Uploader:
    """Uploads local files to one key of a bucket."""

    client: S3Client
    bucket: str
    key: str
    patiently: Patience
    options: S3Options

    def upload(self, path: Path) -> None:
        """Write the file as an object, whole or not at all.

        A failed upload in parts is aborted if the store lets us; else it is left to
        `Store.abort_uploads`, as is one whose very beginning was applied and not answered.
        """
        size_bytes = path.stat().st_size
        if size_bytes <= self.options.multipart_over_bytes:
            self._upload_at_once(path)
            return
        begun = self.patiently(
            "begin an upload",
            lambda: self.client.create_multipart_upload(Bucket=self.bucket, Key=self.key),
        )
        try:
            parts = self._upload_parts(path, size_bytes, begun["UploadId"])
            self._complete(begun["UploadId"], parts, size_bytes)
        except BaseException:
            self._abort(begun["UploadId"])
            raise

    def _upload_at_once(self, path: Path) -> None:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        digest = b64encode(md5.digest()).decode()

        def put() -> None:
            with path.open("rb") as body:
                self.client.put_object(
                    Bucket=self.bucket, Key=self.key, Body=body, ContentMD5=digest
                )

        self.patiently("upload", put)

    def _upload_parts(
        self, path: Path, size_bytes: int, upload_id: str
    ) -> list[CompletedPartTypeDef]:
        part_bytes = max(self.options.part_bytes, -(-size_bytes // MOST_PARTS))

        def upload_part(number: int) -> CompletedPartTypeDef:
            with path.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                data = file.read(part_bytes)
            answer = self.patiently(
                f"upload part {number}",
                lambda: self.client.upload_part(
                    Bucket=self.bucket,
                    Key=self.key,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=data,
                    ContentMD5=content_md5(data),
                ),
            )
            return {"PartNumber": number, "ETag": answer["ETag"]}

        numbers = range(1, -(-size_bytes // part_bytes) + 1)
        pool = ThreadPoolExecutor(self.options.threads, thread_name_prefix="upload")
        try:
            return list(pool.map(upload_part, numbers))
        finally:
            # After a failure nobody waits for parts that were not begun.
            pool.shutdown(cancel_futures=True)

    def _complete(self, upload_id: str, parts: list[CompletedPartTypeDef], size_bytes: int) -> None:
        try:
            self.patiently(
                "complete an upload",
                lambda: self.client.complete_multipart_upload(
                    Bucket=self.bucket,
                    Key=self.key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                ),
            )
        except NotFound as error:  # perhaps it was completed before, and the answer lost
            found = self.patiently(
                "look at an upload",
                lambda: self.client.head_object(Bucket=self.bucket, Key=self.key),
            )
            if found["ContentLength"] != size_bytes:
                why = "the upload was aborted by somebody else; upload it again"
                raise Unavailable(error.uri, error.key, why) from error

    def _abort(self, upload_id: str) -> None:
        """Asked once: what has failed patiently is not worth more patience."""
        try:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload_id)
        except FOREIGN as error:
            fields = {"key": self.key, "error": repr(error)}
            logger.warning("an unfinished upload is left for a sweep", extra=fields)
