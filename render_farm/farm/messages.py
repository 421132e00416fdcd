"""What the driver and its workers tell each other: two messages a shard, none with pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from render_farm.job.spec import OnFlagged
from render_farm.ledger.attempts import AttemptLog, Failure
from render_farm.ledger.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Tally:
    """How the rows decided so far ended; what the limit on quarantined rows is held against."""

    decided: int = 0
    quarantined: int = 0
    errors_by_type: dict[str, int] = field(default_factory=dict)

    def plus(self, receipt: Receipt) -> Tally:
        """The tally with one more shard."""
        errors = Counter(self.errors_by_type) + Counter(receipt.errors_by_type)
        return Tally(
            self.decided + receipt.counts.decided - receipt.counts.cancelled,
            self.quarantined + receipt.counts.quarantined,
            dict(errors),
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at a shard. `log` holds what earlier attempts left, suspects among it.

    `tally` is of the rows that the driver knew as decided, `heard` how many answers of this worker
    are among them: what it has closed since is not.
    """

    shard: int
    log: AttemptLog
    tally: Tally
    heard: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker has used since it started.

    `engine_s` are the seconds in which its engine had a batch in hand, `first_image_at` and
    `last_image_at` seconds since the epoch, `requests` the calls of its store by kind.
    """

    peak_memory_bytes: int
    engine_s: float
    first_image_at: float | None
    last_image_at: float | None
    requests: dict[str, int]


@dataclass(frozen=True, slots=True)
class ShardClosed:
    """The shard has this receipt; `own` if the worker's attempt wrote it.

    `samples_rendered` counts what the attempt rendered, committed or not. `usage` is the worker's
    so far, over all of its shards.
    """

    receipt: Receipt
    own: bool
    samples_rendered: int = 0
    usage: Usage | None = None

    @property
    def shard(self) -> int:
        return self.receipt.shard


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """The attempt ended in an error that is not a row's; another worker may do better."""

    shard: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class ShardGivenBack:
    """The worker was asked to stop, or to abandon the shard, and has committed nothing of it."""

    shard: int


@dataclass(frozen=True, slots=True)
class RunHalted:
    """Going on makes no sense: a systematic error, a changed input, a store that is gone."""

    shard: int
    reason: str
    fix: str


Answer = ShardClosed | ShardFailed | ShardGivenBack | RunHalted
"""What a worker answers to an assignment."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker needs to start, wherever its process is.

    `cpus` are the CPU threads it may compute with, `model_cache` is the folder on its node that
    keeps models fetched from a store, `open_shards` how many shards it has in hand at a time.
    """

    run_uri: str
    token: str
    worker: str
    cpus: int
    max_quarantined: float
    on_flagged: OnFlagged
    model_cache: str
    open_shards: int = 1
