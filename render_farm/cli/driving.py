"""Driving a run from the terminal: progress, Ctrl-C, and the summary at the end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from render_farm.cli.console import OK, QUARANTINED, STOPPED, Report, err
from render_farm.errors import StopError, StoreError

if TYPE_CHECKING:
    from render_farm.farm.loop import Driver
    from render_farm.farm.progress import Progress
    from render_farm.farm.session import FreeKeys, Where
    from render_farm.ledger.record import RunRecord
    from render_farm.store.base import Store
    from render_farm.views.status import Status

LINE_EVERY_S = 10.0
WORTH_TELLING_S = 0.5


def model_cache() -> str:
    """Where models fetched from a store are kept on this machine."""
    kept = os.environ.get("RENDER_FARM_MODEL_CACHE")
    return kept or str(Path(tempfile.gettempdir()) / f"render-farm-models-{os.getuid()}")


def drive(store: Store, record: RunRecord, where: Where, free: FreeKeys, report: Report) -> None:
    """Drive a run and report how it stands afterwards."""
    from render_farm.farm.session import drive_run
    from render_farm.views.status import read_status

    with _shown_progress() as on_progress, _interruptible() as on_driver:
        try:
            end = drive_run(store, record, where, free, on_driver, on_progress)
        except StoreError as error:
            fix = "Nothing is lost: see to the store, then resume."
            raise StopError(f"the store failed: {error}", fix) from error
    status = read_status(store, end.samples_rendered)
    status = replace(status, rate=end.rows_per_s, reason=end.reason or status.reason)
    report.data = status.to_json() | {"fix": end.fix}
    report.code = exit_code(status)
    show_status(report, status, end.loads_s)
    if end.reason:
        err.print(f"[bold yellow]stopped[/]: {escape(f'{end.reason}. {end.fix}')}")


def exit_code(status: Status) -> int:
    """How a run that stands like this makes `submit`, `resume` and `retry` end."""
    if status.state != "complete":
        return STOPPED
    return QUARANTINED if status.rows["quarantined"] else OK


def show_status(report: Report, status: Status, loads_s: tuple[float, ...] = ()) -> None:
    """A run in figures, for people, and how long its workers took to load the model."""
    rows, samples, shards = status.rows, status.samples, status.shards
    ends = ", ".join(
        f"{rows[end]} {end}"
        for end in ("done", "filtered", "quarantined", "cancelled", "pending")
        if rows[end] or end == "done"
    )
    lines = [
        ("run", status.run),
        ("state", status.state + (f" ({status.reason})" if status.reason else "")),
        ("rows", f"{ends}, of {rows['planned']}"),
        ("samples", f"{samples['done']} done of {samples['planned']}"),
        ("shards", f"{shards['done']} done, {shards['open']} open, {shards['failed']} failed"),
    ]
    if status.rate:
        eta = f", {_duration(status.eta_s)} to go" if status.eta_s is not None else ""
        lines.append(("rate", f"{status.rate:.2f} rows/s{eta}"))
    if max(loads_s, default=0.0) >= WORTH_TELLING_S:
        told = (
            f"ready in {loads_s[0]:.1f} s at the first worker, {max(loads_s):.1f} s at the slowest"
        )
        lines.append(("model", told))
    for error, count in sorted(status.errors_by_type.items(), key=lambda item: -item[1]):
        lines.append(("quarantined", f"{count} rows: {error}"))
    for shard in status.failed_shards:
        tries = f"{shard.attempts} attempts, last on {shard.worker}"
        lines.append((f"shard {shard.shard}", f"{shard.error_type}: {shard.error} ({tries})"))
    report.table(lines)


@contextmanager
def _interruptible() -> Iterator[Callable[[Driver], None]]:
    """The first SIGINT or SIGTERM stops after the batches in hand, the second at once."""
    drivers: list[Driver] = []
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if asked:
            os._exit(STOPPED)
        asked.append(number)
        err.print("stopping after the batches in hand; once more stops at once")
        for driver in drivers:
            driver.ask_to_stop()

    def on_driver(driver: Driver) -> None:
        # Once more: Ray, which has started meanwhile, takes SIGTERM for a crash.
        install()
        drivers.append(driver)
        if asked:
            driver.ask_to_stop()

    def install() -> dict[int, Any]:
        return {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    before = install()
    try:
        yield on_driver
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar where somebody looks, a line now and then where nobody does."""
    if not err.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("[bold]rows[/]"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rest]}"),
    )
    with Bar(*columns, console=err) as bar:
        task = bar.add_task("rows", total=None, rate="", rest="starting workers …")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.planned_rows,
                completed=progress.decided_rows,
                rate=_rate(progress),
                rest=_rest(progress),
            )

        yield show


class _Lines:
    """Prints a line when there is news and the last line is some seconds old."""

    def __init__(self) -> None:
        self._next = 0.0
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        finished = progress.decided_rows == progress.planned_rows
        if progress == self._last or (now < self._next and not finished):
            return
        self._last, self._next = progress, now + LINE_EVERY_S
        err.print(
            f"rows {progress.decided_rows}/{progress.planned_rows}  "
            f"{_rate(progress)}  {_rest(progress)}".rstrip()
        )
        sys.stderr.flush()


def _rate(progress: Progress) -> str:
    rate = progress.rows_per_s(time.monotonic())
    return f"{rate:.2f} rows/s" if rate else ""


def _rest(progress: Progress) -> str:
    if not progress.workers and progress.decided_rows < progress.planned_rows:
        return "starting workers …"
    parts = [f"{progress.workers} worker{'' if progress.workers == 1 else 's'}"]
    if progress.quarantined_rows:
        parts.append(f"{progress.quarantined_rows} quarantined")
    eta = progress.eta_s(time.monotonic())
    if eta:
        parts.append(f"{_duration(eta)} to go")
    return ", ".join(parts)


def _duration(seconds: float | None) -> str:
    return str(timedelta(seconds=round(seconds or 0)))
