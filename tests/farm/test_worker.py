"""A worker's attempt at a shard, in this process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from render_farm.engine.sampler import Sampler
from render_farm.errors import (
    AlreadyExists,
    DeviceLost,
    InputError,
    NotFound,
    OutOfMemory,
    Unavailable,
)
from render_farm.farm.messages import (
    Answer,
    Assignment,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    Tally,
)
from render_farm.farm.worker import ShardWorker
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog, read_attempts
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.receipt import read_receipt
from render_farm.store.memory import MemoryStore
from render_farm.views.results import shard_metadata, shard_samples
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, died, submit
from tests.making.samplers import CuedSampler


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(
        rows: int = 4, prompts: dict[int, str] | None = None, name: str = "run", **sections: object
    ) -> Run:
        texts = [(prompts or {}).get(row, f"picture {row}") for row in range(rows)]
        path = write_prompts(tmp_path / "p.parquet", rows, prompt=texts)
        return submit(make_job(path, f"memory://{tmp_path.name}/{name}", **sections))

    return make


def work(run: Run, sampler: Sampler | None = None, shard: int = 0, **log: object) -> Answer:
    chosen = sampler or CuedSampler()
    worker = run.worker(lambda record, options: chosen)
    try:
        return worker.run(Assignment(shard, AttemptLog(shard=shard, **log), Tally()))
    finally:
        worker.close()


def work_on(run: Run, store: MemoryStore) -> Answer:
    """As `work`, with the worker's own view of the store."""
    with closing(ShardWorker(run.options(), store, run.record, CuedSampler())) as worker:
        return worker.run(Assignment(0, AttemptLog(shard=0), Tally()))


def test_a_shard_ends_with_its_objects_and_its_receipt(make_run: Callable[..., Run]):
    run = make_run()
    answer = work(run)
    assert isinstance(answer, ShardClosed)
    assert answer.own
    receipt = read_receipt(run.store, 0)
    assert receipt == answer.receipt
    assert receipt.counts.done == 4
    assert {item.key.rpartition(".")[2] for item in receipt.objects} == {"tar", "parquet"}


def test_a_committed_shard_is_not_rendered_again(make_run: Callable[..., Run]):
    run = make_run()
    work(run)
    sampler = CuedSampler()
    answer = work(run, sampler)
    assert isinstance(answer, ShardClosed)
    assert not answer.own
    assert sampler.taken == []


def test_answers_and_assignments_survive_pickling(make_run: Callable[..., Run]):
    answer = work(make_run())
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_a_refused_sample_quarantines_its_row_and_no_other(make_run: Callable[..., Run]):
    run = make_run(prompts={2: "refuse"})
    answer = work(run)
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.counts.model_dump() == {
        "done": 3,
        "filtered": 0,
        "quarantined": 1,
        "cancelled": 0,
    }
    assert answer.receipt.errors_by_type == {"refused": 1}


def test_one_refused_sample_of_several_quarantines_the_whole_row(make_run: Callable[..., Run]):
    class RefusesSecond(CuedSampler):
        def render(self, requests, batch_size):
            for request in requests:
                cue = "refuse" if (request.row, request.sample) == (1, 1) else request.prompt
                for outcome in super().render([replace(request, prompt=cue)], batch_size):
                    yield replace(outcome, request=request)

    run = make_run(defaults={"samples": 3})
    answer = work(run, RefusesSecond())
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.samples.done == 9
    keys_there = [s.key for s in shard_samples(run.store, run.record, answer.receipt)]
    assert not any(key.startswith("000000001_") for key in keys_there)


def test_a_row_whose_values_cannot_be_used_is_quarantined_with_its_error(
    make_run: Callable[..., Run],
):
    run = make_run(prompts={1: None})  # type: ignore[dict-item]
    answer = work(run)
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.errors_by_type == {"bad_prompt": 1}


def test_an_error_that_is_not_a_rows_fails_the_attempt_and_commits_nothing(
    make_run: Callable[..., Run],
):
    run = make_run(prompts={1: "crash"})
    answer = work(run)
    assert isinstance(answer, ShardFailed)
    assert "crashed on row 1" in answer.failure.error
    assert read_receipt(run.store, 0) is None
    assert not list(run.store.list(keys.DATA))


def test_a_lost_device_ends_the_worker(make_run: Callable[..., Run]):
    with pytest.raises(DeviceLost):
        work(make_run(prompts={0: "lose-device"}))


