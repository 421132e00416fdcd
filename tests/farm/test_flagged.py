"""Pictures that are black, white or flat: kept, rendered again from the next seed, quarantined."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from render_farm.engine.rehearsal import draw
from render_farm.engine.sampler import Refused, Sampler
from render_farm.errors import DeviceLost, InputError, OutOfMemory
from render_farm.farm.loop import Driver
from render_farm.farm.messages import Answer, Assignment, ShardClosed, ShardGivenBack, Tally
from render_farm.farm.pool import LocalPool
from render_farm.farm.session import Where, drive_run, free_keys
from render_farm.job.seeds import reroll_seed, sample_seed
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog, read_attempts
from render_farm.ledger.receipt import iter_receipts, read_receipt
from render_farm.output.codecs import decode
from render_farm.output.parquet import read_metadata
from render_farm.views.results import fetched, shard_samples
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, died, submit
from tests.making.samplers import CuedSampler

MakeRun = Callable[..., Run]


def seed_of(row: int) -> int:
    """What the dataset's column says."""
    return 1000 + row


def tries(row: int, count: int, sample: int = 0) -> frozenset[int]:
    """The seeds of the first `count` tries at a sample."""
    seed = sample_seed(0, "", seed_of(row), sample)
    return frozenset([seed, *(reroll_seed(seed, n) for n in range(1, count))])


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(on_flagged: str, rows: int = 4, name: str = "run", **sections: Any) -> Run:
        path = write_prompts(
            tmp_path / f"{name}.parquet",
            rows,
            seed=[seed_of(row) for row in range(rows)],
            prompt=[f"picture {row}" for row in range(rows)],
        )
        limits = {"on_flagged": on_flagged, "max_quarantined": 1.0}
        sections = {"shards": {"rows": rows}} | sections
        return submit(make_job(path, f"memory://{tmp_path.name}/{name}", limits=limits, **sections))

    return make


def work(run: Run, sampler: Sampler, shard: int = 0, **log: Any) -> Answer:
    with closing(run.worker(lambda record, options: sampler)) as worker:
        return worker.run(Assignment(shard, AttemptLog(shard=shard, **log), Tally()))


