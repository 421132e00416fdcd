"""How a run stands, from the store alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from render_farm.errors import InputError
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog, Failure, write_attempts
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.lease import Lease
from render_farm.ledger.manifest import write_manifest
from render_farm.ledger.receipt import iter_receipts
from render_farm.store.memory import MemoryStore
from render_farm.views.status import read_status
from tests.making.closed import close_shards, make_record
from tests.making.stores import FaultyStore, drive_on, render_on
from tests.views.conftest import ROWS, Made


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(make_run: Callable[..., Made], clock: Clock) -> Made:
    """Ten rows in shards of four, four and two; nothing rendered; the store's clock is `clock`."""
    made, record = make_run()
    store = MemoryStore(made.uri, clock=clock)
    store.put(keys.RUN, made.get(keys.RUN))
    return store, record


def failed_log(shard: int, **changes) -> AttemptLog:
    failures = tuple(
        Failure(
            attempt="a",
            worker=f"w{number}",
            error_type="OSError",
            error=f"no disk {number}",
            at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for number in range(3)
    )
    return AttemptLog(shard=shard, failures=failures, failed=True).model_copy(update=changes)


def test_where_there_is_no_run_the_users_input_is_wrong() -> None:
    with pytest.raises(InputError):
        read_status(MemoryStore())


def test_a_run_that_nobody_took_up_is_stopped(run: Made) -> None:
    status = read_status(run[0])
    assert (status.state, status.reason) == ("stopped", "no driver has taken it up yet")
    assert status.rows == {
        "planned": 10,
        "done": 0,
        "filtered": 0,
        "quarantined": 0,
        "cancelled": 0,
        "pending": 10,
    }
    assert status.shards == {"planned": 3, "done": 0, "failed": 0, "open": 3}
    assert status.samples == {"planned": 20, "done": 0, "filtered": 0, "rendered": 0}


def test_a_run_with_a_fresh_heartbeat_is_running_and_a_silent_one_stopped(
    run: Made, clock: Clock
) -> None:
    store, _ = run
    lease = Lease.take(store, "driver")
    clock.now += timedelta(seconds=59)
    assert read_status(store).state == "running"
    clock.now += timedelta(seconds=1)
    status = read_status(store)
    assert (status.state, status.reason) == ("stopped", "the driver has fallen silent")
    lease.beat()
    assert read_status(store).state == "running"


def test_a_driver_that_ended_said_why(run: Made) -> None:
    store, _ = run
    Lease.take(store, "driver").end("stopped as asked")
    status = read_status(store)
    assert (status.state, status.reason) == ("stopped", "stopped as asked")


def test_rows_and_shards_are_counted_by_state(run: Made) -> None:
    store, record = run
    render_on(store, record, 1)
    status = read_status(store, samples_rendered=7)
    assert status.rows == {
        "planned": 10,
        "done": 3,
        "filtered": 0,
        "quarantined": 1,
        "cancelled": 0,
        "pending": 6,
    }
    assert status.samples == {"planned": 20, "done": 6, "filtered": 0, "rendered": 7}
    assert status.shards == {"planned": 3, "done": 1, "failed": 0, "open": 2}
    assert status.errors_by_type == {"bad_guidance_scale": 1}


def test_a_complete_run_is_complete_without_any_driver(run: Made, clock: Clock) -> None:
    store, record = run
    drive_on(store, record)
    clock.now += timedelta(days=400)
    status = read_status(store)
    assert (status.state, status.reason, status.rate) == ("complete", None, None)
    assert status.rows["pending"] == status.shards["open"] == 0


def test_a_run_is_not_complete_before_its_manifest_is_there(run: Made) -> None:
    store, record = run
    drive_on(store, record)
    store.delete(keys.MANIFEST)
    assert read_status(store).state == "stopped"


def test_a_cancelled_run_is_cancelled_even_while_a_driver_beats(run: Made) -> None:
    store, record = run
    render_on(store, record, 0)
    Lease.take(store, "driver")
    cancel_run(store, record)
    status = read_status(store)
    assert status.state == "cancelled"
    assert (status.rows["done"], status.rows["cancelled"], status.rows["pending"]) == (4, 6, 0)


def test_a_cancel_that_was_cut_off_is_cancelled_with_rows_pending(run: Made) -> None:
    store, _ = run
    store.create(keys.CANCEL, b"{}")
    status = read_status(store)
    assert (status.state, status.rows["pending"]) == ("cancelled", ROWS)


def test_a_cancel_that_came_too_late_has_changed_nothing(run: Made) -> None:
    store, record = run
    drive_on(store, record)
    store.create(keys.CANCEL, b"{}")
    assert read_status(store).state == "complete"


def test_failed_shards_are_shown_with_their_last_error(run: Made) -> None:
    store, record = run
    write_attempts(store, failed_log(2))
    write_attempts(store, failed_log(1, failed=False))
    status = read_status(store)
    [failed] = status.failed_shards
    assert (failed.shard, failed.attempts, failed.error_type) == (2, 3, "OSError")
    assert (failed.error, failed.worker) == ("no disk 2", "w2")
    assert status.shards == {"planned": 3, "done": 0, "failed": 1, "open": 2}
    assert status.rows["pending"] == ROWS
    render_on(store, record, 2)
    store.put(keys.attempts(2), failed_log(2).model_dump_json().encode())
    status = read_status(store)
    assert status.failed_shards == ()
    assert status.shards == {"planned": 3, "done": 1, "failed": 0, "open": 2}


def test_the_rate_is_of_the_last_minutes_by_the_stores_clock(
    make_run: Callable[..., Made], clock: Clock
) -> None:
    made, record = make_run(rows=6, shards={"rows": 1})
    store = MemoryStore(made.uri, clock=clock)
    drive_on(made, record)
    receipts = list(iter_receipts(made))
    store.put(keys.RUN, made.get(keys.RUN))
    lease = Lease.take(store, "driver")
    store.create(keys.receipt(5), receipts[5].to_bytes())  # an hour ago: before a pause
    clock.now += timedelta(hours=1)
    lease.beat()
    assert read_status(store).rate is None
    for shard in range(3):
        store.create(keys.receipt(shard), receipts[shard].to_bytes())
        clock.now += timedelta(seconds=10)
    status = read_status(store)
    assert status.state == "running"
    assert status.rate == pytest.approx(2 / 30)
    assert status.eta_s == pytest.approx(2 * 15)


def test_the_figures_have_the_form_of_the_design(run: Made) -> None:
    store, record = run
    drive_on(store, record)
    document = json.loads(json.dumps(read_status(store).to_json()))
    assert {
        "run",
        "state",
        "rows",
        "samples",
        "shards",
        "failed_shards",
        "rate",
        "eta_s",
    } <= document.keys()
    assert document["run"] == store.uri


@pytest.fixture
def long(tmp_path: Path) -> FaultyStore:
    """3,000 shards, all but the last closed, and the rollups of them; a driver runs."""
    store = FaultyStore(MemoryStore("memory://long/run"))
    record = make_record(store, tmp_path, 3000)
    close_shards(store, range(2999))
    write_manifest(store, record)
    Lease.take(store, "driver")
    store.calls.clear()
    return store


def test_three_thousand_shards_are_told_of_by_one_list_and_three_rollups(
    long: FaultyStore,
) -> None:
    status = read_status(long)
    assert (status.state, status.shards["done"], status.rows["pending"]) == ("running", 2999, 1)
    assert status.rate is not None
    gets = Counter(key.rpartition("/")[0] for key in long.made("get"))
    assert gets == {"driver/rollup": 3, "driver": 1, "": 1}
    assert sorted(long.made("list")) == [keys.ATTEMPTS, keys.RECEIPTS]
    assert len(long.calls) <= 3 + 2 + 5


def test_looking_writes_nothing(long: FaultyStore) -> None:
    long.delete(keys.rollup(1))
    long.calls.clear()
    assert read_status(long).shards["done"] == 2999
    assert {call.method for call in long.calls} <= {"get", "head", "list"}


def test_logs_of_many_open_shards_are_read_and_only_failed_ones_looked_up(
    long: FaultyStore,
) -> None:
    for shard in range(200):
        log = failed_log(shard, failed=shard % 20 == 0)
        write_attempts(long, log)
    write_attempts(long, failed_log(2999))
    long.calls.clear()
    status = read_status(long)
    assert [failed.shard for failed in status.failed_shards] == [2999]
    assert status.shards == {"planned": 3000, "done": 2999, "failed": 1, "open": 0}
    looked_up = [key for key in long.made("head") if key.startswith(keys.RECEIPTS)]
    assert len(looked_up) == 11
