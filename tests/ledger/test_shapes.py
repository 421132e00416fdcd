"""One batch shape for all workers of a kind; it only ever goes down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from render_farm.job.request import Kind
from render_farm.ledger import keys
from render_farm.ledger.shapes import Shapes
from render_farm.store.counting import CountingStore
from render_farm.store.memory import MemoryStore
from tests.making.stores import FaultyStore, exists_by_own_write, fails, in_turn, loses_answer

SIZE = Kind("", 512, 768)
DEVICE = "NVIDIA H100 80GB HBM3"


def adopted(store, default: int = 99) -> int:
    return Shapes(store, DEVICE).adopt(SIZE, lambda: default)


def test_the_first_worker_settles_it_and_all_others_adopt_it() -> None:
    store = MemoryStore()
    assert adopted(store, 16) == 16
    assert adopted(store, 32) == 16
    assert [info.key for info in store.list()] == [
        f"{keys.SHAPES}nvidia-h100-80gb-hbm3-512x768-1.json"
    ]


def test_workers_that_ask_at_once_adopt_the_same() -> None:
    for _ in range(20):
        store, barrier = MemoryStore(), Barrier(6)

        def ask(number: int, store=store, barrier=barrier) -> int:
            barrier.wait()
            return adopted(store, number + 1)

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(ask, range(6)))) == 1


def test_sizes_and_devices_have_shapes_of_their_own() -> None:
    store = MemoryStore()
    adopted(store, 16)
    assert Shapes(store, DEVICE).adopt(Kind("", 768, 512), lambda: 8) == 8
    assert Shapes(store, "NVIDIA A100").adopt(SIZE, lambda: 4) == 4
    assert adopted(store) == 16


def test_what_did_not_fit_is_halved_and_a_resume_starts_there() -> None:
    store = MemoryStore()
    adopted(store, 16)
    assert Shapes(store, DEVICE).lower(SIZE, 16) == 8
    assert Shapes(store, DEVICE).lower(SIZE, 8) == 4
    assert adopted(store) == 4
    assert len(list(store.list(keys.SHAPES))) == 3


def test_workers_that_fail_at_one_shape_halve_it_once() -> None:
    for _ in range(20):
        store, barrier = MemoryStore(), Barrier(6)
        adopted(store, 16)

        def fail(number: int, store=store, barrier=barrier) -> int:
            barrier.wait()
            return Shapes(store, DEVICE).lower(SIZE, 16)

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(fail, range(6))) == {8}
        assert adopted(store) == 8


def test_a_worker_that_comes_late_takes_what_others_settled_below() -> None:
    store = MemoryStore()
    adopted(store, 16)
    Shapes(store, DEVICE).lower(SIZE, 16)
    Shapes(store, DEVICE).lower(SIZE, 8)
    assert Shapes(store, DEVICE).lower(SIZE, 16) == 4


def test_a_tenth_lowering_is_found_though_names_sort_otherwise() -> None:
    store = MemoryStore()
    adopted(store, 4096)
    for exponent in range(11, 0, -1):
        Shapes(store, DEVICE).lower(SIZE, 2 ** (exponent + 1))
    assert len(list(store.list(keys.SHAPES))) == 12
    assert adopted(store) == 2


def test_before_each_shard_one_request_asks_whether_the_shape_still_holds() -> None:
    store = CountingStore(MemoryStore())
    shapes = Shapes(store, DEVICE)
    shapes.adopt(SIZE, lambda: 16)
    assert shapes.settled([SIZE]) == {SIZE: 16}
    before = store.counts()
    assert [shapes.settled([SIZE]) for _ in range(10)] == [{SIZE: 16}] * 10
    assert store.counts() == before | {"get": before["get"] + 10}
    assert Shapes(store, DEVICE).lower(SIZE, 16) == 8
    assert shapes.settled([SIZE]) == {SIZE: 8}


def test_a_batch_of_one_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="a batch of one"):
        Shapes(MemoryStore(), DEVICE).lower(SIZE, 1)


@pytest.mark.parametrize("fault", [fails, loses_answer, exists_by_own_write])
def test_a_lost_answer_leaves_no_worker_with_a_shape_of_its_own(fault) -> None:
    store = FaultyStore(MemoryStore(), in_turn("create", keys.SHAPES, fault, None, fault))
    assert adopted(store, 16) == 16
    assert adopted(store.inner, 32) == 16
    assert Shapes(store, DEVICE).lower(SIZE, 16) == 8
    assert adopted(store.inner) == 8


def test_models_have_shapes_of_their_own_whatever_their_names() -> None:
    store = MemoryStore()
    kinds = [Kind(model, 8, 8) for model in ("", "a", "a-1", "8x8", "a.8", ".", "-", "A")]
    devices = ("card", "card a")
    for number, (device, kind) in enumerate((d, k) for d in devices for k in kinds):
        assert Shapes(store, device).adopt(kind, lambda number=number: number + 8) == number + 8
        assert Shapes(store, device).lower(kind, number + 8) == (number + 8) // 2
    assert len(list(store.list(keys.SHAPES))) == 2 * len(devices) * len(kinds)
    assert f"{keys.SHAPES}card-8x8-1.json" in {info.key for info in store.list(keys.SHAPES)}
    assert f"{keys.SHAPES}card@a-1@8x8-2.json" in {info.key for info in store.list(keys.SHAPES)}
