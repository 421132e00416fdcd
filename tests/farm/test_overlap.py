"""A worker with several shards in hand, each in its own stage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.engine.sampler import Refused, Rendered, Sampler
from render_farm.errors import DeviceLost
from render_farm.farm.attempt import Attempt
from render_farm.farm.backlog import Backlog
from render_farm.farm.in_flight import at_once
from render_farm.farm.messages import (
    Answer,
    Assignment,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    Tally,
)
from render_farm.farm.overlap import OverlappedWorker
from render_farm.farm.pixels import (
    MOST_AT_A_TIME,
    MOST_BYTES,
    MOST_ITEMS,
    TURN_BYTES,
    PixelQueue,
)
from render_farm.farm.worker import ShardWorker
from render_farm.job.request import Kind, RenderRequest
from render_farm.ledger.attempts import AttemptLog, read_attempts
from render_farm.ledger.receipt import read_receipt
from render_farm.ledger.shapes import Shapes
from render_farm.store.base import Store
from render_farm.views.results import shard_metadata
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.samplers import CuedSampler

PATIENCE_S = 60.0


class Gated(CuedSampler):
    """Renders the rows below `gate` and waits before it takes another, until it is opened."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate = 1_000_000
        self.moved = threading.Condition()

    def open(self, gate: int = 1_000_000) -> None:
        with self.moved:
            self.gate = gate
            self.moved.notify_all()

    def wait_taken(self, rows: int) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: len(self.taken) >= rows, PATIENCE_S)

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        return super().render(self._through_the_gate(requests), batch_size)

    def _through_the_gate(self, requests: Iterable[RenderRequest]) -> Iterator[RenderRequest]:
        for request in requests:
            with self.moved:
                assert self.moved.wait_for(lambda row=request.row: row < self.gate, PATIENCE_S)
            yield request
            with self.moved:
                self.moved.notify_all()


