"""Every foreign error becomes one of ours, and says what to do."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3.exceptions
import botocore.exceptions
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from render_farm import errors
from render_farm.errors import AccessDenied, NotFound, StoreError, Unavailable, Unknown
from render_farm.store.base import Store
from render_farm.store.s3 import S3Store
from render_farm.store.s3_client import S3Options
from render_farm.store.s3_errors import FOREIGN, is_transient, translated
from tests.servers.ceph import CephServer
from tests.servers.moto import MotoServer
from tests.store.conftest import SMALL

S3Env = Callable[[object], None]


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from below(child)


def answer(status: int, code: str) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "said"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        "PutObject",
    )


def every_call(store: Store, tmp_path: Path) -> dict[str, Callable[[], object]]:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def stream() -> None:
        with store.open("x"):
            pass

    return {
        "get": lambda: store.get("x"),
        "get_range": lambda: store.get_range("x", 0, 1),
        "open": stream,
        "head": lambda: store.head("x"),
        "put": lambda: store.put("x", b""),
        "upload": lambda: store.upload("x", path),
        "create": lambda: store.create("x", b""),
        "list": lambda: list(store.list()),
        "delete": lambda: store.delete("x"),
        "abort_uploads": lambda: store.abort_uploads(""),
        "now": store.now,
    }


@pytest.mark.parametrize("kind", sorted(set(below(BotoCoreError)), key=lambda kind: kind.__name__))
def test_each_error_of_botocore_is_translated(kind: type[Exception]) -> None:
    assert issubclass(kind, FOREIGN)
    error = kind(**_fields_of(kind))
    ours = translated("s3://bucket", "key", error)
    assert isinstance(ours, StoreError)
    assert ours.message
    assert not isinstance(ours, NotFound)
    is_transient(error)


def _fields_of(kind: type[Exception]) -> dict[str, str]:
    """What the constructor asks for: fields of botocore's message, or arguments of its own."""
    arguments = set(inspect.signature(kind.__init__).parameters) - {"self", "args"}
    if "kwargs" in arguments:
        arguments = arguments - {"kwargs"} | set(re.findall(r"\{(\w+)", getattr(kind, "fmt", "")))
    return dict.fromkeys(arguments, "x")


@pytest.mark.parametrize("kind", list(below(boto3.exceptions.Boto3Error)))
def test_each_error_of_boto3_is_translated(kind: type[Exception]) -> None:
    assert issubclass(kind, FOREIGN)
    assert isinstance(translated("s3://bucket", "key", kind.__new__(kind)), StoreError)


@pytest.mark.parametrize(
    ("status", "code", "kind", "word"),
    [
        (404, "NoSuchKey", NotFound, "no such object"),
        (404, "404", NotFound, "no such object"),
        (404, "NoSuchBucket", AccessDenied, "create it"),
        (403, "InvalidAccessKeyId", AccessDenied, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", AccessDenied, "AWS_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", AccessDenied, "s3:ListBucket"),
        (403, "403", AccessDenied, "s3:ListBucket"),
        (401, "Whatever", AccessDenied, "AWS_PROFILE"),
        (403, "QuotaExceeded", AccessDenied, "quota"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (400, "ExpiredToken", AccessDenied, "renew"),
        (301, "PermanentRedirect", AccessDenied, "AWS_REGION"),
        (400, "InvalidArgument", AccessDenied, "wrong"),
        (412, "PreconditionFailed", errors.AlreadyExists, "already"),
        (501, "NotImplemented", Unavailable, "cannot do this"),
        (503, "SlowDown", Unavailable, "overloaded"),
        (500, "InternalError", Unavailable, "failed"),
        (507, "XStorageFull", Unavailable, "failed"),
        (411, "MissingContentLength", Unavailable, "refused"),
    ],
)
def test_each_answer_has_its_error(status: int, code: str, kind: type, word: str) -> None:
    error = translated("s3://bucket/run", "key", answer(status, code))
    assert type(error) is kind
    assert word in error.message
    assert "said" in error.message
    assert str(error).startswith("s3://bucket/run/key: ")


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [
        (503, "SlowDown", True),
        (500, "InternalError", True),
        (429, "TooManyRequests", True),
        (409, "ConditionalRequestConflict", True),
        (400, "RequestTimeout", True),
        (400, "BadDigest", True),
        (400, "XAmzContentSHA256Mismatch", True),
        (400, "IncompleteBody", True),
        (501, "NotImplemented", False),
        (403, "AccessDenied", False),
        (404, "NoSuchKey", False),
        (412, "PreconditionFailed", False),
    ],
)
def test_only_what_may_pass_is_tried_again(status: int, code: str, *, transient: bool) -> None:
    assert is_transient(answer(status, code)) is transient


@pytest.mark.parametrize(
    "kind",
    sorted(
        set(below(botocore.exceptions.ConnectionError))
        | set(below(botocore.exceptions.HTTPClientError))
        | set(below(botocore.exceptions.IncompleteReadError)),
        key=lambda kind: kind.__name__,
    ),
)
def test_what_breaks_on_the_way_is_tried_again(kind: type[Exception]) -> None:
    assert is_transient(kind(**_fields_of(kind)))


def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    error = botocore.exceptions.SSLError(endpoint_url="x", error="[SSL: CERTIFICATE_VERIFY_FAILED]")
    assert not is_transient(error)
    assert "AWS_CA_BUNDLE" in translated("s3://bucket", "x", error).message


def test_an_upload_keeps_the_answer_that_boto3_wraps() -> None:
    wrapped = boto3.exceptions.S3UploadFailedError("text only")
    wrapped.__context__ = answer(404, "NoSuchBucket")
    assert isinstance(translated("s3://bucket", "x", wrapped), AccessDenied)
    wrapped.__context__ = answer(503, "SlowDown")
    assert is_transient(wrapped)


@pytest.mark.parametrize("server", ["moto_server", pytest.param("ceph", marks=pytest.mark.ceph)])
def test_a_missing_bucket_is_named_by_every_call(
    request: pytest.FixtureRequest, s3_env: S3Env, server: str, tmp_path: Path
) -> None:
    s3_env(request.getfixturevalue(server))
    for call in every_call(S3Store("missing", options=SMALL), tmp_path).values():
        with pytest.raises(AccessDenied, match="no such bucket; create it"):
            call()


@pytest.mark.ceph
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID|permission refused"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY|permission refused"),
    ],
)
def test_wrong_credentials_are_denied_by_every_call(
    ceph: CephServer,
    s3_env: S3Env,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    words: str,
) -> None:
    bucket = ceph.make_bucket(f"bucket-{secrets.token_hex(6)}")
    s3_env(ceph)
    monkeypatch.setenv(variable, "wrong")
    store = S3Store(bucket, options=SMALL)
    for call in every_call(store, tmp_path).values():
        with pytest.raises(AccessDenied, match=words):
            call()
    with pytest.raises(AccessDenied, match=variable):
        store.get("x")


