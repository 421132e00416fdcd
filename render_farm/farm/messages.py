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
    """One attempt at a shard. `log` holds what earlier attempts left, suspects among it."""

    shard: int
    log: AttemptLog
    tally: Tally


@dataclass(frozen=True, slots=True)
class ShardClosed:
    """The shard has this receipt; `own` if the worker's attempt wrote it.

    `samples_rendered` counts what the attempt rendered, committed or not.
    """

    receipt: Receipt
    own: bool
    samples_rendered: int = 0


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """The attempt ended in an error that is not a row's; another worker may do better."""

    shard: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class ShardGivenBack:
    """The worker was asked to stop; nothing of the shard was committed."""

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
    keeps models fetched from a store.
    """

    run_uri: str
    token: str
    worker: str
    cpus: int
    max_quarantined: float
    on_flagged: OnFlagged
    model_cache: str