def work_until(run: Run, stop_after: Callable[[int], bool], **cues: Any) -> Answer:
    """Work on shard 0 and ask the worker to stop with the answer number `stop_after`."""

    class Stops(CuedSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                if stop_after(len(self.taken)):
                    worker.stop()
                yield outcome

    worker = run.worker(lambda record, options: Stops(**cues))
    with closing(worker):
        return worker.run(Assignment(0, AttemptLog(shard=0), Tally()))


def done(run: Run) -> dict[tuple[int, int], dict[str, Any]]:
    """What is recorded of every done sample, and its pixels."""
    return {
        (sample.record["row"], sample.record["sample"]): sample.record
        | {"pixels": decode(sample.image).tolist()}
        for receipt in iter_receipts(run.store)
        for sample in shard_samples(run.store, run.record, receipt)
    }


def results(run: Run) -> dict[tuple[int, int], dict[str, Any]]:
    """`done`, but for what may differ between runs by right."""
    apart = {"shard", "attempt", "worker", "render_s", "created_at", "batch_shape"}
    return {
        place: {name: value for name, value in record.items() if name not in apart}
        for place, record in done(run).items()
    }


def rejected(run: Run) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for receipt in iter_receipts(run.store):
        for item in receipt.objects:
            if item.key.startswith(keys.REJECTED):
                with fetched(run.store, item.key) as copy:
                    lines += read_metadata(copy.file, item.key).to_pylist()
    return lines


def drawn(row: int, seed: int) -> Any:
    return draw(f"picture {row}", seed, 64, 64).tolist()


def test_flagged_pictures_are_kept_with_their_flags_unless_asked_otherwise(make_run: MakeRun):
    run = make_run("keep")
    sampler = CuedSampler(black=tries(1, 1), white=tries(2, 1))
    assert isinstance(work(run, sampler), ShardClosed)
    lines = done(run)
    assert [lines[row, 0]["flags"] for row in range(4)] == [
        [],
        ["black", "flat"],
        ["white", "flat"],
        [],
    ]
    assert [lines[row, 0]["seed"] for row in range(4)] == [seed_of(row) for row in range(4)]
    assert len(sampler.taken) == 4


@pytest.mark.parametrize("reroll", [1, 2, 3])
def test_the_first_reroll_without_a_fault_is_the_result_and_says_so(make_run: MakeRun, reroll: int):
    run = make_run("reroll")
    assert isinstance(work(run, CuedSampler(black=tries(2, reroll))), ShardClosed)
    lines = done(run)
    seed = reroll_seed(seed_of(2), reroll)
    assert (lines[2, 0]["seed"], lines[2, 0]["flags"]) == (seed, [f"reroll:{reroll}"])
    assert lines[2, 0]["pixels"] == drawn(2, seed)
    for row in (0, 1, 3):
        assert (lines[row, 0]["seed"], lines[row, 0]["flags"]) == (seed_of(row), [])
    assert verify_run(run.store, run.record).ok


def test_a_row_whose_rerolls_are_all_flagged_is_quarantined_with_flags_and_tries(
    make_run: MakeRun,
):
    run = make_run("reroll")
    sampler = CuedSampler(black=tries(1, 3), white={reroll_seed(seed_of(1), 3)})
    answer = work(run, sampler)
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.errors_by_type == {"flagged": 1}
    (line,) = rejected(run)
    assert (line["row"], line["status"], line["error_type"]) == (1, "quarantined", "flagged")
    assert line["error"] == "the picture is white, flat in the last of 4 tries"
    assert line["seed"] == reroll_seed(seed_of(1), 3)
    assert {row for row, _ in done(run)} == {0, 2, 3}
    assert len(sampler.taken) == 4 + 3
    assert verify_run(run.store, run.record).findings.whole


def test_flagged_pictures_are_quarantined_at_once_where_that_is_asked_for(make_run: MakeRun):
    run = make_run("quarantine")
    sampler = CuedSampler(black=tries(1, 1))
    answer = work(run, sampler)
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.errors_by_type == {"flagged": 1}
    (line,) = rejected(run)
    assert line["error"] == "the picture is black, flat in 1 try"
    assert line["seed"] == seed_of(1)
    assert len(sampler.taken) == 4


@pytest.mark.parametrize("on_flagged", ["keep", "reroll", "quarantine"])
def test_other_flags_are_information_and_no_fault(make_run: MakeRun, on_flagged: str):
    class Notes(CuedSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                yield replace(outcome, flags=(*outcome.flags, "vae_float32"))

    run = make_run(on_flagged)
    assert isinstance(work(run, Notes()), ShardClosed)
    assert [line["flags"] for line in done(run).values()] == [["vae_float32"]] * 4


def test_a_rerolled_picture_keeps_the_other_flags_it_has(make_run: MakeRun):
    class Notes(CuedSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                yield replace(outcome, flags=(*outcome.flags, "vae_float32"))

    run = make_run("reroll")
    work(run, Notes(black=tries(3, 1)))
    assert done(run)[3, 0]["flags"] == ["vae_float32", "reroll:1"]


def test_a_reroll_that_is_refused_quarantines_its_row_and_says_which_it_was(make_run: MakeRun):
    class RefusesRerolls(CuedSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                rolled = outcome.request.seed == reroll_seed(seed_of(0), 2)
                yield Refused(outcome.request, "non_finite", "NaN") if rolled else outcome

    run = make_run("reroll")
    answer = work(run, RefusesRerolls(black=tries(0, 2)))
    assert isinstance(answer, ShardClosed)
    (line,) = rejected(run)
    assert (line["error_type"], line["error"]) == ("non_finite", "NaN (at reroll 2)")
    assert line["seed"] == reroll_seed(seed_of(0), 2)


def test_of_a_row_of_several_samples_only_the_flagged_one_is_rerolled(make_run: MakeRun):
    run = make_run("reroll", defaults={"samples": 3})
    sampler = CuedSampler(black=tries(1, 2, sample=1))
    answer = work(run, sampler)
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.samples.done == 12
    own = [sample_seed(0, "", seed_of(1), sample) for sample in range(3)]
    lines = done(run)
    assert [lines[1, sample]["seed"] for sample in range(3)] == [
        own[0],
        reroll_seed(own[1], 2),
        own[2],
    ]
    assert [lines[1, sample]["flags"] for sample in range(3)] == [[], ["reroll:2"], []]
    assert len(sampler.taken) == 12 + 2


def test_one_sample_that_stays_flagged_quarantines_its_whole_row(make_run: MakeRun):
    run = make_run("reroll", defaults={"samples": 3})
    answer = work(run, CuedSampler(black=tries(1, 4, sample=1) | tries(1, 2, sample=2)))
    assert isinstance(answer, ShardClosed)
    assert answer.receipt.samples.done == 9
    assert answer.receipt.errors_by_type == {"flagged": 1}
    assert {row for row, _ in done(run)} == {0, 2, 3}


BAD = tries(1, 1) | tries(2, 3) | tries(5, 2) | tries(6, 4) | tries(9, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("rows_per_shard", [1, 5])
def test_a_rerolled_picture_is_the_same_whatever_the_batches_and_shards(
    make_run: MakeRun, batch_size: int, rows_per_shard: int
):
    whole = make_run("reroll", rows=10)
    work(whole, CuedSampler(black=BAD))
    cut = make_run(
        "reroll",
        rows=10,
        name="cut",
        shards={"rows": rows_per_shard},
        workers={"batch_size": batch_size},
    )
    assert cut.drive(LocalPool(lambda record, options: CuedSampler(black=BAD))).reason is None
    assert results(cut) == results(whole)
    assert {row for row, _ in results(cut)} == set(range(10)) - {6}


def test_a_rerolled_picture_is_the_same_whoever_else_is_rerolled(make_run: MakeRun):
    lone, crowded = make_run("reroll"), make_run("reroll", name="crowded")
    work(lone, CuedSampler(black=tries(2, 2)))
    work(crowded, CuedSampler(black=tries(0, 1) | tries(1, 4) | tries(2, 2) | tries(3, 3)))
    assert results(lone)[2, 0] == results(crowded)[2, 0]


def test_rerolls_come_after_the_others_of_their_size_and_together(make_run: MakeRun):
    run = make_run("reroll", rows=6, workers={"batch_size": 2})
    sampler = CuedSampler(black=tries(0, 2) | tries(3, 3) | tries(4, 1))
    work(run, sampler)
    assert [request.row for request in sampler.taken] == [0, 1, 2, 3, 4, 5, 0, 3, 4, 0, 3, 3]
    assert sampler.batches == [2]  # one call of the sampler: lanes that become free are refilled


def test_a_suspects_rerolls_are_in_batches_of_their_own(make_run: MakeRun):
    run = make_run("reroll")
    sampler = CuedSampler(black=tries(1, 2) | tries(2, 1))
    work(run, sampler, failures=(died(1, 2),))
    assert [request.row for request in sampler.taken] == [1, 1, 1, 2, 2, 0, 3]
    assert len(sampler.batches) == 3 + 2 + 1


def test_out_of_memory_in_the_middle_of_rerolls_halves_the_batch_and_loses_nothing(
    make_run: MakeRun,
):
    class RerollsDoNotFit(CuedSampler):
        def render(self, requests, batch_size):
            for request in requests:
                if request.seed == reroll_seed(seed_of(3), 1) and batch_size > 2:
                    raise OutOfMemory(batch_size, "does not fit")
                yield from super().render([request], batch_size)

    bad = tries(0, 1) | tries(1, 2) | tries(3, 2) | tries(4, 1)
    run, calm = make_run("reroll", rows=6), make_run("reroll", rows=6, name="calm")
    assert isinstance(work(run, RerollsDoNotFit(black=bad)), ShardClosed)
    work(calm, CuedSampler(black=bad))
    assert results(run) == results(calm)
    shapes = {row: line["batch_shape"] for (row, _), line in done(run).items()}
    assert shapes == {row: "2x64x64" if row in (3, 4, 1) else "4x64x64" for row in range(6)}
    assert verify_run(run.store, run.record).ok


def test_a_reroll_that_does_not_fit_alone_costs_its_row_and_no_other(make_run: MakeRun):
    class RerollDoesNotFit(CuedSampler):
        def render(self, requests, batch_size):
            for request in requests:
                if request.seed == reroll_seed(seed_of(1), 1):
                    raise OutOfMemory(batch_size, "too large")
                yield from super().render([request], batch_size)

    run = make_run("reroll")
    answer = work(run, RerollDoesNotFit(black=tries(1, 1) | tries(2, 2)))
    assert isinstance(answer, ShardClosed)
    (line,) = rejected(run)
    assert (line["row"], line["error"]) == (1, "too large (at reroll 1)")
    assert done(run)[2, 0]["flags"] == ["reroll:2"]


@pytest.mark.parametrize("answers", [4, 5, 6])
def test_a_worker_that_is_asked_to_stop_among_rerolls_gives_its_shard_back(
    make_run: MakeRun, answers: int
):
    """Also with the last answer of a round, when only rerolls are left."""
    run = make_run("reroll")
    bad = tries(1, 2) | tries(3, 2)
    answer = work_until(run, lambda taken: taken == answers, black=bad)
    assert answer == ShardGivenBack(0)
    assert read_receipt(run.store, 0) is None
    left = read_attempts(run.store, 0).current
    assert left is not None
    assert left.in_flight == ()


def test_a_stop_that_comes_with_the_last_reroll_loses_nothing(make_run: MakeRun):
    run = make_run("reroll")
    answer = work_until(run, lambda taken: taken == 6, black=tries(1, 1) | tries(3, 1))
    assert isinstance(answer, ShardClosed)
    assert answer.own
    assert answer.samples_rendered == 4


def test_a_shard_that_was_given_back_among_rerolls_ends_with_the_same_pictures(make_run: MakeRun):
    run, calm = make_run("reroll"), make_run("reroll", name="calm")
    bad = tries(1, 2) | tries(3, 4)
    assert work_until(run, lambda taken: taken == 5, black=bad) == ShardGivenBack(0)
    assert run.drive(LocalPool(lambda record, options: CuedSampler(black=bad))).reason is None
    work(calm, CuedSampler(black=bad))
    assert results(run) == results(calm)
    assert [line["error"] for line in rejected(run)] == [line["error"] for line in rejected(calm)]


def test_a_process_that_ends_among_rerolls_leaves_the_rerolled_rows_as_suspects(make_run: MakeRun):
    class LosesDevice(CuedSampler):
        def render(self, requests, batch_size):
            for request in requests:
                if request.seed == reroll_seed(seed_of(3), 1):
                    raise DeviceLost("CUDA error")
                yield from super().render([request], batch_size)

    run = make_run("reroll", rows=6)
    with pytest.raises(DeviceLost):
        work(run, LosesDevice(black=tries(1, 1) | tries(3, 1)))
    current = read_attempts(run.store, 0).current
    assert current is not None
    assert {1, 3} <= set(current.in_flight) <= {1, 3, 4, 5}  # noted while 4 and 5 were rendered


def test_the_limit_in_force_is_that_of_the_invocation_and_not_of_the_first_submit(
    make_run: MakeRun,
):
    run = make_run("keep")
    free = free_keys(run.record.job, ("limits.on_flagged=reroll",))
    drivers: list[Driver] = []
    drive_run(
        run.store,
        run.record,
        Where(local=True, address=None, model_cache="/nonexistent"),
        free,
        drivers.append,
        lambda progress: None,
    )
    (driver,) = drivers
    assert driver._how.options.on_flagged == "reroll"


def test_a_worker_goes_by_the_limit_it_was_given(make_run: MakeRun):
    run = make_run("keep")
    sampler = CuedSampler(black=tries(1, 1))
    pool = LocalPool(lambda record, options: sampler)
    assert run.drive(pool, on_flagged="reroll").reason is None
    assert done(run)[1, 0]["flags"] == ["reroll:1"]


def test_another_word_is_refused_with_those_that_are_allowed(make_run: MakeRun):
    with pytest.raises(InputError, match="keep, reroll or quarantine"):
        make_run("retry")
