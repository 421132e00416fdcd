"""The stock contestant: a diffusers pipeline, called as a user would."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from render_farm.engine.bench.pictures import Pictures
from render_farm.engine.bench.switches import Switches
from render_farm.engine.bench.timing import Clock, timed
from render_farm.engine.bench.workload import Setting, Size, by_setting, uniform_rows
from render_farm.engine.device import batch_that_fits, device_failure, free_cache
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.schedulers import make_scheduler
from render_farm.errors import InputError, OutOfMemory
from render_farm.job.request import RenderRequest

LARGEST_BATCH = 64
TRIED_STEPS = 10
WARM_UP_STEPS = 2
WORTH_GOING_ON = 0.97
LONG_S = 5.0
LONGEST_S = 60.0
"""A call that takes this long has work enough: larger ones are not tried."""


class Stock:
    """Renders rows by calling the pipeline, with torch's switches as a user finds them."""

    def __init__(self, loaded: LoadedPipeline, switches: Switches) -> None:
        self._pipeline = loaded.pipeline
        self._loaded = loaded
        self._switches = switches
        self._own_scheduler = getattr(loaded.pipeline, "scheduler", None)
        self._guided = "guidance_scale" in inspect.signature(loaded.pipeline.__call__).parameters

    @property
    def device(self) -> torch.device:
        """Where it renders."""
        return self._loaded.device

    def render(self, rows: Sequence[RenderRequest], batch: int, pictures: Pictures) -> None:
        """Render rows grouped by setting, each group in calls of at most `batch`.

        Raises: `OutOfMemory`.
        """
        with self._switches.in_force():
            for call in calls(rows, batch):
                for row, image in zip(call, self._call(call), strict=True):
                    pictures.take(row.row, np.asarray(image))

    def _call(self, rows: Sequence[RenderRequest]) -> list[Any]:
        first = rows[0]
        if self._own_scheduler is not None:
            self._pipeline.scheduler = make_scheduler(first.scheduler, self._own_scheduler)
        options: dict[str, Any] = {"guidance_scale": first.guidance_scale} if self._guided else {}
        try:
            images: list[Any] = self._pipeline(
                prompt=[row.prompt for row in rows],
                width=first.width,
                height=first.height,
                num_inference_steps=first.steps,
                generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
                output_type="pil",
                **options,
            ).images
        except Exception as error:
            failure = device_failure(error, len(rows))
            if failure is None:
                raise
        else:
            return images
        # Only here, where the tensors that the exception's traceback holds are gone. A call that
        # fails while it decodes leaves a VAE that it had turned to float32.
        if hasattr(self._pipeline, "vae"):
            self._pipeline.vae.to(self._loaded.dtype)
        free_cache(self._loaded.device)
        raise failure


def calls(rows: Sequence[RenderRequest], batch: int) -> Iterator[list[RenderRequest]]:
    """Rows as a user of the stock pipeline would give them to it: one setting a call."""
    for group in by_setting(rows):
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def best_batch(
    stock: Stock,
    size: Size,
    setting: Setting,
    most: int,
    clock: Clock = time.perf_counter,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """The power of two up to `most` with the most images a second, by trying.

    Calls take at most ten steps. Ends where memory does, where two doublings gained
    nothing, or where a call takes a minute.

    Raises: `OutOfMemory` when not even one picture fits.
    """
    short = replace(setting, steps=min(setting.steps, TRIED_STEPS))
    rates: dict[int, float] = {}
    batch = 1
    while batch <= most:
        rows = uniform_rows(batch, size, short)
        try:
            rates[batch] = batch / _seconds(stock, rows, clock)
        except OutOfMemory:
            if batch == 1:
                raise
            tell(f"stock, batch {batch}: out of memory")
            break
        tell(f"stock, batch {batch}: {rates[batch]:.3g} images/s at {short.steps} steps")
        if batch / rates[batch] > LONGEST_S or not _goes_on(list(rates.values())):
            break
        batch *= 2
    return max(rates, key=rates.__getitem__)


def warm_stock(stock: Stock, batch: int, size: Size, setting: Setting) -> None:
    """Render one batch of few steps, where no batches are tried.

    Raises: `InputError` when it does not fit.
    """
    rows = uniform_rows(batch, size, replace(setting, steps=min(setting.steps, WARM_UP_STEPS)))
    try:
        stock.render(rows, batch, Pictures())
    except OutOfMemory as error:
        fits = "a batch that the device has memory for"
        raise InputError.of("--stock-batch", batch, fits, "ask for less, or auto") from error


def _seconds(stock: Stock, rows: Sequence[RenderRequest], clock: Clock) -> float:
    """Seconds of one call, the least of two after a first one, but for long ones."""

    def call() -> None:
        with Pictures() as pictures:
            stock.render(rows, len(rows), pictures)

    # the first call of a shape also chooses kernels and takes memory
    took_s = timed(call, stock.device, clock)
    if took_s > LONG_S:
        return took_s
    return min(timed(call, stock.device, clock) for _ in range(2))


def _goes_on(rates: Sequence[float]) -> bool:
    """Whether one of the last two doublings gained something."""
    return len(rates) < 3 or max(rates[-2:]) * WORTH_GOING_ON > max(rates[:-2])


def most_for(device: torch.device, dtype: torch.dtype, size: Size) -> int:
    """The largest batch to try: on a CPU, whose memory ends in a killed process, what must fit."""
    if device.type != "cpu":
        return LARGEST_BATCH
    fits = batch_that_fits(_available_bytes(), dtype.itemsize, size.width, size.height)
    return LARGEST_BATCH if fits == 32 else fits


def _available_bytes() -> int:
    """Memory that Linux can still give; 8 GiB where it does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 8 * 2**30