class HeldUploads:
    """A store whose uploads wait until `release` is set."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.release = threading.Event()

    def upload(self, key: str, path: Path) -> None:
        assert self.release.wait(PATIENCE_S)
        self._store.upload(key, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Desk:
    """A run of shards of `shard_rows` rows and one overlapped worker on it."""

    def __init__(self, run: Run, sampler: Sampler, store: Store | None = None) -> None:
        self.run = run
        self.worker = OverlappedWorker(
            ShardWorker(run.options(), store or run.store, run.record, sampler)
        )

    def submit(self, *shards: int, heard: int = 0) -> list[Future[Answer]]:
        return [
            self.worker.submit(Assignment(shard, AttemptLog(shard=shard), Tally(), heard))
            for shard in shards
        ]


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    with ExitStack() as stack:
        numbers = iter(range(1000))

        def make(
            sampler: Sampler | None = None,
            rows: int = 12,
            prompts: dict[int, str] | None = None,
            **sections: Any,
        ) -> Desk:
            number = next(numbers)
            texts = [(prompts or {}).get(row, f"picture {row}") for row in range(rows)]
            path = write_prompts(tmp_path / f"{number}.parquet", rows, prompt=texts)
            sections = {"shards": {"rows": 4}} | sections
            run = submit(make_job(path, f"memory://{tmp_path.name}/{number}", **sections))
            desk = Desk(run, sampler or CuedSampler())
            stack.callback(desk.worker.close)
            return desk

        yield make


def ends(futures: list[Future[Answer]]) -> list[type]:
    return [type(future.result(PATIENCE_S)) for future in futures]


def test_all_shards_in_hand_are_closed(make_desk):
    desk = make_desk()
    assert ends(desk.submit(0, 1, 2)) == [ShardClosed] * 3
    assert all(read_receipt(desk.run.store, shard) for shard in range(3))


def test_the_thread_that_loads_the_model_ends_before_the_first_shard(make_desk):
    run, loaders = make_desk().run, []

    def build(*_: object) -> Sampler:
        loaders.append(threading.current_thread())
        return CuedSampler()

    worker = OverlappedWorker.open(run.options(), build)
    worker.close()
    # alive it would keep a team of torch's threads, beside which the engine's is half as fast
    (loader,) = loaders
    assert loader is not threading.current_thread()
    assert not loader.is_alive()


def test_a_shard_for_which_there_is_no_thread_is_not_in_hand(make_desk, monkeypatch):
    desk = make_desk()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as few:
        few.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            desk.submit(0)
    closing = threading.Thread(target=desk.worker.close, daemon=True)
    closing.start()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()  # it waits for what is in hand


def render_together(run: Run, sampler: Sampler, shards: int) -> None:
    """Render shards as one stream, in this thread."""
    worker = ShardWorker(run.options(), run.store, run.record, sampler)
    backlog = Backlog[Attempt]()
    with ExitStack() as stack:
        stack.callback(worker.close)
        attempts = [
            worker.begin(Assignment(shard, AttemptLog(shard=shard), Tally()), at_once)
            for shard in range(shards)
        ]
        for attempt in attempts:
            assert isinstance(attempt, Attempt)
            stack.callback(attempt.discard)
            backlog.add(attempt, attempt.tickets)
        worker.stream(backlog, Attempt.take, unexpected).run(wait=False)
        assert all(attempt.complete for attempt in attempts)


def unexpected(attempts: list[Attempt], error: Exception) -> None:
    raise error


def test_the_engine_is_fed_across_the_borders_of_shards(make_desk):
    sampler = CuedSampler()
    render_together(make_desk(sampler).run, sampler, 3)
    assert sampler.batches == [4]  # one call of the sampler for all of them
    assert [request.row for request in sampler.taken] == list(range(12))


def test_a_batch_that_does_not_fit_is_halved_for_all_shards_in_hand(make_desk):
    sampler = CuedSampler(fits=3)
    render_together(make_desk(sampler).run, sampler, 3)
    assert sampler.batches == [2]
    assert [request.row for request in sampler.taken] == list(range(12))


def test_a_smaller_batch_that_another_worker_settled_is_adopted_with_the_next_shard(make_desk):
    sampler = CuedSampler()
    desk = make_desk(sampler)
    Shapes(desk.run.store, sampler.info.device).adopt(Kind("", 64, 64), lambda: 8)

    class Lowering(CuedSampler):
        """Settles on half a batch, as another worker may, while the second shard is read."""

        def check(self, request: RenderRequest) -> None:
            if request.row == 4:
                Shapes(desk.run.store, self.info.device).lower(Kind("", 64, 64), 8)
            super().check(request)

    lowering = Lowering()
    render_together(desk.run, lowering, 3)
    assert lowering.batches == [8, 4]
    assert [request.row for request in lowering.taken] == list(range(12))


def test_shards_are_rendered_while_another_one_is_uploaded(make_desk, tmp_path: Path):
    sampler = Gated()
    path = write_prompts(tmp_path / "held.parquet", 12)
    run = submit(make_job(path, f"memory://{tmp_path.name}/held", shards={"rows": 4}))
    store = HeldUploads(run.store)
    desk = Desk(run, sampler, store)
    answers = desk.submit(0, 1, 2)
    sampler.wait_taken(12)  # everything is rendered, and nothing is uploaded
    assert not any(answer.done() for answer in answers)
    store.release.set()
    assert ends(answers) == [ShardClosed] * 3
    desk.worker.close()
    assert all(read_receipt(run.store, shard) for shard in range(3))


def test_a_shard_that_was_not_begun_can_be_taken_back_and_one_that_was_goes_on(make_desk):
    sampler = Gated()
    sampler.open(2)
    desk = make_desk(sampler)
    first, second = desk.submit(0, 1)
    sampler.wait_taken(2)
    desk.worker.abandon(0, unless_begun=True)
    desk.worker.abandon(1, unless_begun=True)
    assert isinstance(second.result(PATIENCE_S), ShardGivenBack)
    sampler.open()
    assert isinstance(first.result(PATIENCE_S), ShardClosed)
    assert read_receipt(desk.run.store, 1) is None


def test_a_shard_that_another_worker_has_closed_is_given_up_in_the_middle(make_desk):
    sampler = Gated()
    sampler.open(2)
    desk = make_desk(sampler)
    first, second = desk.submit(0, 1)
    sampler.wait_taken(2)
    desk.worker.abandon(0, unless_begun=False)
    assert isinstance(first.result(PATIENCE_S), ShardGivenBack)
    sampler.open()
    assert isinstance(second.result(PATIENCE_S), ShardClosed)
    assert read_receipt(desk.run.store, 0) is None
    current = read_attempts(desk.run.store, 0).current
    assert current is not None
    assert current.in_flight == ()  # nobody is to blame for what happens later


def test_a_stopped_worker_gives_back_what_is_not_rendered_and_commits_what_is(make_desk):
    sampler = Gated()
    sampler.open(6)
    desk = make_desk(sampler)
    answers = desk.submit(0, 1, 2)
    sampler.wait_taken(6)
    desk.worker.stop()
    sampler.open()
    assert ends(answers) == [ShardClosed, ShardGivenBack, ShardGivenBack]
    assert ends(desk.submit(2)) == [ShardGivenBack]


def test_an_engine_that_fails_fails_the_shards_that_it_was_rendering(make_desk):
    sampler = Gated()
    sampler.open(0)
    desk = make_desk(sampler, prompts={1: "crash"})
    first, second = desk.submit(0, 1)
    sampler.open()
    assert isinstance(first.result(PATIENCE_S), ShardFailed)
    assert isinstance(second.result(PATIENCE_S), ShardClosed)


def test_a_lost_device_ends_every_shard_in_hand_and_all_that_come(make_desk):
    desk = make_desk(prompts={5: "lose-device"})
    answers = desk.submit(1, 2)
    errors = [answer.exception(PATIENCE_S) for answer in (*answers, *desk.submit(0))]
    assert [type(error) for error in errors] == [DeviceLost] * 3


def test_a_picture_that_cannot_be_encoded_fails_its_shard_only(make_desk):
    class Misshapen(CuedSampler):
        def render(
            self, requests: Iterable[RenderRequest], batch_size: int
        ) -> Iterator[Rendered | Refused]:
            for outcome in super().render(requests, batch_size):
                assert isinstance(outcome, Rendered)
                flat = outcome.pixels[0] if outcome.request.row == 5 else outcome.pixels
                yield replace(outcome, pixels=flat)

    assert ends(make_desk(Misshapen()).submit(0, 1, 2)) == [ShardClosed, ShardFailed, ShardClosed]


def test_a_worker_does_not_go_on_past_a_limit_while_its_driver_has_heard_nothing(make_desk):
    rows = 400
    desk = make_desk(
        rows=rows,
        prompts=dict.fromkeys(range(0, rows, 5), "refuse"),
        shards={"rows": 50},
        limits={"max_quarantined": 0.1},
    )
    answers = [answer.result(PATIENCE_S) for answer in desk.submit(*range(8))]
    assert any(isinstance(answer, RunHalted) for answer in answers)
    # A fifth of the rows is refused. The limit holds from 200 rows on, and two are written at once.
    assert sum(isinstance(answer, ShardClosed) for answer in answers) <= 5


def test_usage_adds_up_over_the_shards_of_a_worker(make_desk):
    desk = make_desk()
    last = [answer.result(PATIENCE_S) for answer in desk.submit(0, 1, 2)][-1]
    assert last.usage.requests["create"] >= 3
    assert last.usage.engine_s > 0
    assert last.usage.first_image_at <= last.usage.last_image_at
    assert last.usage.peak_memory_bytes > 1 << 20


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.dictionaries(st.integers(0, 23), st.sampled_from(["refuse", "crash"]), max_size=4),
    abandoned=st.lists(st.integers(0, 5), max_size=2),
)
def test_whatever_happens_every_shard_is_answered_and_no_sample_differs(
    make_desk, words: dict[int, str], abandoned: list[int]
):
    desk = make_desk(rows=24, prompts=words, limits={"max_quarantined": 1.0})
    answers = desk.submit(*range(6))
    for shard in abandoned:
        desk.worker.abandon(shard, unless_begun=False)
    given = [answer.result(PATIENCE_S) for answer in answers]
    alone = make_desk(rows=24, prompts=words, limits={"max_quarantined": 1.0})
    for shard, answer in enumerate(given):
        if isinstance(answer, ShardClosed):
            (again,) = alone.submit(shard)
            again.result(PATIENCE_S)
            assert samples(desk.run, shard) == samples(alone.run, shard)
        else:
            assert read_receipt(desk.run.store, shard) is None


def samples(run: Run, shard: int) -> list[tuple[object, ...]]:
    receipt = read_receipt(run.store, shard)
    assert receipt is not None
    if not receipt.counts.done:
        return []
    table = shard_metadata(run.store, receipt)
    return list(
        zip(*(table.column(name).to_pylist() for name in ("row", "sha256", "seed")), strict=True)
    )


def waits(thread: threading.Thread) -> bool:
    thread.join(0.05)
    return thread.is_alive()


def test_pixels_that_wait_are_bounded_and_one_picture_always_fits():
    pixels = PixelQueue[str](most_bytes=10)
    pixels.put("huge", 100)
    late = threading.Thread(target=pixels.put, args=("more", 1))
    late.start()
    assert waits(late)
    assert pixels.get() == ["huge"]
    assert waits(late)  # the pixels are there until they are encoded
    assert pixels.get() == ["more"]
    late.join(PATIENCE_S)
    pixels.close()
    assert pixels.get() == []


def test_small_pictures_are_drawn_and_encoded_by_turns():
    pixels = PixelQueue[int]()
    for number in range(MOST_ITEMS):
        pixels.put(number, 1)
    late = threading.Thread(target=pixels.put, args=(MOST_ITEMS, 1))
    late.start()
    encoded: list[int] = []
    while len(encoded) < MOST_ITEMS:
        assert waits(late)
        encoded += pixels.get()
    assert waits(late)  # the last of them are in hand still
    assert pixels.get() == [MOST_ITEMS]
    late.join(PATIENCE_S)
    assert encoded == list(range(MOST_ITEMS))


def test_the_engine_goes_on_beside_the_encoding_of_large_pictures():
    pixels = PixelQueue[int]()
    for number in range(MOST_BYTES // TURN_BYTES):
        pixels.put(number, TURN_BYTES)
    late = threading.Thread(target=pixels.put, args=(-1, TURN_BYTES))
    late.start()
    assert waits(late)
    taken = 0
    while late.is_alive():
        assert pixels.get() == [taken]  # one by one: other threads are to have some, too
        taken += 1
        late.join(0.01)
    assert 1 < taken < 40
    assert pixels.get(rank=1) == [taken]
    pixels.close()


def test_a_second_thread_is_woken_by_more_than_one_has_to_do():
    pixels = PixelQueue[int]()
    found: list[list[int]] = []
    second = threading.Thread(target=lambda: found.append(pixels.get(rank=1)))
    second.start()
    for number in range(MOST_ITEMS - 1):
        pixels.put(number, 1)
    assert waits(second)
    pixels.put(-1, TURN_BYTES)
    second.join(PATIENCE_S)
    assert len(found[0]) == MOST_AT_A_TIME
