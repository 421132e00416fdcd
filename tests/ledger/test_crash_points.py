"""A small run, disturbed at every single call that it makes to its store.

The calls of an undisturbed run are counted. Then the run is made once for each of them and each
kind of disturbance, and afterwards driven again on the healthy store: nothing may be lost, nothing
may be there twice, and the pictures are those of the undisturbed run.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from render_farm.errors import InputError, RenderFarmError
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run, is_cancelled
from render_farm.ledger.lease import Lease
from render_farm.ledger.quarantine import read_rejected
from render_farm.ledger.receipt import iter_receipts
from render_farm.ledger.record import RunRecord, read_record
from render_farm.ledger.sweep import iter_orphans, sweep_run
from render_farm.store.base import Store, exists
from render_farm.store.folder import FolderStore
from render_farm.store.folder_listing import TEMPORARY
from render_farm.store.memory import MemoryStore
from render_farm.views.results import shard_metadata
from render_farm.views.verify import verify_run
from tests.making.stores import (
    Call,
    Fault,
    FaultyStore,
    Killed,
    at,
    exists_by_own_write,
    fails,
    killed_after,
    killed_before,
    loses_answer,
    meanwhile,
    submit_on,
)

FEWEST_CALLS = 36
FEWEST_WRITES = 16


def make_and_drive(store: Store, prepared: Prepared, driver: str = "driver") -> RunRecord:
    """What `submit` does, from the first write on."""
    return submit_on(store, new_run_record(prepared), driver)


def results(store: Store) -> list[tuple[int, int | None, str]]:
    """(row, sample, sha256) of every done sample, and every quarantined row, sorted."""
    found: list[tuple[int, int | None, str]] = []
    for receipt in iter_receipts(store):
        table = shard_metadata(store, receipt)
        if table is not None:
            found += [(line["row"], line["sample"], line["sha256"]) for line in table.to_pylist()]
        found += [(row, None, error) for row, (error, _) in read_rejected(store, receipt).items()]
    return sorted(found, key=lambda line: (line[0], line[1] or 0))


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared) -> tuple[list[Call], list[tuple[int, int | None, str]]]:
    store = FaultyStore(MemoryStore())
    record = make_and_drive(store, prepared)
    calls = list(store.calls)
    assert verify_run(store, record).ok
    found = results(store)
    assert [line[:2] for line in found] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, None)
    ]  # fmt: skip
    assert len(calls) >= FEWEST_CALLS
    return calls, found


def assert_exactly_once(store: Store, found: list[tuple[int, int | None, str]]) -> None:
    """Whole, complete, with the pictures expected; and a sweep takes nothing of it away."""
    record = read_record(store)
    assert results(store) == found
    assert exists(store, keys.MANIFEST)
    assert exists(store, keys.QUARANTINE)
    sweep_run(store, record.plan.shards)
    assert list(iter_orphans(store)) == []
    verdict = verify_run(store, record)
    assert verdict.ok, verdict.findings.problems


def each_call(
    calls: list[Call], attempt: Callable[[int], None], wanted: Callable[[Call], bool] | None = None
) -> int:
    """Make the attempt once for every call; returns how many there were."""
    points = [call.number for call in calls if wanted is None or wanted(call)]
    for number in points:
        attempt(number)
    return len(points)


@pytest.mark.parametrize(
    "fault", [fails, loses_answer, killed_before, killed_after], ids=lambda fault: fault.__name__
)
def test_a_fault_at_any_call_loses_nothing_and_doubles_nothing(
    fault: Fault, prepared: Prepared, undisturbed: tuple[list[Call], list]
) -> None:
    calls, found = undisturbed
    fired: list[int] = []

    def attempt(number: int) -> None:
        def counted(call: Call, act: Callable[[], object]) -> object:
            fired.append(call.number)
            return fault(call, act)

        store = MemoryStore()
        with suppress(Killed, RenderFarmError):
            make_and_drive(FaultyStore(store, at(number, counted)), prepared)
        make_and_drive(store, prepared, "second")
        assert_exactly_once(store, found)

    assert each_call(calls, attempt) == len(calls) == len(fired)


def leaves_half_a_file(root: Path) -> Fault:
    """The process ends while it writes a file, which has a temporary name until it is whole."""

    def fault(call: Call, act: Callable[[], object]) -> object:
        target = root / call.key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f"{TEMPORARY}0123-{target.name}").write_bytes(b"half")
        raise Killed

    return fault


WRITES = ("put", "upload", "create")


def test_a_process_that_ends_at_any_call_to_a_folder_loses_nothing(
    prepared: Prepared,
    undisturbed: tuple[list[Call], list],
    tmp_path: Path,
    figure: Callable[[str, object], None],
) -> None:
    calls, found = undisturbed

    def attempt(root: Path, number: int, fault: Fault) -> None:
        store = FolderStore(root)
        with suppress(Killed):
            make_and_drive(FaultyStore(store, at(number, fault)), prepared)
            pytest.fail(f"call {number} was not made")
        make_and_drive(store, prepared, "second")
        assert_exactly_once(store, found)
        shutil.rmtree(root)

    def at_a_write(number: int) -> None:
        root = tmp_path / f"half-{number}"
        attempt(root, number, leaves_half_a_file(root))

    ended = each_call(calls, lambda number: attempt(tmp_path / f"{number}", number, killed_after))
    half = each_call(calls, at_a_write, lambda call: call.method in WRITES)
    assert half >= FEWEST_WRITES
    figure("crash points: ends of the process at a call to a folder", ended)
    figure("crash points: ends of the process within a write to a folder", half)


def test_a_create_that_met_its_own_write_is_taken_for_what_it_is(
    prepared: Prepared, undisturbed: tuple[list[Call], list]
) -> None:
    calls, found = undisturbed

    def attempt(number: int) -> None:
        store = FaultyStore(MemoryStore(), at(number, exists_by_own_write))
        make_and_drive(store, prepared)
        assert [key for key in store.made("delete") if not key.startswith("driver/")] == []
        assert_exactly_once(store.inner, found)

    # run.json, the epoch, the shape and two receipts
    assert each_call(calls, attempt, lambda call: call.method == "create") == 5


@pytest.mark.parametrize("swept", [False, True], ids=["", "and sweeps"])
def test_a_second_driver_that_does_all_the_work_at_any_moment_changes_nothing(
    swept: bool, prepared: Prepared, undisturbed: tuple[list[Call], list]
) -> None:
    calls, found = undisturbed

    def attempt(number: int) -> None:
        store = MemoryStore()

        def overtake() -> None:
            record = make_and_drive(store, prepared, "rival")
            if swept:
                sweep_run(store, record.plan.shards)

        zombie = FaultyStore(store, at(number, meanwhile(overtake)))
        make_and_drive(zombie, prepared, "zombie")
        assert_exactly_once(store, found)

    assert each_call(calls, attempt) == len(calls)


def test_a_sweep_at_any_moment_takes_nothing_from_a_living_attempt(
    prepared: Prepared, undisturbed: tuple[list[Call], list]
) -> None:
    calls, found = undisturbed

    def attempt(number: int) -> None:
        store = MemoryStore()

        swept: list[int] = []

        def sweep() -> None:
            swept.append(sweep_run(store, 2).objects)

        make_and_drive(FaultyStore(store, at(number, meanwhile(sweep))), prepared)
        assert swept == [0]
        assert_exactly_once(store, found)

    assert each_call(calls, attempt) == len(calls)


def test_a_cancel_at_any_moment_leaves_every_row_done_or_cancelled(
    prepared: Prepared, undisturbed: tuple[list[Call], list]
) -> None:
    calls, found = undisturbed
    ends: set[int] = set()

    def attempt(number: int) -> None:
        store = MemoryStore()

        def cancel() -> None:
            with suppress(InputError):  # there may be no run yet
                cancel_run(store, read_record(store))

        record = make_and_drive(FaultyStore(store, at(number, meanwhile(cancel))), prepared)
        verdict = verify_run(store, record)
        assert verdict.ok, verdict.findings.problems
        done = results(store)
        assert set(done) <= set(found)
        cancelled = {
            row
            for receipt in iter_receipts(store)
            if receipt.kind == "cancelled"
            for row in range(receipt.first_row, receipt.first_row + receipt.rows)
        }
        assert {line[0] for line in done} | cancelled == set(range(5))
        assert not {line[0] for line in done} & cancelled
        assert bool(cancelled) <= is_cancelled(store)
        ends.add(len(cancelled))
        sweep_run(store, 2)
        assert verify_run(store, record).ok

    assert each_call(calls, attempt) == len(calls)
    assert ends == {0, 2, 5}


@pytest.mark.parametrize("seed", range(4))
def test_drivers_at_once_on_a_store_that_fails_now_and_then_make_one_result(
    seed: int, prepared: Prepared, undisturbed: tuple[list[Call], list]
) -> None:
    _, found = undisturbed
    store = MemoryStore()
    kinds: list[Fault | None] = [fails, loses_answer, killed_after, *[None] * 147]

    def zombie(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        with suppress(Killed, RenderFarmError):
            make_and_drive(
                FaultyStore(store, lambda call: chance.choice(kinds)), prepared, f"{number}"
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(zombie, range(4)))
    make_and_drive(store, prepared, "last")
    assert_exactly_once(store, found)
    assert Lease.take(store, "next").epoch > 1
