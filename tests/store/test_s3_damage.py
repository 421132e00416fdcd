"""Bits that are flipped between us and the store, in either direction."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest

from render_farm.errors import Damaged, NotFound, Unavailable, Unknown
from render_farm.store.copy import copy_digested
from render_farm.store.fetch import fetch_store
from render_farm.store.s3 import S3Store
from tests.servers.proxy import Fault, FaultProxy
from tests.store.conftest import SMALL

MIB = 1 << 20

pytestmark = pytest.mark.ceph  # moto holds no MD5 against what it is sent


@pytest.fixture
def proxy(
    request: pytest.FixtureRequest, s3_env: Callable[[FaultProxy], None]
) -> Iterator[FaultProxy]:
    with FaultProxy(request.getfixturevalue("ceph")) as proxy:
        s3_env(proxy)
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy) -> S3Store:
    return S3Store(proxy.make_bucket(f"bucket-{secrets.token_hex(6)}"), "run", options=SMALL)


def sent(proxy: FaultProxy, method: str) -> int:
    return sum(seen == method for seen, _ in proxy.seen)


def put_in_parts(store: S3Store, key: str, data: bytes, part_bytes: int) -> None:
    client, where = store._client(), {"Bucket": store._bucket, "Key": f"run/{key}"}
    upload = client.create_multipart_upload(**where)["UploadId"]
    parts = []
    for number, at in enumerate(range(0, len(data), part_bytes), start=1):
        body = data[at : at + part_bytes]
        part = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


def test_an_object_that_arrives_damaged_is_read_again(
    proxy: FaultProxy, store: S3Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("receipts/1", b'{"rows": 4}')
    proxy.faults.append(Fault("GET", "flip", after_bytes=9))
    assert store.get("receipts/1") == b'{"rows": 4}'
    (wait,) = caplog.records
    assert (wait.operation, wait.key) == ("get", "receipts/1")
    assert "damaged" in wait.error


def test_an_object_that_arrives_well_is_read_once(proxy: FaultProxy, store: S3Store) -> None:
    store.put("x", b"1")
    put_in_parts(store, "y", os.urandom(13 * MIB), 8 * MIB)
    store.get("x")
    store.get("y")
    assert sent(proxy, "GET") == 2


def test_a_damaged_transfer_that_broke_off_as_well_is_noticed(
    proxy: FaultProxy, store: S3Store
) -> None:
    data = os.urandom(100_000)
    store.put("x", data)
    proxy.faults += [
        Fault("GET", "cut", after_bytes=50_000),
        Fault("GET", "flip", after_bytes=10),
    ]
    with store.open("x") as stream, pytest.raises(Damaged):
        stream.read()
    assert store.get("x") == data


def test_an_object_that_always_arrives_damaged_is_unavailable(
    proxy: FaultProxy, store: S3Store
) -> None:
    store._options = replace(SMALL, patience_s=0.5)
    store.put("x", b"a" * 100)
    proxy.faults += [Fault("GET", "flip", after_bytes=at) for at in range(100)]
    with pytest.raises(Unavailable, match="damaged"):
        store.get("x")


def test_a_copy_of_a_damaged_object_is_made_again(
    proxy: FaultProxy, store: S3Store, tmp_path: Path
) -> None:
    data = os.urandom(6 * MIB)
    store.put("weights", data)
    expected = copy_digested(store, "weights", io.BytesIO())
    proxy.faults.append(Fault("GET", "flip", "weights", after_bytes=5 * MIB))
    copy = io.BytesIO(b"kept")
    copy.seek(0, io.SEEK_END)
    assert copy_digested(store, "weights", copy) == expected
    assert copy.getvalue() == b"kept" + data
    proxy.faults.append(Fault("GET", "flip", "weights", after_bytes=MIB))
    assert (fetch_store(store, tmp_path) / "weights").read_bytes() == data


@pytest.mark.parametrize("part_bytes", [8 * MIB, 5 * MIB + 1])
def test_an_object_written_in_parts_by_others_is_checked_too(
    proxy: FaultProxy, store: S3Store, part_bytes: int
) -> None:
    """Where the size of the parts cannot be found out, two readings must agree."""
    data = os.urandom(13 * MIB)
    put_in_parts(store, "x", data, part_bytes)
    proxy.faults.append(Fault("GET", "flip", after_bytes=3 * MIB))
    with store.open("x") as stream, pytest.raises(Damaged):
        stream.read()
    copy = io.BytesIO()
    copy_digested(store, "x", copy)
    assert copy.getvalue() == data


def test_bytes_damaged_before_they_reached_the_store_are_believed_and_left_to_our_digests(
    proxy: FaultProxy, store: S3Store
) -> None:
    """A store whose ETags are no MD5s, or that keeps damaged bytes: two readings agree."""
    store.put("x", b"bytes")
    proxy.faults += [Fault("GET", "flip", after_bytes=1) for _ in range(2)]
    assert store.get("x") == b"bytes".replace(b"y", b"i")


def test_what_is_damaged_on_its_way_to_the_store_is_sent_again(
    proxy: FaultProxy, store: S3Store, tmp_path: Path
) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(os.urandom(1000))
    large.write_bytes(os.urandom(11 * MIB))
    proxy.faults += [
        Fault("PUT", "flip-sent", "run/put", after_bytes=1),
        Fault("PUT", "flip-sent", "run/small", after_bytes=500),
        Fault("PUT", "flip-sent", "partNumber=2", after_bytes=MIB),
    ]
    store.put("put", b"bytes")
    store.upload("small", small)
    store.upload("large", large)
    assert all(fault.times == 0 for fault in proxy.faults)
    assert store.get("put") == b"bytes"
    assert store.get("small") == small.read_bytes()
    assert store.get("large") == large.read_bytes()


def test_a_create_that_is_damaged_on_its_way_writes_nothing(
    proxy: FaultProxy, store: S3Store
) -> None:
    proxy.faults.append(Fault("PUT", "flip-sent", after_bytes=1))
    with pytest.raises(Unknown):
        store.create("receipts/1", b"bytes")
    with pytest.raises(NotFound):
        store.get("receipts/1")


def test_everything_that_is_sent_carries_the_md5_of_its_content(
    proxy: FaultProxy, store: S3Store, tmp_path: Path
) -> None:
    """Over TLS the signature does not cover the body: the MD5 is all there is."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"1")
    large.write_bytes(bytes(7 * MIB))
    digests: list[str | None] = []

    def note(request: AWSPreparedRequest, **_: object) -> None:
        if request.method == "PUT":
            digests.append(request.headers.get("Content-MD5"))

    store._client().meta.events.register("before-send.s3.*", note)
    store.put("put", b"")
    store.create("create", b"")
    store.upload("small", small)
    store.upload("large", large)
    assert len(digests) == 5  # the large one in two parts
    assert all(digests)
