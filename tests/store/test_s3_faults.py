"""Lost answers, broken bodies, overload: made by a proxy in front of a server."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from render_farm.errors import AccessDenied, AlreadyExists, NotFound, Unavailable, Unknown
from render_farm.store.s3 import S3Store
from render_farm.store.s3_client import S3Options
from tests.servers.moto import MotoServer
from tests.servers.proxy import Fault, FaultProxy
from tests.store.conftest import SMALL


@pytest.fixture(params=["moto_server", pytest.param("ceph", marks=pytest.mark.ceph)])
def proxy(
    request: pytest.FixtureRequest, s3_env: Callable[[FaultProxy], None]
) -> Iterator[FaultProxy]:
    with FaultProxy(request.getfixturevalue(request.param)) as proxy:
        s3_env(proxy)
        yield proxy


@pytest.fixture
def faulty(proxy: FaultProxy) -> S3Store:
    return S3Store(proxy.make_bucket(f"bucket-{secrets.token_hex(6)}"), "run", options=SMALL)


def sent(proxy: FaultProxy, method: str) -> int:
    return sum(seen == method for seen, _ in proxy.seen)


def test_a_create_whose_answer_is_lost_is_unknown_and_sent_once(
    proxy: FaultProxy, faulty: S3Store
) -> None:
    proxy.faults.append(Fault("PUT", "lose"))
    with pytest.raises(Unknown):
        faulty.create("receipts/1", b"mine")
    assert sent(proxy, "PUT") == 1
    assert faulty.get("receipts/1") == b"mine"
    with pytest.raises(AlreadyExists):
        faulty.create("receipts/1", b"mine")


def test_a_create_that_never_arrived_is_unknown_and_sent_once(
    proxy: FaultProxy, faulty: S3Store
) -> None:
    proxy.faults.append(Fault("PUT", "drop"))
    with pytest.raises(Unknown):
        faulty.create("receipts/1", b"mine")
    assert sent(proxy, "PUT") == 1
    with pytest.raises(NotFound):
        faulty.get("receipts/1")
    faulty.create("receipts/1", b"mine")


def test_a_create_that_was_answered_with_a_fault_is_unknown_and_sent_once(
    proxy: FaultProxy, faulty: S3Store
) -> None:
    answers = {409: "Conflict", 500: "InternalError", 503: "SlowDown", 429: "TooManyRequests"}
    for status, code in {**answers, 400: "RequestTimeout"}.items():
        before = sent(proxy, "PUT")
        proxy.faults.append(Fault("PUT", "answer", status=status, code=code))
        with pytest.raises(Unknown):
            faulty.create("receipts/1", b"mine")
        assert sent(proxy, "PUT") == before + 1


def test_a_store_without_conditional_writes_says_so(proxy: FaultProxy, faulty: S3Store) -> None:
    proxy.faults.append(Fault("PUT", "answer", status=501, code="NotImplemented"))
    with pytest.raises(Unavailable, match="cannot do this"):
        faulty.create("receipts/1", b"mine")


def test_a_broken_transfer_is_continued_where_it_broke(proxy: FaultProxy, faulty: S3Store) -> None:
    data = os.urandom(1_000_000)
    faulty.put("x", data)
    proxy.faults += [
        Fault("GET", "cut", after_bytes=300_000),
        Fault("GET", "drop"),
        Fault("GET", "cut", after_bytes=1),
        Fault("GET", "cut", after_bytes=0),
    ]
    with faulty.open("x") as stream:
        assert b"".join(iter(lambda: stream.read(70_000), b"")) == data
    assert sent(proxy, "GET") == 5
    proxy.faults.append(Fault("GET", "cut", after_bytes=300_000))
    assert faulty.get("x") == data
    proxy.faults.append(Fault("GET", "cut", after_bytes=300_000))
    assert faulty.get_range("x", 1000, 900_000) == data[1000:901_000]


def test_an_object_replaced_during_a_broken_transfer_is_never_mixed(
    proxy: FaultProxy, faulty: S3Store
) -> None:
    faulty.put("x", b"a" * 500_000)
    proxy.faults.append(Fault("GET", "cut", after_bytes=300_000))
    with faulty.open("x") as stream:
        assert stream.read(10) == b"a" * 10
        faulty.put("x", b"b" * 500_000)
        with pytest.raises(Unavailable, match="replaced"):
            stream.read()


def test_a_transfer_that_always_breaks_ends(proxy: FaultProxy) -> None:
    bucket = proxy.make_bucket(f"bucket-{secrets.token_hex(6)}")
    store = S3Store(bucket, options=S3Options(patience_s=0.5))
    store.put("x", b"a" * 1000)
    proxy.faults.append(Fault("GET", "cut", after_bytes=0, times=1000))
    with pytest.raises(Unavailable, match="again and again"):
        store.get("x")


def test_an_overloaded_store_is_waited_for(
    proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = S3Store(proxy.make_bucket(f"bucket-{secrets.token_hex(6)}"), options=SMALL)
    path = tmp_path / "file"
    path.write_bytes(b"uploaded")
    caplog.set_level(logging.WARNING, "render_farm.store.patience")
    proxy.faults.append(Fault("PUT", "answer", times=1))
    store.put("x", b"1")
    proxy.faults.append(Fault("PUT", "answer", times=1))
    store.upload("y", path)
    proxy.faults.append(Fault("GET", "answer", times=1))
    assert store.get("x") == b"1"
    proxy.faults.append(Fault("GET", "answer", times=1))
    assert [info.key for info in store.list()] == ["x", "y"]
    proxy.faults.append(Fault("DELETE", "answer", times=1))
    store.delete("x")
    assert [record.operation for record in caplog.records] == [
        "put",
        "upload",
        "get",
        "list",
        "delete",
    ]
    assert caplog.records[0].key == "x"
    assert caplog.records[0].wait_s >= 0
    assert "SlowDown" in caplog.records[0].error


def test_a_store_that_stays_overloaded_is_unavailable(proxy: FaultProxy, tmp_path: Path) -> None:
    bucket = proxy.make_bucket(f"bucket-{secrets.token_hex(6)}")
    store = S3Store(bucket, options=S3Options(patience_s=0))
    proxy.faults.append(Fault("PUT", "answer", times=1000))
    with pytest.raises(Unavailable, match="SlowDown"):
        store.put("x", b"1")


def test_a_put_whose_answer_is_lost_is_sent_again(proxy: FaultProxy, faulty: S3Store) -> None:
    proxy.faults.append(Fault("PUT", "lose"))
    faulty.put("x", b"1")
    assert faulty.get("x") == b"1"
    assert sent(proxy, "PUT") == 2


def test_an_unfinished_upload_is_found_and_aborted(proxy: FaultProxy, faulty: S3Store) -> None:
    client, bucket = faulty._client(), faulty._bucket
    for key in ("run/data/000001-a.tar", "run/data/000001-a.tar", "run/data/000002-b.tar", "other"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    assert list(faulty.list()) == []
    assert faulty.abort_uploads("data/000001-a") == 2
    assert faulty.abort_uploads("data/000001-a") == 0
    assert faulty.abort_uploads("") == 1
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["other"]


def test_an_upload_that_loses_a_part_is_whole_in_the_end(
    proxy: FaultProxy, faulty: S3Store, tmp_path: Path
) -> None:
    data = os.urandom(11 << 20)
    path = tmp_path / "file"
    path.write_bytes(data)
    proxy.faults += [
        Fault("PUT", "lose", target="partNumber=1"),
        Fault("PUT", "answer", target="partNumber=2", times=1),
    ]
    faulty.upload("x", path)
    assert faulty.get("x") == data
    assert faulty.abort_uploads("") == 0


def test_an_upload_whose_completion_was_applied_and_not_answered_is_done(
    proxy: FaultProxy, faulty: S3Store, tmp_path: Path
) -> None:
    data = os.urandom(7 << 20)
    path = tmp_path / "file"
    path.write_bytes(data)
    proxy.faults += [
        Fault("POST", "lose", target="uploadId="),
        # What some stores say to the second try; others remember what they did.
        Fault("POST", "answer", target="uploadId=", status=404, code="NoSuchUpload"),
    ]
    faulty.upload("x", path)
    assert faulty.get("x") == data
    assert faulty.abort_uploads("") == 0


def test_an_upload_that_fails_for_good_is_aborted(
    proxy: FaultProxy, faulty: S3Store, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(7 << 20))
    refused = Fault("PUT", "answer", "partNumber=2", status=403, code="QuotaExceeded", times=9)
    proxy.faults.append(refused)
    with pytest.raises(AccessDenied, match="quota"):
        faulty.upload("x", path)
    assert faulty.abort_uploads("") == 0
    with pytest.raises(NotFound):
        faulty.head("x")


def test_an_upload_that_somebody_aborts_meanwhile_is_not_taken_for_done(
    proxy: FaultProxy, faulty: S3Store, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(7 << 20))
    proxy.faults.append(
        Fault("POST", "answer", "uploadId=", status=404, code="NoSuchUpload", times=1)
    )
    with pytest.raises(NotFound):
        faulty.upload("x", path)


def test_a_listing_that_ends_in_the_middle_is_asked_for_again(
    proxy: FaultProxy, faulty: S3Store
) -> None:
    keys = [f"data/{number:03d}" for number in range(10)]  # two pages
    for key in keys:
        faulty.put(key, b"")
    proxy.faults += [
        Fault("GET", "cut", after_bytes=200),
        Fault("GET", "answer", status=200),  # an error under the status of success
        Fault("GET", "flip", after_bytes=1),  # no XML
        Fault("GET", "empty"),
        Fault("GET", "cut", "continuation-token", after_bytes=0),
        Fault("GET", "answer", "continuation-token"),
    ]
    assert [info.key for info in faulty.list()] == keys
    assert all(fault.times == 0 for fault in proxy.faults)


def test_a_listing_that_never_comes_whole_is_unavailable(proxy: FaultProxy) -> None:
    bucket = proxy.make_bucket(f"bucket-{secrets.token_hex(6)}")
    store = S3Store(bucket, options=S3Options(patience_s=0))
    proxy.faults.append(Fault("GET", "empty"))
    with pytest.raises(Unavailable, match="goes on"):
        list(store.list())


def test_uploads_are_aborted_through_faults_page_by_page(
    proxy: FaultProxy, faulty: S3Store
) -> None:
    for number in range(9):
        faulty._client().create_multipart_upload(
            Bucket=faulty._bucket, Key=f"run/data/{number:03d}"
        )
    proxy.faults += [
        Fault("GET", "cut", "uploads", after_bytes=100),
        Fault("GET", "answer", "uploads"),
        Fault("DELETE", "lose", "data/003"),
        Fault("DELETE", "answer", "data/004"),
    ]
    assert faulty.abort_uploads("data/", lambda key: key != "data/008") == 8
    assert all(fault.times == 0 for fault in proxy.faults)
    assert faulty.abort_uploads("") == 1


def test_folder_placeholders_are_not_objects(
    moto_server: MotoServer, s3_env: Callable[[MotoServer], None]
) -> None:
    s3_env(moto_server)
    store = S3Store(moto_server.make_bucket(f"bucket-{secrets.token_hex(6)}"), "run")
    for key in ("run/", "run/data/", "run/data/x"):
        store._client().put_object(Bucket=store._bucket, Key=key)
    assert [info.key for info in store.list()] == ["data/x"]
