"""`bench farm`: what the farm costs around the model."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from render_farm.cli import arguments as args
from render_farm.cli.console import err, out, reporting, set_up_logging
from render_farm.errors import InputError

if TYPE_CHECKING:
    from render_farm.farm.bench.figures import FarmFigures
    from render_farm.farm.bench.options import FarmOptions
    from render_farm.farm.progress import Progress

Image = Literal["png", "jpeg"]
Container = Literal["parquet", "webdataset", "files"]

LINE_EVERY_S = 10.0
MOST_SIDE_PX = 4096


def farm(
    rows: Annotated[int, typer.Option(min=1, max=100_000_000, help="Rows of the run.")],
    sleep_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=60_000,
            help="A stand-in accelerator that takes so long a step; default: as fast as it goes.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps of a row.")] = 20,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Batch size.")] = 16,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Size in pixels; default: 64x64, with --sleep-ms 512x512."
        ),
    ] = None,
    image: Annotated[
        Image | None,
        typer.Option(help="Default: png, with --sleep-ms jpeg (quality 95).", show_default=False),
    ] = None,
    container: Annotated[Container, typer.Option(help="Container of the result.")] = "parquet",
    workers: Annotated[int, typer.Option(min=1, max=1000, help="Worker processes.")] = 2,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Rows of a shard; default: at most 1000, with --sleep-ms four batches.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Keep the run here, below a fresh prefix; default: a folder that is removed.",
            show_default=False,
        ),
    ] = None,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Time a run of pictures for free through the real path: Ray, workers, store, receipts."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.bench.apart import measure_apart
        from render_farm.farm.bench.options import FarmOptions

        if store is not None:
            _check_store(store)
        width, height = _side(size or ("64x64" if sleep_ms is None else "512x512"))
        options = FarmOptions(
            rows=rows,
            sleep_ms=sleep_ms,
            steps=steps,
            batch=batch,
            width=width,
            height=height,
            image=image or ("png" if sleep_ms is None else "jpeg"),
            container=container,
            workers=workers,
            shard_rows=shard_rows,
            store=store,
        ).resolved()
        figures = measure_apart(options, _Lines())
        report.data = figures.as_json()
        if not as_json:
            out.print(_table(options, figures))


def _side(size: str) -> tuple[int, int]:
    """Width and height, px. Raises: `InputError`."""
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", size)
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if any(side % 8 or not 8 <= side <= MOST_SIDE_PX for side in sides):
        allowed = f"WIDTHxHEIGHT in pixels, multiples of 8 from 8 to {MOST_SIDE_PX}"
        raise InputError.of("--size", size, allowed, "write it like 512x512")
    return sides


def _check_store(uri: str) -> None:
    """Raises: `InputError` if there is no such place, or none that other processes see."""
    from render_farm.store.open import open_store

    if uri.lower().startswith("memory:"):
        allowed = "an s3:// prefix or a local folder"
        raise InputError.of("--store", uri, allowed, "workers are processes of their own")
    try:
        open_store(uri)
    except InputError as error:
        problems = (replace(problem, field="--store") for problem in error.problems)
        raise InputError(tuple(problems)) from error


class _Lines:
    """Says now and then how far the run is."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + LINE_EVERY_S

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LINE_EVERY_S
            err.print(f"rows {progress.decided_rows}/{progress.planned_rows}")


def _table(options: FarmOptions, figures: FarmFigures) -> Table:
    """The figures, for people."""
    what = "rehearsal" if options.sleep_ms is None else f"{options.sleep_ms:g} ms a step"
    table = Table(
        "",
        "",
        show_header=False,
        title=f"{options.rows:,} rows of {options.width}x{options.height} {options.image}, "
        f"{what}, {options.container}, workers: {options.workers}",
    )
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in figures.store_requests.items() if count
    )
    for label, value in (
        ("rows/s, first to last commit", f"{figures.rows_per_s:,.1f}"),
        ("seconds, first to last commit", f"{figures.seconds:,.1f}"),
        ("duty, first to last image", f"{figures.duty:.3f}"),
        ("driver's peak memory", f"{figures.driver_peak_mb:,.0f} MB"),
        ("worker's peak memory", f"{figures.worker_peak_mb:,.0f} MB"),
        ("messages a shard", f"{figures.messages_per_shard:.2f}"),
        (f"requests to the store, shards of {options.shard_rows}", kinds),
    ):
        table.add_row(label, value)
    return table
