"""Images that wait for their shard's files: all come back, memory is bounded, nothing is left."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.output.spool import MEMORY_BYTES, Spool

MIB = 1 << 20


@given(
    memory_bytes=st.integers(1, 200),
    steps=st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=60)), max_size=40),
)
def test_what_was_put_comes_back_in_any_order_on_either_side_of_the_bound(memory_bytes, steps):
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), memory_bytes)
        kept = {}
        for number, data in steps:
            spool.put(f"{number}", data)
            kept[f"{number}"] = data
            first = next(iter(kept))
            assert spool.get(first) == kept[first]
        assert {key: spool.get(key) for key in reversed(kept)} == kept
        spool.close()


@pytest.mark.parametrize("memory_bytes", [1000, MEMORY_BYTES])
def test_many_threads_put_and_get_without_mixing_their_bytes(tmp_path, memory_bytes, eager_threads):
    spool = Spool(tmp_path, memory_bytes)

    def put(thread: int) -> None:
        for number in range(200):
            key = f"{thread}-{number}"
            spool.put(key, key.encode() * (1 + number % 7))
            assert spool.get(key) == key.encode() * (1 + number % 7)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))
    for thread in range(8):
        for number in range(200):
            key = f"{thread}-{number}"
            assert spool.get(key) == key.encode() * (1 + number % 7)


def test_memory_stays_at_the_bound_however_much_is_put(tmp_path, figure):
    image = bytes(MIB)
    tracemalloc.start()
    spool = Spool(tmp_path)
    for number in range(64):
        spool.put(f"{number}", image)
    peak_mib = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    figure("spool: MiB of memory at most, of 64 MiB that were put", f"{peak_mib:.0f}")
    # One image beyond the bound and what growing takes: an eighth.
    assert peak_mib < 1.25 * (MEMORY_BYTES / MIB + 1)
    assert spool.get("63") == image


def test_a_spool_leaves_no_file_however_it_ends(tmp_path):
    own = psutil.Process()
    before = own.num_fds()
    closed, forgotten = Spool(tmp_path, 10), Spool(tmp_path, 10)
    for spool in (closed, forgotten):
        spool.put("a", bytes(100))
    assert own.num_fds() == before + 2
    assert not list(tmp_path.iterdir())
    closed.close()
    del spool, forgotten
    gc.collect()
    assert own.num_fds() == before


def test_small_pictures_never_touch_the_disk(tmp_path):
    own = psutil.Process()
    before = own.num_fds()
    spool = Spool(tmp_path)
    for number in range(1000):
        spool.put(f"{number}", bytes(4000))
    assert own.num_fds() == before
    assert spool.get("999") == bytes(4000)


def test_a_key_that_was_not_put_is_an_error(tmp_path):
    with pytest.raises(KeyError):
        Spool(tmp_path).get("a")
