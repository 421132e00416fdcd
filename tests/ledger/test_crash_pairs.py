"""A small run, disturbed twice: every pair of calls to its store, every pair of faults.

The first fault strikes one call of a submit. The second strikes any later call of that same
process, if it went on, or any call of the resume that follows. Then the run is resumed once more,
on a store that is well, and its bytes are read.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

import pytest

from render_farm.errors import RenderFarmError
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import prepare
from render_farm.ledger import keys
from render_farm.ledger.record import RunRecord
from render_farm.ledger.sweep import sweep_run
from render_farm.store.memory import MemoryBucket, MemoryStore
from tests.ledger.whole import Line, assert_only_named_objects, assert_whole, read_lines
from tests.making.jobs import make_job, write_prompts
from tests.making.stores import (
    Call,
    Fault,
    FaultyStore,
    Killed,
    fails,
    killed_after,
    loses_answer,
    submit_on,
)

FAULTS: list[Fault] = [fails, loses_answer, killed_after]
FEWEST_CALLS = 34
PROCESSES = 3
CHUNK = 32
"""Runs wait, as they should, before they ask a failing store again: others go on meanwhile."""

Objects = dict[str, tuple[bytes, datetime]]

_ATTEMPT = re.compile(r"(?<=/\d{6}-)[0-9a-z]+")
_RANDOM = re.compile(
    r"(?<=/\d{6}-)[0-9a-z]+|[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{12}"
    r"|\d{4}-\d\d-\d\dT[0-9:.]+Z?|(?<=size_bytes\": )\d+"
)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """Two shards; the first one has a picture and a quarantined row, the second a picture."""
    folder: Path = tmp_path_factory.mktemp("smallest")
    prompts = write_prompts(folder / "prompts.parquet", rows=3, guidance_scale=[7.5, -1.0, 7.5])
    job = make_job(
        prompts,
        "memory://smallest/run",
        shards={"rows": 2},
        defaults={"width": 8, "height": 8},
        limits={"max_quarantined": 1.0},
        workers={"count": 1, "batch_size": 2},
    )
    return new_run_record(prepare(job, "/nonexistent"))


@dataclass(frozen=True)
class Point:
    """A call known by what it does, and by how many like it came before.

    Not by its number: receipts are read by several threads, in no order.
    """

    method: str
    key: str
    earlier: int


def points_of(calls: list[Call]) -> list[Point]:
    """The calls of a process, whatever random names its attempts have."""
    seen: Counter[tuple[str, str]] = Counter()
    points = []
    for call in calls:
        what = (call.method, _ATTEMPT.sub("*", call.key))
        points.append(Point(*what, seen[what]))
        seen[what] += 1
    return points


@dataclass
class Faults:
    """A script: the faults at their points. `left` are those that have not struck yet."""

    left: dict[Point, Fault]

    def __post_init__(self) -> None:
        self._seen: Counter[tuple[str, str]] = Counter()

    def __call__(self, call: Call) -> Fault | None:
        what = (call.method, _ATTEMPT.sub("*", call.key))
        point = Point(*what, self._seen[what])
        self._seen[what] += 1
        return self.left.pop(point, None)


def live(bucket: MemoryBucket, wanted: RunRecord, faults: Faults) -> list[Point]:
    """One process, from its start to its end, whichever that is; returns the calls it made."""
    store = FaultyStore(MemoryStore(bucket=bucket), faults)
    with suppress(Killed, RenderFarmError):
        submit_on(store, wanted)
    return points_of(store.calls)


def copy_of(bucket: MemoryBucket) -> MemoryBucket:
    return MemoryBucket(dict(bucket.objects))


Remains = tuple[tuple[str, str], ...]


def remains(bucket: MemoryBucket) -> Remains:
    """What is left of a run, but for random names and times: all that a resume can go by.

    An attempt is known by the objects that it wrote. What they hold does not matter to a resume,
    which never touches another attempt's; `read_lines` reads those of the attempts that won.
    """
    wrote: dict[str, list[str]] = {}
    for key in sorted(bucket.objects):
        if match := _ATTEMPT.search(key):
            wrote.setdefault(match[0], []).append(key.replace(match[0], ""))

    def plain(text: str) -> str:
        return _RANDOM.sub(lambda found: str(wrote.get(found[0], "")), text)

    texts = {key: data for key, (data, _) in bucket.objects.items()}
    return tuple(
        sorted(
            (plain(key), plain(data.decode()) if key.endswith(".json") else "")
            for key, data in texts.items()
        )
    )


@dataclass(frozen=True)
class Pair:
    """Two faults: the second in the same process, or else in the resume of what is in `left`."""

    first: tuple[Point, Fault]
    second: tuple[Point, Fault]
    left: Objects | None

    def disturb(self, wanted: RunRecord) -> MemoryBucket:
        """What the store has after both faults."""
        if self.left is None:
            bucket, faults = MemoryBucket(), Faults(dict([self.first, self.second]))
        else:
            bucket, faults = MemoryBucket(dict(self.left)), Faults(dict([self.second]))
        live(bucket, wanted, faults)
        # A process that reads receipts ahead and ends may or may not have asked for the next one.
        assert all(keys.RECEIPTS in point.key for point in faults.left), faults.left
        return bucket


class Pairs:
    """All pairs of faults. A process leaves nothing behind but what is in the store, so first
    faults that leave the same there are one: what follows them is made once, and counted for each.
    """

    def __init__(self, wanted: RunRecord, undisturbed: list[Point]) -> None:
        self._wanted = wanted
        self._firsts = [(point, fault) for point in undisturbed for fault in FAULTS]
        self._resumes: dict[Remains, int] = {}
        self.in_one_process = 0
        self.in_the_resume = 0

    def __iter__(self) -> Iterator[Pair]:
        for first in self._firsts:
            bucket = MemoryBucket()
            lived = live(bucket, self._wanted, Faults(dict([first])))
            for later in lived[lived.index(first[0]) + 1 :]:
                yield from (Pair(first, (later, fault), None) for fault in FAULTS)
                self.in_one_process += len(FAULTS)
            left = remains(bucket)
            if left not in self._resumes:
                resume = live(copy_of(bucket), self._wanted, Faults({}))
                self._resumes[left] = len(resume) * len(FAULTS)
                for later in resume:
                    yield from (Pair(first, (later, fault), bucket.objects) for fault in FAULTS)
            self.in_the_resume += self._resumes[left]


class Judge:
    """Resumes and checks what is left of runs, once for each kind of remains in a process."""

    def __init__(self, wanted: RunRecord, expected: list[Line]) -> None:
        self._wanted = wanted
        self._expected = expected
        self._passed: set[Remains] = set()

    def judge(self, bucket: MemoryBucket) -> str:
        """What is committed is right; the run is resumed and whole; only what lost is swept.

        Returns what was left, in short: the same for the same remains in every process.
        """
        store = MemoryStore(bucket=bucket)
        assert set(read_lines(store)) <= set(self._expected)
        left = remains(bucket)
        if left not in self._passed:
            submit_on(store, self._wanted)
            assert_whole(store, self._expected)
            sweep_run(store, self._wanted.plan.shards)
            assert_only_named_objects(store)
            assert_whole(store, self._expected)
            self._passed.add(left)
        return hashlib.sha256(repr(left).encode()).hexdigest()

    def try_out(self, pair: Pair) -> str:
        """Make a pair of faults and judge what it left."""
        try:
            return self.judge(pair.disturb(self._wanted))
        except Exception as error:
            error.add_note(f"after {pair.first}, then {pair.second}, resumed: {bool(pair.left)}")
            raise


_judges: list[Judge] = []
"""The one of this process, where pairs are made."""


def _appoint(wanted: RunRecord, expected: list[Line]) -> None:
    logging.getLogger("render_farm").setLevel(logging.CRITICAL)  # thousands of faults are logged
    _judges.append(Judge(wanted, expected))


def _try_out(pair: Pair) -> str:
    (judge,) = _judges
    return judge.try_out(pair)


@pytest.mark.timeout(1800)
def test_two_faults_at_any_two_calls_lose_nothing_and_double_nothing(
    wanted: RunRecord,
    figure: Callable[[str, object], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "render_farm")
    started = time.monotonic()
    bucket = MemoryBucket()
    undisturbed = live(bucket, wanted, Faults({}))
    assert len(undisturbed) >= FEWEST_CALLS
    expected = read_lines(MemoryStore(bucket=bucket))
    assert [line[:2] for line in expected] == [(0, 0), (1, -1), (2, 0)]
    Judge(wanted, expected).judge(bucket)
    pairs = Pairs(wanted, undisturbed)
    with ProcessPoolExecutor(
        PROCESSES, get_context("spawn"), initializer=_appoint, initargs=(wanted, expected)
    ) as pool:
        left = list(pool.map(_try_out, pairs, chunksize=CHUNK))
    figure("crash points: calls of the small run", len(undisturbed))
    figure("crash points: pairs of faults in one process", pairs.in_one_process)
    figure("crash points: pairs of a fault and one in the resume", pairs.in_the_resume)
    figure("crash points: different pairs, each made", len(left))
    figure("crash points: different remains of them, each resumed", len(set(left)))
    figure("crash points: seconds for all pairs", round(time.monotonic() - started))
    assert pairs.in_one_process > len(undisturbed) * len(FAULTS)
    assert pairs.in_the_resume > (len(undisturbed) * len(FAULTS)) ** 2 / 4
