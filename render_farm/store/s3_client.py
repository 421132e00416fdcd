"""How boto3's client is made: endpoint, addressing, connections, and no retries.

There is one loop of retries, `patience.patiently`, around requests that botocore makes once. Its
own (``standard``, ``adaptive``) would multiply with ours, and do not cover what matters here:

- a GET whose body breaks off or arrives damaged: they end where the headers have come;
- a conditional create: a second try meets the first one's write and is answered with 412, so the
  caller no longer knows what its answer says of the outcome;
- 409, by which some stores answer to two requests at once on one key;
- an outage: three tries are over within a second, ten within fifteen; and their budget of retries,
  shared by all threads of a client, is used up by then, so that nothing is retried any more.

They also wait in silence: the log would not say what for. What ``adaptive`` adds, a limit to the
rate of each client that shrinks with the throttling it sees, holds everything back, heartbeats and
commits too. Measured with one request in five answered by SlowDown, 300 puts from four threads:
25 to 47 s with ``adaptive``, 6 to 7 s with ``standard``, 5 to 9 s with our loop alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3.session
from botocore.config import Config

from render_farm.errors import AccessDenied
from render_farm.store.s3_errors import FOREIGN, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class S3Options:
    """What tests and small machines may want otherwise.

    No new try begins `patience_s` after the first. A file over `multipart_over_bytes` is uploaded
    in parts, `threads` at a time. An object over `range_bytes` is read in ranges of that size, of
    which at most `ranges` wait or are on their way beside the one in hand. `page_size` bounds the
    keys of one answer to a listing.
    """

    patience_s: float = 120.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    multipart_over_bytes: int = 64 * MIB
    part_bytes: int = 16 * MIB
    threads: int = 4
    range_bytes: int = 8 * MIB
    ranges: int = 7
    connections: int = 32
    page_size: int = 1000


def make_client(uri: str, options: S3Options) -> S3Client:
    """A client with the endpoint, profile, region and credentials that boto3 finds itself.

    Raises:
        AccessDenied: the configuration is wrong: an unknown profile, an endpoint that is no URL.
    """
    try:
        # One of our own: boto3's default session must not be used from several threads.
        return boto3.session.Session().client("s3", config=_config(options))
    except ValueError as error:  # what botocore says to an endpoint that is no URL
        advice = "the endpoint is no URL; check AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL"
        raise AccessDenied(uri, "", f"{advice} ({error})") from error
    except FOREIGN as error:
        raise translated(uri, "", error) from error


def _config(options: S3Options) -> Config:
    # Addressing is left to the profile and botocore: paths wherever an endpoint is configured.
    return Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.connections,
        retries={"mode": "standard", "total_max_attempts": 1},
        # Ceph and others refuse checksum trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
