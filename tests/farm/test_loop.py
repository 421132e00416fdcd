"""The driver's loop over workers in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.engine.sampler import Sampler
from render_farm.errors import InputError, ModelError, Unavailable
from render_farm.farm import loop
from render_farm.farm.messages import Assignment, WorkerOptions
from render_farm.farm.pool import Answered, LocalPool, Lost, PoolEvent, Ready, Refusal
from render_farm.farm.progress import Progress
from render_farm.farm.watch import FIRST_S
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.lease import Lease
from render_farm.ledger.receipt import iter_receipts
from render_farm.store.base import Store, exists
from render_farm.views.results import shard_samples
from render_farm.views.status import read_status
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.samplers import CuedSampler


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(
        rows: int = 20, cues: dict[int, str] | None = None, name: str = "run", **sections: object
    ) -> Run:
        texts = [(cues or {}).get(row, f"picture {row}") for row in range(rows)]
        path = write_prompts(tmp_path / f"{name}.parquet", rows, prompt=texts)
        return submit(make_job(path, f"memory://{tmp_path.name}/{name}", **sections))

    return make


def cued() -> LocalPool:
    return LocalPool(lambda record, options: CuedSampler())


def pictures(run: Run) -> set[tuple[int, int, str]]:
    return set(_pictures(run.store, run))


def _pictures(store: Store, run: Run) -> Iterator[tuple[int, int, str]]:
    for receipt in iter_receipts(store):
        for sample in shard_samples(store, run.record, receipt):
            yield sample.record["row"], sample.record["sample"], sample.record["sha256"]


def test_a_run_ends_complete_with_a_manifest(make_run: Callable[..., Run]):
    run = make_run()
    end = run.drive()
    assert end.reason is None
    assert end.samples_rendered == 20
    assert exists(run.store, keys.MANIFEST)
    assert verify_run(run.store, run.record).ok


def test_driving_a_complete_run_again_renders_nothing(make_run: Callable[..., Run]):
    run = make_run()
    run.drive()
    assert run.drive().samples_rendered == 0


def test_a_run_that_was_stopped_goes_on_where_it_was_and_gives_the_same_pictures(
    make_run: Callable[..., Run],
):
    undisturbed, run = make_run(name="undisturbed"), make_run(name="disturbed")
    undisturbed.drive()
    driver = run.driver(on_progress=lambda p: p.decided_rows >= 8 and driver.ask_to_stop())
    first = driver.drive()
    assert first.reason == "stopped as asked"
    stopped = read_status(run.store)
    assert stopped.state == "stopped"
    assert 8 <= stopped.rows["done"] < 20
    second = run.drive()
    assert second.reason is None
    assert first.samples_rendered + second.samples_rendered == 20
    ids = [{(row, sample) for row, sample, _ in pictures(r)} for r in (undisturbed, run)]
    assert ids[0] == ids[1]
    assert pictures(undisturbed) == pictures(run)


def test_poison_rows_are_quarantined_and_the_rest_is_done(make_run: Callable[..., Run]):
    run = make_run(cues={3: "refuse", 11: "refuse"}, limits={"max_quarantined": 0.5})
    end = run.drive(cued())
    assert end.reason is None
    status = read_status(run.store)
    assert (status.state, status.rows["done"], status.rows["quarantined"]) == ("complete", 18, 2)
    table = pq.read_table(pa.BufferReader(run.store.get(keys.QUARANTINE)))
    assert table["rf_row"].to_pylist() == [3, 11]
    assert table["rf_error_type"].to_pylist() == ["refused", "refused"]
    assert table["prompt"].to_pylist() == ["refuse", "refuse"]
    assert table["label"].to_pylist() == [0, 2]


def test_a_shard_that_always_crashes_is_failed_and_the_others_go_on(
    make_run: Callable[..., Run],
):
    run = make_run(cues={5: "crash"})
    end = run.drive(cued())
    assert end.reason is not None
    assert "shards that used their attempts: 1" in end.reason
    assert "crashed on row 5" in end.reason
    status = read_status(run.store)
    assert status.state == "stopped"
    assert status.shards == {"planned": 5, "done": 4, "failed": 1, "open": 0}
    (failed,) = status.failed_shards
    assert (failed.shard, failed.attempts) == (1, 3)
    assert "crashed on row 5" in failed.error


def test_a_failed_shard_is_resumed_with_its_count_anew(make_run: Callable[..., Run]):
    run = make_run(cues={5: "crash"})
    run.drive(cued())
    end = run.drive()
    assert end.reason is None
    assert end.samples_rendered == 4
    assert read_status(run.store).failed_shards == ()
    assert verify_run(run.store, run.record).ok


def test_a_row_that_loses_the_device_is_found_and_its_shard_completed(
    make_run: Callable[..., Run],
):
    run = make_run(cues={6: "lose-device"}, limits={"max_quarantined": 0.5})
    end = run.drive(cued())
    assert end.reason is None
    assert read_status(run.store).errors_by_type == {"process_ended": 1}
    assert verify_run(run.store, run.record).ok


def test_a_systematic_error_stops_the_run_and_a_higher_limit_lets_it_go_on(
    make_run: Callable[..., Run],
):
    run = make_run(cues=dict.fromkeys(range(20), "refuse"), shards={"rows": 10})
    end = run.drive(cued())
    assert end.reason is not None
    assert "refused" in end.reason
    assert not list(run.store.list(keys.RECEIPTS))
    assert run.drive(cued(), max_quarantined=1.0).reason is None
    assert read_status(run.store).rows["quarantined"] == 20


def test_a_cancelled_run_stops_and_keeps_what_is_done(make_run: Callable[..., Run]):
    run = make_run()
    driver = run.driver(on_progress=lambda p: p.decided_rows >= 4 and driver.ask_to_stop())
    driver.drive()
    cancel_run(run.store, run.record)
    status = read_status(run.store)
    assert status.state == "cancelled"
    assert status.rows["pending"] == 0
    assert status.rows["done"] >= 4
    assert status.rows["done"] + status.rows["cancelled"] == 20


def test_an_older_driver_stands_down(make_run: Callable[..., Run], monkeypatch):
    monkeypatch.setattr(loop, "HOUSEKEEPING_S", 0.0)
    run = make_run(rows=400, shards={"rows": 1})
    seen = threading.Event()

    def overtake(progress: Progress) -> None:
        if progress.decided_rows and not seen.is_set():
            seen.set()
            Lease.take(run.store, "newer")

    end = run.driver(on_progress=overtake).drive()
    assert end.reason == "another driver has taken the run over"
    assert read_status(run.store).state == "running"  # the newer one's heartbeat stands


def test_a_model_that_cannot_be_loaded_is_the_users_to_mend(make_run: Callable[..., Run]):
    def refuse(record: object, options: object) -> Sampler:
        raise ModelError("model.path", "x", "a model", "choose one")

    with pytest.raises(InputError, match=r"model\.path"):
        make_run().drive(LocalPool(refuse))


def test_workers_that_cannot_start_for_an_unknown_reason_stop_the_run(
    make_run: Callable[..., Run],
):
    def crash(record: object, options: object) -> Sampler:
        raise RuntimeError("the driver of the card is missing")

    end = make_run().drive(LocalPool(crash))
    assert end.reason is not None
    assert "ended one after another" in end.reason


def test_two_drivers_at_once_end_with_one_whole_result(make_run: Callable[..., Run]):
    run = make_run(rows=60)
    threads = [threading.Thread(target=run.drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = verify_run(run.store, run.record)
    assert verdict.ok
    assert verdict.samples == 60


@pytest.mark.parametrize("container", ["webdataset", "parquet", "files"])
@pytest.mark.parametrize("image", ["png", "jpeg", "webp"])
def test_every_container_and_format_comes_back_whole(
    make_run: Callable[..., Run], container: str, image: str
):
    run = make_run(layout={"container": container, "image": image})
    run.drive()
    assert verify_run(run.store, run.record).ok
    assert len(pictures(run)) == 20


class OneStartsAndOneCannot:
    """A pool whose second worker cannot start, and says so after the first has closed a shard."""

    def __init__(self) -> None:
        self._inner = cued()
        self._held: list[PoolEvent] = []

    def start(self, options: WorkerOptions) -> None:
        if options.worker.endswith("-1"):
            self._inner.start(options)
        else:
            error = ModelError("model.path", "x", "a model", "mount it on this node")
            self._held.append(Refusal(options.worker, error))

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        events = self._inner.poll(timeout_s)
        if any(isinstance(event, Answered) for event in events):
            events, self._held = events + self._held, []
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_node_without_the_model_stops_a_run_that_has_begun(make_run: Callable[..., Run]):
    run = make_run(rows=200)
    end = run.driver(OneStartsAndOneCannot(), workers=2).drive()
    assert end.reason is not None
    assert "cannot start" in end.reason
    status = read_status(run.store)
    assert status.state == "stopped"
    assert status.rows["done"] > 0


class Silent:
    """A pool whose workers take what they are given and are not heard of again."""

    separate = True

    def __init__(self) -> None:
        self.ended: list[str] = []
        self._events: list[PoolEvent] = []

    def start(self, options: WorkerOptions) -> None:
        self._events.append(Ready(options.worker))

    def discard(self, worker: str) -> None:
        self.ended.append(worker)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        events, self._events = self._events, []
        return events

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize("how", ["cancelled", "superseded"])
def test_a_driver_that_is_done_does_not_wait_for_a_worker_that_hangs(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, how: str
):
    monkeypatch.setattr(loop, "HOUSEKEEPING_S", 0.0)
    run, pool = make_run(limits={"stalled_after_s": 1}), Silent()
    begun = threading.Event()

    def end(progress: Progress) -> None:
        if progress.workers and not begun.is_set():
            begun.set()
            if how == "cancelled":
                cancel_run(run.store, run.record)
            else:
                Lease.take(run.store, "newer")

    ended = run.driver(pool, on_progress=end).drive()
    assert ended.reason is not None
    assert how.removesuffix("ed")[:6] in ended.reason or "another driver" in ended.reason
    assert pool.ended


def test_a_worker_whose_store_does_not_answer_at_its_start_is_replaced(
    make_run: Callable[..., Run],
):
    tries: list[int] = []

    def build(record: object, options: object) -> Sampler:
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("s3://x", "run.json", "no answer for 120 s")
        return CuedSampler()

    assert make_run().drive(LocalPool(build)).reason is None
    assert len(tries) == 2


def test_a_shard_that_was_committed_before_its_last_attempt_died_is_no_failed_one(
    make_run: Callable[..., Run],
):
    class DiesAfterTheCommit(LocalPool):
        def poll(self, timeout_s: float) -> list[PoolEvent]:
            events = super().poll(timeout_s)
            return [
                Lost(event.worker, "killed")
                if isinstance(event, Answered) and event.answer.receipt.shard == 0
                else event
                for event in events
            ]

    run = make_run(limits={"attempts": 1})
    end = run.drive(DiesAfterTheCommit(lambda record, options: CuedSampler()))
    assert end.reason is None
    assert read_status(run.store).state == "complete"


def test_shards_that_another_driver_rendered_teach_nothing_about_pace(make_run: Callable[..., Run]):
    run = make_run()
    rival = run.worker(lambda record, options: CuedSampler(), "rival")

    class Overtaken(LocalPool):
        def assign(self, worker: str, assignment: Assignment) -> None:
            rival.run(assignment)
            super().assign(worker, assignment)

    driver = run.driver(Overtaken(lambda record, options: CuedSampler()))
    assert driver.drive().samples_rendered == 0
    assert driver._crew._watch.limit_s(4) == FIRST_S
    rival.close()
