"""Whoever tries, and whatever is lost on the way: one receipt, and the truth about whose it is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from render_farm.errors import AccessDenied, StopError, Unavailable, Unknown
from render_farm.farm.messages import ShardFailed
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared
from render_farm.ledger import keys
from render_farm.ledger.commit import commit, withdraw
from render_farm.ledger.receipt import Receipt, RowCounts, read_receipt
from render_farm.ledger.record import create_record
from render_farm.store.memory import MemoryStore
from render_farm.views.verify import verify_run
from tests.making.stores import (
    FaultyStore,
    exists_by_own_write,
    fails,
    in_turn,
    loses_answer,
    meanwhile,
    render_on,
)

PATIENCE_S = 20.0


def receipt(attempt: str = "a1", shard: int = 7) -> Receipt:
    return Receipt(
        kind="rendered",
        shard=shard,
        attempt=attempt,
        first_row=70,
        rows=2,
        counts=RowCounts(done=2),
    )


def created(fault, *more) -> FaultyStore:
    return FaultyStore(MemoryStore(), in_turn("create", keys.RECEIPTS, fault, *more))


def test_the_first_attempt_commits_its_own_receipt() -> None:
    store = MemoryStore()
    assert commit(store, receipt()) == receipt()
    assert read_receipt(store, 7) == receipt()


def test_a_rivals_receipt_wins_and_stays() -> None:
    store = MemoryStore()
    commit(store, receipt("rival"))
    assert commit(store, receipt("late")).attempt == "rival"
    assert read_receipt(store, 7) == receipt("rival")


@pytest.mark.parametrize("fault", [loses_answer, exists_by_own_write])
def test_an_own_write_whose_answer_was_lost_is_read_back_as_own(fault) -> None:
    store = created(fault)
    assert commit(store, receipt(), PATIENCE_S) == receipt()
    assert store.made("create") == [keys.receipt(7)]
    assert store.made("get") == [keys.receipt(7)]
    assert store.made("delete") == []


def test_a_create_that_was_not_applied_is_made_again() -> None:
    store = created(fails, fails)
    assert commit(store, receipt(), PATIENCE_S) == receipt()
    assert len(store.made("create")) == 3
    assert read_receipt(store.inner, 7) == receipt()


def test_a_rival_that_wins_between_a_lost_create_and_the_next_is_found() -> None:
    inner = MemoryStore()
    store = FaultyStore(
        inner,
        in_turn("create", keys.RECEIPTS, fails, meanwhile(lambda: commit(inner, receipt("rival")))),
    )
    assert commit(store, receipt(), PATIENCE_S).attempt == "rival"


def test_while_reading_back_fails_nothing_is_concluded() -> None:
    script = in_turn("get", keys.RECEIPTS, fails, fails, fails)
    lost = in_turn("create", keys.RECEIPTS, loses_answer)
    store = FaultyStore(MemoryStore(), lambda call: lost(call) or script(call))
    assert commit(store, receipt(), PATIENCE_S) == receipt()
    assert len(store.made("get")) == 4
    assert store.made("delete") == []


@pytest.mark.parametrize("applied", [True, False])
def test_when_patience_is_over_the_outcome_is_unknown_and_nothing_is_deleted(applied) -> None:
    fault = loses_answer if applied else fails
    store = FaultyStore(MemoryStore(), lambda call: fault if call.method == "create" else fails)
    began_s = time.monotonic()
    with pytest.raises((Unknown, Unavailable)):
        commit(store, receipt(), patience_s=0.3)
    assert time.monotonic() - began_s < 5
    assert len(store.made("create")) >= 2
    assert store.made("delete") == []


def test_a_store_that_refuses_is_not_asked_again() -> None:
    def denies(call, act):
        raise AccessDenied("memory://", call.key, "403")

    store = created(denies)
    with pytest.raises(AccessDenied):
        commit(store, receipt())
    assert len(store.calls) == 1


def test_something_else_under_the_key_stops_the_run_and_names_the_key() -> None:
    store = MemoryStore("memory://run")
    store.put(keys.receipt(7), b"{}")
    with pytest.raises(StopError, match=r"memory://run/receipts/000007\.json is no receipt"):
        commit(store, receipt())
    assert store.get(keys.receipt(7)) == b"{}"


@pytest.mark.parametrize("round_", range(20))
def test_of_attempts_that_race_exactly_one_wins_and_all_agree_which(round_: int) -> None:
    rivals = 8
    inner, barrier = MemoryStore(), Barrier(rivals)

    def race(number: int) -> str:
        lost = in_turn("create", keys.RECEIPTS, loses_answer if number % 2 else None)
        store = FaultyStore(inner, lost)
        barrier.wait()
        return commit(store, receipt(f"a{number}"), PATIENCE_S).attempt

    with ThreadPoolExecutor(rivals) as pool:
        winners = set(pool.map(race, range(rivals)))
    stored = read_receipt(inner, 7)
    assert stored is not None
    assert winners == {stored.attempt}


def test_a_loser_deletes_its_own_objects_and_no_others() -> None:
    store = MemoryStore()
    for key in ("data/000007-a1.tar", "rejected/000007-a1.parquet", "data/000007-b2.tar"):
        store.put(key, b"x")
    own = ["data/000007-a1.tar", "rejected/000007-a1.parquet"]
    assert withdraw(store, own, receipt("a1"), receipt("b2")) == 2
    assert [info.key for info in store.list()] == ["data/000007-b2.tar"]


@pytest.mark.parametrize(
    ("winner", "why"),
    [(receipt("a1"), "its own receipt"), (receipt("b2", shard=8), "of another shard")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_deleted_unless_another_attempts_receipt_was_read(winner, why: str) -> None:
    store = MemoryStore()
    store.put("data/000007-a1.tar", b"x")
    with pytest.raises(ValueError, match="did not lose shard 7"):
        withdraw(store, ["data/000007-a1.tar"], receipt("a1"), winner)
    assert len(list(store.list())) == 1


@pytest.mark.parametrize(
    "foreign",
    [
        "data/000007-b2.tar",
        "data/000008-a1.tar",
        "data/000007-a11.tar",
        "receipts/000007.json",
        "run.json",
        "retries/001/data/000007-a1.tar",
    ],
)
def test_a_loser_with_a_key_that_is_not_its_own_deletes_nothing_at_all(foreign: str) -> None:
    store = MemoryStore()
    for key in ("data/000007-a1.tar", foreign):
        store.put(key, b"x")
    with pytest.raises(ValueError, match="does not belong to attempt a1"):
        withdraw(store, ["data/000007-a1.tar", foreign], receipt("a1"), receipt("b2"))
    assert len(list(store.list())) == 2


def test_a_worker_that_cannot_learn_the_outcome_deletes_nothing(prepared: Prepared) -> None:
    """Its receipt may be there, and here it is."""

    def denied(call, act):
        raise AccessDenied("memory://", call.key, "403")

    inner = MemoryStore()
    record = create_record(inner, new_run_record(prepared))
    lost = in_turn("create", keys.RECEIPTS, loses_answer)
    read_back = in_turn("get", keys.RECEIPTS, None, denied)
    store = FaultyStore(inner, lambda call: lost(call) or read_back(call))
    assert isinstance(render_on(store, record, 0), ShardFailed)
    assert store.made("delete") == []
    assert verify_run(inner, record).findings.whole
    assert read_receipt(inner, 0) is not None
