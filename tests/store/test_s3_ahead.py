"""Large objects come in ranges, a few at once, and are one version and unharmed all the same."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from render_farm.errors import Damaged, Unavailable
from render_farm.store.s3 import S3Store
from tests.servers.moto import MotoServer
from tests.servers.proxy import Fault, FaultProxy, Request
from tests.store.conftest import SMALL

RANGE = 64 << 10
AHEAD = 3


class WatchingProxy(FaultProxy):
    """Takes its time over an answer, and knows how many GETs it had in hand at once at most."""

    pause_s = 0.0
    at_once = 0
    most_at_once = 0
    _counting = threading.Lock()

    def answer(self, request: Request) -> bytes | None:
        with self._counting:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.pause_s)
            return super().answer(request)
        finally:
            with self._counting:
                self.at_once -= 1

    def gets(self) -> int:
        return sum(method == "GET" for method, _ in self.seen)


@pytest.fixture
def proxy(
    moto_server: MotoServer, s3_env: Callable[[WatchingProxy], None]
) -> Iterator[WatchingProxy]:
    with WatchingProxy(moto_server) as proxy:
        s3_env(proxy)
        yield proxy


@pytest.fixture
def store(proxy: WatchingProxy) -> S3Store:
    options = replace(SMALL, range_bytes=RANGE, ranges=AHEAD)
    return S3Store(proxy.make_bucket(f"bucket-{secrets.token_hex(6)}"), options=options)


@pytest.mark.parametrize(
    ("size", "requests"),
    [
        (0, 2),  # nothing of an empty object lies in a range
        (1, 1),
        (RANGE - 1, 1),
        (RANGE, 1),
        (RANGE + 1, 2),
        (2 * RANGE, 2),
        (9 * RANGE + 5, 10),
    ],
)
def test_an_object_is_the_same_to_the_byte_in_however_many_ranges_it_comes(
    proxy: WatchingProxy, store: S3Store, size: int, requests: int
) -> None:
    data = os.urandom(size)
    store.put("x", data)
    with store.open("x") as stream:
        assert b"".join(iter(lambda: stream.read(10_007), b"")) == data
    assert proxy.gets() == requests


def test_ranges_are_on_their_way_together_and_never_more_than_were_asked_for(
    proxy: WatchingProxy, store: S3Store
) -> None:
    data = os.urandom(12 * RANGE)
    store.put("x", data)
    proxy.pause_s, proxy.most_at_once = 0.2, 0
    with store.open("x") as stream:
        assert stream.read(1) == data[:1]
        time.sleep(1.0)
        assert proxy.gets() == 1 + AHEAD
        assert stream.read() == data[1:]
    assert 2 <= proxy.most_at_once <= AHEAD + 1
    assert proxy.gets() == 12


def test_an_object_that_is_replaced_between_two_ranges_is_never_mixed(
    proxy: WatchingProxy, store: S3Store
) -> None:
    store.put("x", b"a" * (12 * RANGE))
    with store.open("x") as stream:
        assert stream.read(10) == b"a" * 10
        store.put("x", b"b" * (12 * RANGE))
        with pytest.raises(Unavailable, match="replaced while it was read"):
            stream.read()


def test_a_range_that_breaks_off_is_continued_and_one_that_is_refused_is_asked_for_again(
    proxy: WatchingProxy, store: S3Store
) -> None:
    data = os.urandom(4 * RANGE)
    store.put("x", data)
    with store.open("x") as stream:
        proxy.faults += [Fault("GET", "cut", after_bytes=100), Fault("GET", "answer")]
        assert stream.read() == data
    assert all(fault.times == 0 for fault in proxy.faults)


def test_a_bit_that_is_flipped_in_a_later_range_is_noticed(
    proxy: WatchingProxy, store: S3Store
) -> None:
    data = os.urandom(4 * RANGE)
    store.put("x", data)
    with store.open("x") as stream:
        proxy.faults.append(Fault("GET", "flip", after_bytes=RANGE // 2))
        with pytest.raises(Damaged):
            stream.read()
    with store.open("x") as stream:
        assert stream.read() == data


def test_a_reader_that_stops_early_leaves_no_transfer_behind(
    proxy: WatchingProxy, store: S3Store
) -> None:
    store.put("x", bytes(12 * RANGE))
    with store.open("x") as stream:
        stream.read(1)
    assert not [each for each in threading.enumerate() if each.name.startswith("read-ahead")]
    assert proxy.gets() <= 1 + AHEAD