def test_rows_in_flight_are_noted_while_they_are_rendered(make_run: Callable[..., Run]):
    run = make_run(prompts={1: "lose-device"})
    with pytest.raises(DeviceLost):
        work(run)
    current = read_attempts(run.store, 0).current
    assert current is not None
    assert 1 in current.in_flight


def test_suspects_are_rendered_first_and_each_in_a_batch_of_its_own(make_run: Callable[..., Run]):
    run = make_run(rows=4, shards={"rows": 4})
    sampler = CuedSampler()
    work(run, sampler, failures=(died(1, 3),))
    assert [request.row for request in sampler.taken] == [1, 3, 0, 2]
    assert len(sampler.batches) == 3


def test_a_row_that_ended_a_process_alone_is_quarantined(make_run: Callable[..., Run]):
    run = make_run()
    answer = work(run, failures=(died(1, 2), died(2)))
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.errors_by_type == {"process_ended": 1}
    assert answer.receipt.counts.done == 3


def test_suspects_keep_their_pictures(make_run: Callable[..., Run]):
    run = make_run()
    answer = work(run, failures=(died(0, 1, 2, 3),))
    assert isinstance(answer, ShardClosed)
    alone = shard_metadata(run.store, answer.receipt)
    other = make_run(name="other")
    answer = work(other)
    assert isinstance(answer, ShardClosed)
    together = shard_metadata(other.store, answer.receipt)
    assert alone is not None
    assert together is not None
    assert alone["sha256"].to_pylist() == together["sha256"].to_pylist()


def test_a_batch_that_does_not_fit_is_halved_for_the_whole_run(make_run: Callable[..., Run]):
    run = make_run(rows=8, workers={"batch_size": 16})
    sampler = CuedSampler(fits=4)
    answer = work(run, sampler)
    assert isinstance(answer, ShardClosed)
    table = shard_metadata(run.store, answer.receipt)
    assert table is not None
    assert set(table["batch_shape"].to_pylist()) == {"4x64x64"}
    work(run, sampler, shard=1)
    assert sampler.batches == [4, 4]


def test_a_row_too_large_for_the_device_costs_that_row_alone(make_run: Callable[..., Run]):
    class LargeRowDoesNotFit(CuedSampler):
        def render(self, requests, batch_size):
            for request in requests:
                if request.row == 2:
                    raise OutOfMemory(batch_size, "too large")
                yield from super().render([request], batch_size)

    run = make_run()
    answer = work(run, LargeRowDoesNotFit())
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.errors_by_type == {"out_of_memory": 1}
    assert answer.receipt.counts.done == 3
    assert verify_run(run.store, run.record).findings.whole


