"""A worker that does everything at once: reads ahead, renders, encodes, writes and uploads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

from render_farm.engine.sampler import Refused, Rendered
from render_farm.farm.attempt import Attempt
from render_farm.farm.backlog import Backlog
from render_farm.farm.messages import Answer, Assignment, ShardGivenBack, WorkerOptions
from render_farm.farm.pixels import PixelQueue
from render_farm.farm.worker import SamplerBuilder, ShardWorker

LEAST_ENCODERS = 2
FINISHERS = 2
"""Shards that are written and uploaded at a time: while one waits for the store, one is written."""

Verdict = Rendered | Refused


@dataclass(slots=True, eq=False)
class _Hand:
    """One assignment in hand. Whoever claims it, once, gives its answer."""

    assignment: Assignment
    answer: Future[Answer]
    attempt: Attempt | None = None
    undecided: int = 0
    claimed: bool = False

    @property
    def shard(self) -> int:
        return self.assignment.shard


class OverlappedWorker:
    """Takes several shards through the stages of a `ShardWorker`, each in its own stage.

    One thread reads ahead, in the order of assignment; one feeds the engine with one stream over
    all shards read; some encode; two write, upload and commit. What waits between them is bounded:
    rows and files by the shards in hand, which is the driver's to decide, pixels by `PixelQueue`.
    """

    def __init__(self, worker: ShardWorker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._hands: dict[int, _Hand] = {}
        self._of_attempt: dict[Attempt, _Hand] = {}
        self._engine_ended = False
        self._fatal: BaseException | None = None
        self._backlog = Backlog[Attempt]()
        self._pixels = PixelQueue[tuple[_Hand, Verdict]]()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="note")
        self._finishers = ThreadPoolExecutor(FINISHERS, thread_name_prefix="finish")
        self._engine = threading.Thread(target=self._render, name="engine", daemon=True)
        self._encoders = [
            threading.Thread(target=self._encode, args=(rank,), name=f"encode-{rank}", daemon=True)
            for rank in range(max(LEAST_ENCODERS, worker.options.cpus))
        ]
        for thread in (self._engine, *self._encoders):
            thread.start()

    @classmethod
    def open(cls, options: WorkerOptions, build: SamplerBuilder) -> OverlappedWorker:
        """Open the run and load the model, in a thread that ends.

        A thread that computes keeps a team of torch's threads while it lives. Beside a second team
        the engine's no longer waits by spinning: with two threads that was measured to halve it.

        Raises: as `ShardWorker.open`.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
            worker = loader.submit(ShardWorker.open, options, build).result()
        return cls(worker)

    def submit(self, assignment: Assignment) -> Future[Answer]:
        """Take a shard in hand. The future's error is final: the process must end.

        Raises: `RuntimeError` when this machine has no thread to spare; nothing is in hand then.
        """
        hand = _Hand(assignment, Future())
        with self._lock:
            if self._fatal is not None:
                hand.answer.set_exception(self._fatal)
                return hand.answer
            self._hands[hand.shard] = hand
        try:
            self._reader.submit(self._guarded, self._begin, hand)
        except RuntimeError:
            with self._lock:
                del self._hands[hand.shard]
            raise
        return hand.answer

    def abandon(self, shard: int, *, unless_begun: bool) -> None:
        """Give a shard back, unless it is being written already; see `Pool.abandon`."""
        with self._lock:
            hand = self._hands.get(shard)
        if hand is not None:
            begun = hand.attempt is not None and hand.attempt.begun
            if not (begun and unless_begun):
                self._give_back(hand)

    def stop(self) -> None:
        """End after the batch in hand: shards with anything left to render are given back."""
        self._worker.stop()
        self._backlog.close()

    def close(self) -> None:
        """Stop, and wait until every shard in hand is answered."""
        self.stop()
        self._engine.join()
        with self._lock:
            answers = [hand.answer for hand in self._hands.values()]
        for answer in answers:
            answer.exception()  # waits
        self._reader.shutdown()
        self._pixels.close()
        for thread in self._encoders:
            thread.join()
        self._finishers.shutdown()
        self._notes.shutdown()
        self._worker.close()

    def _begin(self, hand: _Hand) -> None:
        """The reader's part: a shard's rows go to the backlog."""
        begun = self._worker.begin(hand.assignment, self._errand)
        if not isinstance(begun, Attempt):
            if self._claim(hand):
                self._answer(hand, begun)
            return
        with self._lock:
            if not hand.claimed:
                hand.attempt, hand.undecided = begun, len(begun.tickets)
                self._of_attempt[begun] = hand
                if not self._engine_ended:
                    self._backlog.add(begun, begun.tickets)
        if hand.attempt is None:  # abandoned meanwhile
            begun.discard()
        elif begun.complete:
            self._finish(hand)
        elif self._engine_ended:
            self._give_back(hand)

    def _render(self) -> None:
        """The engine's part: one stream, until the worker is stopped."""
        stream = self._worker.stream(self._backlog, self._decided, self._failed)
        self._guarded(partial(stream.run, wait=True))
        with self._lock:
            self._engine_ended = True
            unfinished = [hand for hand in self._hands.values() if hand.undecided]
        for hand in unfinished:
            self._give_back(hand)

    def _decided(self, attempt: Attempt, verdict: Verdict) -> None:
        with self._lock:
            hand = self._of_attempt.get(attempt)
            if hand is None:  # given back or failed meanwhile
                return
            hand.undecided -= 1
        size_bytes = verdict.pixels.nbytes if isinstance(verdict, Rendered) else 0
        self._pixels.put((hand, verdict), size_bytes)

    def _failed(self, attempts: list[Attempt], error: Exception) -> None:
        for attempt in attempts:
            with self._lock:
                hand = self._of_attempt.get(attempt)
            if hand is not None:
                self._fail(hand, error)

    def _encode(self, rank: int) -> None:
        """An encoder's part."""
        while items := self._pixels.get(rank):
            for hand, group in groupby(items, key=itemgetter(0)):
                self._guarded(self._take, hand, [verdict for _, verdict in group])

    def _take(self, hand: _Hand, verdicts: list[Verdict]) -> None:
        attempt = hand.attempt
        if hand.claimed or attempt is None:
            return
        try:
            attempt.take(*verdicts)
        except Exception as error:  # noqa: BLE001 - the shard's seam: becomes a retry
            self._fail(hand, error)
        else:
            if attempt.complete:
                self._finish(hand)

    def _finish(self, hand: _Hand) -> None:
        if self._claim(hand):
            self._finishers.submit(self._guarded, self._commit, hand)

    def _commit(self, hand: _Hand) -> None:
        """A finisher's part."""
        assert hand.attempt is not None
        self._answer(hand, self._worker.finish(hand.attempt))

    def _give_back(self, hand: _Hand) -> None:
        if self._claim(hand):
            attempt = hand.attempt
            back = ShardGivenBack(hand.shard)
            self._answer(hand, back if attempt is None else self._worker.given_back(attempt))

    def _fail(self, hand: _Hand, error: Exception) -> None:
        if self._claim(hand):
            assert hand.attempt is not None
            self._answer(hand, self._worker.failed(hand.attempt, error))

    def _claim(self, hand: _Hand) -> bool:
        """Whether the caller is the one who ends this hand; nothing more is rendered of it."""
        with self._lock:
            if hand.claimed:
                return False
            hand.claimed = True
            if hand.attempt is not None:
                del self._of_attempt[hand.attempt]
                self._backlog.remove(hand.attempt)
            return True

    def _answer(self, hand: _Hand, answer: Answer) -> None:
        if hand.attempt is not None:
            hand.attempt.discard()
        with self._lock:
            self._hands.pop(hand.shard, None)
        self._worker.tallies.answered(answer)
        if not hand.answer.done():
            hand.answer.set_result(answer)

    def _errand(self, work: Callable[[], None]) -> Callable[[], object]:
        return self._notes.submit(work).result

    def _guarded(self, part: Callable[..., None], *args: object) -> None:
        """Nothing that a thread raises is lost: every shard in hand ends with it."""
        try:
            part(*args)
        except Exception as error:  # noqa: BLE001 - goes on in the thread that asked
            with self._lock:
                self._fatal = error
                hands = list(self._hands.values())
                self._hands.clear()
                for hand in hands:
                    hand.claimed = True
            for hand in hands:
                if hand.attempt is not None:
                    hand.attempt.discard()
                if not hand.answer.done():
                    hand.answer.set_exception(error)
