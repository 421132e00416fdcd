"""A measured run in a process of its own, and the place that it needs meanwhile."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from render_farm.errors import RenderFarmError, StopError
from render_farm.farm.bench.figures import FarmFigures
from render_farm.farm.bench.options import FarmOptions
from render_farm.farm.bench.workload import write_prompts
from render_farm.farm.progress import Progress

TELL_EVERY_S = 1.0


def measure_apart(options: FarmOptions, on_progress: Callable[[Progress], None]) -> FarmFigures:
    """Measure a run whose driver is a new process.

    The run lies in a temporary folder that is removed, or below a fresh prefix of `options.store`,
    where it stays.

    Raises: as `measure`, and `InputError` where there is too little to be measured.
    """
    options = options.resolved()
    with tempfile.TemporaryDirectory(prefix="render-farm-bench-") as folder:
        prompts = Path(folder) / "prompts.parquet"
        write_prompts(prompts, options.rows)
        kept = options.store and f"{options.store.rstrip('/')}/bench-{secrets.token_hex(4)}"
        return _in_new_process(options, str(prompts), kept or f"{folder}/run", on_progress)


def _in_new_process(
    options: FarmOptions, prompts: str, output: str, on_progress: Callable[[Progress], None]
) -> FarmFigures:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measured, args=(theirs, options, prompts, output))
    process.start()
    theirs.close()
    try:
        while isinstance(told := ours.recv(), Progress):
            on_progress(told)
    except EOFError:
        process.join()
        reason = f"the measured driver ended with status {process.exitcode}"
        raise StopError(reason, "Standard error says why.") from None
    finally:
        process.join()
    if isinstance(told, RenderFarmError):
        raise told
    assert isinstance(told, FarmFigures)
    return told


def _measured(parent: Connection, options: FarmOptions, prompts: str, output: str) -> None:
    """The new process's part. Says how far it is, and at last the figures or what went wrong."""
    from render_farm.farm.bench.measuring import measure  # noqa: PLC0415 - Ray

    told_s = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_EVERY_S:
            told_s = time.monotonic()
            parent.send(progress)

    try:
        parent.send(measure(options, prompts, output, tell))
    except RenderFarmError as error:
        parent.send(error)
