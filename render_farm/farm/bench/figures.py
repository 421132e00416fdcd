"""What a measured run came to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from render_farm.errors import StopError
from render_farm.farm.bench.observed_pool import Commit, Observed
from render_farm.farm.bench.options import FarmOptions


@dataclass(frozen=True, slots=True)
class FarmFigures:
    """The figures of a run.

    `seconds` are those from the first commit to the last, `rows_per_s` what was committed in them.
    `messages_per_shard` are the calls between driver and workers for a shard, and their answers,
    `store_requests` the calls of the stores of the driver and all workers by kind. `duty` is the
    share of the wall time from first to last image in which the engines were busy.
    """

    rows: int
    seconds: float
    rows_per_s: float
    driver_peak_mb: float
    worker_peak_mb: float
    messages_per_shard: float
    store_requests: dict[str, int]
    duty: float

    def as_json(self) -> dict[str, Any]:
        """By name, to as many digits as mean something."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def farm_figures(
    options: FarmOptions,
    observed: Observed,
    driver_requests: Mapping[str, int],
    driver_peak_bytes: int,
) -> FarmFigures:
    """The figures of a run that is complete.

    Raises:
        StopError: a worker committed shards and did not say what it used.
    """
    silent = {commit.worker for commit in observed.commits} - observed.usages.keys()
    if silent or not observed.commits:
        raise StopError(
            f"nothing is known of what {', '.join(sorted(silent)) or 'the workers'} used",
            "Measure with workers of this version.",
        )
    usages = observed.usages.values()
    requests = Counter(driver_requests)
    for usage in usages:
        requests.update(usage.requests)
    seconds, rows = _span(observed.commits)
    return FarmFigures(
        rows=options.rows,
        seconds=seconds,
        rows_per_s=rows / seconds if seconds else 0.0,
        driver_peak_mb=driver_peak_bytes / 1e6,
        worker_peak_mb=max(usage.peak_memory_bytes for usage in usages) / 1e6,
        messages_per_shard=observed.messages / len(observed.commits),
        store_requests=dict(requests),
        duty=_duty(options, observed),
    )


def _span(commits: list[Commit]) -> tuple[float, int]:
    """Seconds from the first commit to the last, and the rows rendered in them.

    The first shard of each worker was begun before, so none of them is counted.
    """
    first = {commit.worker: commit for commit in reversed(commits)}
    rows = sum(commit.rows for commit in commits) - sum(each.rows for each in first.values())
    return commits[-1].at - commits[0].at, rows


def _duty(options: FarmOptions, observed: Observed) -> float:
    usages = observed.usages.values()
    began = [usage.first_image_at for usage in usages if usage.first_image_at is not None]
    ended = [usage.last_image_at for usage in usages if usage.last_image_at is not None]
    wall_s = max(ended) - min(began)
    return _busy_s(options, observed) / (wall_s * options.workers) if wall_s else 0.0


def _busy_s(options: FarmOptions, observed: Observed) -> float:
    """Seconds for which the engines were busy, as far as it was of use.

    Of a stand-in the nominal time of the lanes that became pictures of the result: what it slept
    too long, lanes left empty and pictures of lost attempts count against us, and so does the
    first batch of each worker, which was computed before its first image.
    """
    if options.sleep_ms is None:
        return sum(usage.engine_s for usage in observed.usages.values())
    samples = Counter[str]()
    for commit in observed.commits:
        samples[commit.worker] += commit.samples
    counted = sum(max(0, count - options.batch) for count in samples.values())
    return counted * options.steps * options.sleep_ms / 1000 / options.batch
