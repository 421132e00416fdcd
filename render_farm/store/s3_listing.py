"""What lies in a bucket, page by page; each page is asked for until it comes whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.parsers import ResponseParserError

from render_farm.store.patience import Patience

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import MultipartUploadTypeDef, ObjectTypeDef

Page = TypeVar("Page", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Listing:
    """Lists what starts with `prefix`, in pages of `page_size`."""

    client: S3Client
    bucket: str
    prefix: str
    page_size: int
    patiently: Patience

    def objects(self) -> Iterator[ObjectTypeDef]:
        """Every object, in bytewise order of keys."""
        after: dict[str, Any] = {}
        while True:
            page = self.patiently("list", partial(self._objects_after, after))
            yield from page.get("Contents", [])
            if not page["IsTruncated"]:
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def uploads(self) -> Iterator[MultipartUploadTypeDef]:
        """Every upload that was neither completed nor aborted."""
        after: dict[str, Any] = {}
        while True:
            page = self.patiently("list uploads", partial(self._uploads_after, after))
            yield from page.get("Uploads", [])
            if not page["IsTruncated"]:
                return
            after = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page.get("NextUploadIdMarker", ""),
            }

    def _objects_after(self, after: dict[str, Any]) -> Mapping[str, Any]:
        return _whole(
            self.client.list_objects_v2(
                Bucket=self.bucket, Prefix=self.prefix, MaxKeys=self.page_size, **after
            )
        )

    def _uploads_after(self, after: dict[str, Any]) -> Mapping[str, Any]:
        return _whole(
            self.client.list_multipart_uploads(
                Bucket=self.bucket, Prefix=self.prefix, MaxUploads=self.page_size, **after
            )
        )


def _whole(page: Page) -> Page:
    """The page, if it has its end: botocore takes an answer without a body for an empty one."""
    if "IsTruncated" not in page:
        raise ResponseParserError("the answer does not say whether the listing goes on")
    if page["IsTruncated"] and not page.keys() & {"NextContinuationToken", "NextKeyMarker"}:
        raise ResponseParserError("the answer does not say where the listing goes on")
    return page
