"""Translation of what boto3, botocore and urllib3 raise into the store's errors."""

from __future__ import annotations

import boto3.exceptions
import botocore.exceptions
import botocore.parsers
import urllib3.exceptions
from botocore.exceptions import ClientError

from render_farm.errors import AccessDenied, AlreadyExists, NotFound, StoreError, Unavailable

# Everything that a call into boto3 may raise; `OSError` covers connections that break below
# urllib3.
FOREIGN = (
    botocore.exceptions.BotoCoreError,
    ClientError,
    botocore.parsers.ResponseParserError,
    boto3.exceptions.Boto3Error,
    urllib3.exceptions.HTTPError,
    OSError,
)

# The request did not arrive, or its answer did not. SSLError and the time-outs are among them.
TRANSPORT = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,  # a listing that ends in the middle, a proxy's page
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)

TRANSIENT_CODES = {
    "BadDigest",  # the body was damaged on its way
    "IncompleteBody",  # it ended too early
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
    "XAmzContentSHA256Mismatch",  # as BadDigest, of stores that check the signature's digest first
}

NO_CREDENTIALS = (
    "no usable credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile with "
    "AWS_PROFILE, or give this machine a role"
)
PERMISSIONS = (
    "permission refused; the credentials need s3:ListBucket, GetObject, PutObject, DeleteObject, "
    "ListBucketMultipartUploads and AbortMultipartUpload here"
)
EXPIRED = "the session's credentials are no longer valid; renew them"
REGION = "the bucket is in another region; set AWS_REGION or the profile's region to it"

# What to do, by the code of the answer; HEAD has no body, its code is the status.
ADVICE: dict[str, tuple[type[StoreError], str]] = {
    "NoSuchBucket": (AccessDenied, "there is no such bucket; create it or correct the URI"),
    "NoSuchKey": (NotFound, "there is no such object"),
    "NoSuchUpload": (NotFound, "there is no such upload"),
    "404": (NotFound, "there is no such object"),
    "PreconditionFailed": (AlreadyExists, "there is an object already"),
    "412": (AlreadyExists, "there is an object already"),
    "InvalidAccessKeyId": (
        AccessDenied,
        "unknown access key; check AWS_ACCESS_KEY_ID or the profile, and AWS_ENDPOINT_URL_S3",
    ),
    "SignatureDoesNotMatch": (
        AccessDenied,
        "the secret key is not the access key's; check AWS_SECRET_ACCESS_KEY or the profile",
    ),
    "ExpiredToken": (AccessDenied, EXPIRED),
    "TokenRefreshRequired": (AccessDenied, EXPIRED),
    "InvalidToken": (AccessDenied, EXPIRED),
    "RequestTimeTooSkewed": (AccessDenied, "this machine's clock is wrong; set it"),
    "QuotaExceeded": (AccessDenied, "the quota of the user or bucket is used up; raise it"),
    "UserSuspended": (AccessDenied, "the user is suspended; have it enabled again"),
    "PermanentRedirect": (AccessDenied, REGION),
    "AuthorizationHeaderMalformed": (AccessDenied, REGION),
    "301": (AccessDenied, REGION),
    "InvalidBucketName": (AccessDenied, "the bucket's name is not valid; correct the URI"),
    "401": (AccessDenied, NO_CREDENTIALS),
    "403": (AccessDenied, PERMISSIONS),
    "400": (AccessDenied, "the store finds the request wrong; check credentials and region"),
    "501": (Unavailable, "the store cannot do this; choose a store with the whole S3 interface"),
}

CONFIGURATION = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.SSOError,
    botocore.exceptions.NoAuthTokenError,
    botocore.exceptions.RefreshWithMFAUnsupportedError,
    botocore.exceptions.MetadataRetrievalError,
    botocore.exceptions.LoginError,
    botocore.exceptions.UnknownCredentialError,
    botocore.exceptions.NoRegionError,
    botocore.exceptions.ConfigNotFound,
    botocore.exceptions.ConfigParseError,
    botocore.exceptions.InvalidConfigError,
    botocore.exceptions.InvalidEndpointConfigurationError,
)


def root_cause(error: BaseException) -> BaseException:
    """What boto3's transfers wrap: they keep the answer's text and lose its code."""
    if isinstance(error, boto3.exceptions.Boto3Error):
        cause = error.__cause__ or error.__context__ or getattr(error, "last_exception", None)
        if isinstance(cause, BaseException):
            return cause
    return error


def status_and_code(error: BaseException) -> tuple[int, str]:
    """HTTP status and S3 code of an answer; 0 and nothing for what is not an answer."""
    if not isinstance(error, ClientError):
        return 0, ""
    metadata = error.response.get("ResponseMetadata", {})
    return metadata.get("HTTPStatusCode", 0), error.response.get("Error", {}).get("Code", "")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a while."""
    error = root_cause(error)
    if isinstance(error, TRANSPORT):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    status, code = status_and_code(error)
    # 409: another request on the same key is under way.
    transient_status = status in {408, 409, 429} or (status >= 500 and status != 501)
    return transient_status or code in TRANSIENT_CODES


def translated(uri: str, key: str, error: BaseException) -> StoreError:
    """The store error that says what a foreign one means and what to do about it."""
    error = root_cause(error)
    if isinstance(error, ClientError):
        return _translated_answer(uri, key, error)
    if isinstance(error, CONFIGURATION):
        return AccessDenied(uri, key, f"{NO_CREDENTIALS} ({error})")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        advice = "the store's certificate is not trusted; set AWS_CA_BUNDLE to its authority's"
        return Unavailable(uri, key, f"{advice} ({error})")
    if isinstance(error, TRANSPORT):
        advice = "no answer from the store; check the network and AWS_ENDPOINT_URL_S3"
        return Unavailable(uri, key, f"{advice} ({error})")
    return Unavailable(uri, key, f"the request failed ({type(error).__name__}: {error})")


def _translated_answer(uri: str, key: str, error: ClientError) -> StoreError:
    status, code = status_and_code(error)
    message = error.response.get("Error", {}).get("Message") or "no details"
    said = f"{error.operation_name}: {status} {code}: {message}"
    if is_transient(error):
        return Unavailable(uri, key, f"the store failed or is overloaded ({said})")
    kind, advice = (
        ADVICE.get(code)
        or ADVICE.get(str(status))
        or (Unavailable, "the store refused the request")
    )
    return kind(uri, key, f"{advice} ({said})")