@pytest.mark.ceph
def test_a_used_up_quota_says_so(ceph: CephServer, s3_env: S3Env, tmp_path: Path) -> None:
    bucket = ceph.make_bucket(f"bucket-{secrets.token_hex(6)}")
    s3_env(ceph)
    ceph.admin("quota", "set", "--quota-scope=bucket", "--bucket", bucket, "--max-objects=0")
    ceph.admin("quota", "enable", "--quota-scope=bucket", "--bucket", bucket)
    store = S3Store(bucket, options=SMALL)
    calls = every_call(store, tmp_path)
    for name in ("put", "upload", "create"):
        with pytest.raises(AccessDenied, match=r"quota .* is used up"):
            calls[name]()


def test_no_credentials_at_all_are_denied_with_what_to_set(
    moto_server: MotoServer, s3_env: S3Env, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3_env(moto_server)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for call in every_call(S3Store("bucket", options=SMALL), tmp_path).values():
        with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
            call()


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [("AWS_ENDPOINT_URL_S3", "no url", "no URL"), ("AWS_PROFILE", "none", "AWS_PROFILE")],
)
def test_a_wrong_configuration_is_denied(
    moto_server: MotoServer,
    s3_env: S3Env,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    word: str,
) -> None:
    s3_env(moto_server)
    monkeypatch.setenv(variable, value)
    with pytest.raises(AccessDenied, match=word):
        S3Store("bucket", options=SMALL).get("x")


def test_a_store_that_does_not_answer_is_unavailable_after_the_patience(
    moto_server: MotoServer, s3_env: S3Env, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3_env(moto_server)
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{taken.getsockname()[1]}")
        store = S3Store("bucket", options=S3Options(patience_s=0))
        calls = every_call(store, tmp_path)
        with pytest.raises(Unknown, match="not known"):
            calls["create"]()
        for name in ("get", "upload", "list"):
            with pytest.raises(Unavailable, match="AWS_ENDPOINT_URL_S3"):
                calls[name]()


def test_the_endpoint_of_a_profile_is_used(
    moto_server: MotoServer, s3_env: S3Env, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3_env(moto_server)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        f"[profile farm]\nendpoint_url = {moto_server.endpoint_url}\n"
        "aws_access_key_id = a\naws_secret_access_key = b\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "farm")
    store = S3Store(moto_server.make_bucket(f"bucket-{secrets.token_hex(6)}"), options=SMALL)
    store.put("x", b"1")
    assert store.get("x") == b"1"


def test_only_amazon_gets_the_bucket_in_the_host_name(
    moto_server: MotoServer, s3_env: S3Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    def url_of_get() -> str:
        client = S3Store("bucket")._client()
        return client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})

    s3_env(moto_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://store.example.com")
    assert url_of_get().startswith("https://store.example.com/bucket/k")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert url_of_get().startswith("https://bucket.s3")


def test_errors_and_stores_survive_pickling() -> None:
    for kind in below(StoreError):
        error = kind("s3://bucket/run", "key", "message")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.uri, again.key, again.message) == (error.uri, error.key, error.message)
        assert str(again) == str(error)
    store = S3Store("bucket", "run", uri="s3://bucket/run/", options=SMALL)
    store._client()
    again = pickle.loads(pickle.dumps(store))
    assert again.uri == "s3://bucket/run/"
    assert again._options == SMALL
    assert again._made is None
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "nothing") not in repr(pickle.dumps(store))