def test_a_stop_that_comes_with_the_last_sample_loses_nothing(make_run: Callable[..., Run]):
    class StopsAtTheEnd(CuedSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                if outcome.request.row == 3:
                    worker.stop()
                yield outcome

    worker = make_run().worker(lambda record, options: StopsAtTheEnd())
    with closing(worker):
        answer = worker.run(Assignment(0, AttemptLog(shard=0), Tally()))
    assert isinstance(answer, ShardClosed)
    assert answer.own


def test_notes_that_the_store_does_not_take_stop_nothing(make_run: Callable[..., Run]):
    run = make_run()

    class TakesNoNotes(MemoryStore):
        def put(self, key: str, data: bytes) -> None:
            if key.startswith(keys.ATTEMPTS):
                raise Unavailable(self.uri, key, "no")
            super().put(key, data)

        def delete(self, key: str) -> None:
            raise Unavailable(self.uri, key, "no")

    store = run.store
    assert isinstance(store, MemoryStore)
    answer = work_on(run, TakesNoNotes(store.uri, bucket=store._bucket, prefix="run"))
    assert isinstance(answer, ShardClosed)
    assert answer.own


def test_a_systematic_error_stops_the_run_before_its_shard_gets_a_receipt(
    make_run: Callable[..., Run],
):
    run = make_run(rows=8, prompts=dict.fromkeys(range(8), "refuse"), shards={"rows": 8})
    answer = work(run)
    assert isinstance(answer, RunHalted)
    assert "refused (8 rows)" in answer.reason
    assert read_receipt(run.store, 0) is None


def test_a_worker_that_is_asked_to_stop_gives_its_shard_back(make_run: Callable[..., Run]):
    class StopsInTheMiddle(CuedSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                worker.stop()
                yield outcome

    run = make_run()
    worker = run.worker(lambda record, options: StopsInTheMiddle())
    with closing(worker):
        answer = worker.run(Assignment(0, AttemptLog(shard=0), Tally()))
    assert answer == ShardGivenBack(0)
    assert read_receipt(run.store, 0) is None
    left = read_attempts(run.store, 0).current
    assert left is not None
    assert left.in_flight == ()  # nobody is to be suspected of having ended anything


def test_a_worker_that_lost_its_shard_withdraws_its_own_objects_only(
    make_run: Callable[..., Run],
):
    run = make_run()
    first = work(run)
    assert isinstance(first, ShardClosed)
    winner = {info.key for info in run.store.list(keys.DATA)}

    class Blind(MemoryStore):
        """Does not see the receipt until it tries to write its own: a race, frozen."""

        tried = False

        def get(self, key: str) -> bytes:
            if key == keys.receipt(0) and not self.tried:
                raise NotFound(self.uri, key, "not there yet")
            return super().get(key)

        def create(self, key: str, data: bytes) -> None:
            self.tried = True
            super().create(key, data)

    store = run.store
    assert isinstance(store, MemoryStore)
    blind = Blind(store.uri, bucket=store._bucket, prefix="run")
    answer = work_on(run, blind)
    assert isinstance(answer, ShardClosed)
    assert not answer.own
    assert answer.receipt == first.receipt
    assert answer.samples_rendered == 4
    assert {info.key for info in run.store.list(keys.DATA)} == winner


def test_a_cancelled_shard_is_not_rendered(make_run: Callable[..., Run]):
    run = make_run()
    cancel_run(run.store, run.record)
    sampler = CuedSampler()
    answer = work(run, sampler)
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.kind == "cancelled"
    assert sampler.taken == []


def test_a_store_that_fails_the_worker_is_a_failed_attempt_and_says_so(
    make_run: Callable[..., Run],
):
    run = make_run()

    class Gone(MemoryStore):
        def upload(self, key: str, path: Path) -> None:
            raise Unavailable(self.uri, key, "no answer for 120 s")

    store = run.store
    assert isinstance(store, MemoryStore)
    gone = Gone(store.uri, bucket=store._bucket, prefix="run")
    answer = work_on(run, gone)
    assert isinstance(answer, ShardFailed)
    assert "no answer for 120 s" in answer.failure.error


def test_a_worker_refuses_a_folder_that_is_not_the_drivers(make_run: Callable[..., Run]):
    run = make_run()
    options = replace(run.options(), token="another")
    with pytest.raises(InputError, match="share"):
        ShardWorker.open(options, lambda record, options: CuedSampler())
    with pytest.raises(InputError, match="share"):
        ShardWorker.open(
            replace(options, run_uri="memory://empty"), lambda record, options: CuedSampler()
        )


def test_input_that_changed_since_the_submit_halts_the_run(
    make_run: Callable[..., Run], tmp_path: Path
):
    run = make_run()
    write_prompts(tmp_path / "p.parquet", 4, prompt=["other"] * 4)
    answer = work(run)
    assert isinstance(answer, RunHalted)
    assert "pinned" in answer.reason


def test_the_result_carries_the_other_columns_and_the_prompts_of_its_rows(
    make_run: Callable[..., Run],
):
    run = make_run(rows=10, shards={"rows": 10}, defaults={"samples": 2})
    answer = work(run)
    assert isinstance(answer, ShardClosed)
    for sample in shard_samples(run.store, run.record, answer.receipt):
        row = sample.record["row"]
        assert sample.record["prompt"] == f"picture {row}"
        assert sample.record["id"] == f"row-{row}"
        assert sample.record["label"] == row % 3


def test_a_lost_answer_to_the_receipt_is_read_back(make_run: Callable[..., Run]):
    run = make_run()

    class LosesAnswers(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            if key.startswith(keys.RECEIPTS):
                raise AlreadyExists(self.uri, key, "412 on the retry of our own write")

    store = run.store
    assert isinstance(store, MemoryStore)
    lossy = LosesAnswers(store.uri, bucket=store._bucket, prefix="run")
    answer = work_on(run, lossy)
    assert isinstance(answer, ShardClosed)
    assert answer.own
    assert verify_run(run.store, run.record).ok
