"""How boto3's clients are made: endpoint, addressing, retries, connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from render_farm.errors import AccessDenied
from render_farm.store.s3_errors import FOREIGN, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class S3Options:
    """What tests and small machines may want otherwise.

    No new try begins `patience_s` after the first; within one try, botocore makes `attempts` of its
    own, except for creates. A file over `multipart_over_bytes` is uploaded
    in parts, `threads` at a time. `page_size` bounds the keys of one answer to a listing.
    """

    patience_s: float = 120.0
    attempts: int = 3
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    multipart_over_bytes: int = 64 * MIB
    part_bytes: int = 16 * MIB
    threads: int = 4
    connections: int = 32
    page_size: int = 1000

    def transfer(self) -> TransferConfig:
        """The same for boto3's transfers."""
        return TransferConfig(
            multipart_threshold=self.multipart_over_bytes,
            multipart_chunksize=self.part_bytes,
            max_concurrency=self.threads,
        )


@dataclass(frozen=True, slots=True)
class S3Clients:
    """`retrying` for whatever may be sent twice, `once` for what must not."""

    retrying: S3Client
    once: S3Client


def make_clients(uri: str, options: S3Options) -> S3Clients:
    """Two clients with the endpoint, profile, region and credentials that boto3 finds itself.

    Raises:
        AccessDenied: the configuration is wrong: an unknown profile, an endpoint that is no URL.
    """
    try:
        # One of our own: boto3's default session must not be used from several threads.
        session = boto3.session.Session()
        return S3Clients(
            session.client("s3", config=_config(options, options.attempts)),
            session.client("s3", config=_config(options, 1)),
        )
    except ValueError as error:  # what botocore says to an endpoint that is no URL
        advice = "the endpoint is no URL; check AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL"
        raise AccessDenied(uri, "", f"{advice} ({error})") from error
    except FOREIGN as error:
        raise translated(uri, "", error) from error


def _config(options: S3Options, attempts: int) -> Config:
    # Addressing is left to the profile and botocore: paths wherever an endpoint is configured.
    return Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.connections,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Ceph and others refuse checksum trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
