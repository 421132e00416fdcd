"""Both sides of the contest on one model, what each is given and what each leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from render_farm.engine.bench.options import BenchOptions
from render_farm.engine.bench.ours import Ours
from render_farm.engine.bench.pictures import Encode, Pictures, Pixels
from render_farm.engine.bench.stock import Stock
from render_farm.engine.bench.subject import Subject
from render_farm.engine.bench.switches import Switches
from render_farm.engine.bench.twin import twin_pipeline
from render_farm.engine.compiling import is_compiled
from render_farm.engine.source import ModelSource
from render_farm.errors import InputError
from render_farm.job.plan import MAX_ROWS
from render_farm.job.request import RenderRequest
from render_farm.memory import peak_memory_bytes

Rows = Sequence[RenderRequest]

COMPARED = 8


@dataclass(slots=True)
class Sides:
    """The stock pipeline and our engine, on the same weights.

    `stock_pipeline` is as it was loaded, `switches` are what its user finds. `occupancy` is that of
    our last rows, `peak_bytes` the most memory that ours used, and `pictures` are the pixels of
    each side's last rows by row.
    """

    subject: Subject
    stock: Stock
    ours: Ours
    stock_pipeline: Any
    switches: Switches
    compiled: bool
    encode: Encode | None
    occupancy: float = 0.0
    peak_bytes: int = 0
    pictures: dict[str, dict[int, Pixels]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where both render."""
        return self.subject.loaded.device

    def render_stock(self, rows: Rows, batch: int) -> None:
        """All rows by the stock pipeline, and encoded where that is asked for."""
        with Pictures(self.encode, _first(rows)) as pictures:
            self.stock.render(rows, batch, pictures)
        self.pictures["stock"] = pictures.kept

    def render_ours(self, rows: Rows, batch: int) -> None:
        """All rows by our engine, and encoded where that is asked for."""
        self.ours.reset()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with Pictures(self.encode, _first(rows)) as pictures:
            self.ours.render(rows, batch, pictures)
        self.pictures["ours"] = pictures.kept
        self.occupancy = self.ours.occupancy
        self.peak_bytes = max(self.peak_bytes, _peak_bytes(self.device))


def assemble(options: BenchOptions, subject: Subject, switches: Switches) -> Sides:
    """Both sides; the stock pipeline is set apart before our engine takes the modules over.

    Raises: `InputError` where compiling is asked for and the engine cannot.
    """
    loaded = subject.loaded
    if options.compiled and subject.engine != "steps":
        raise InputError.of(
            "--compile", "true", "auto or false", "this model is rendered by calls, as it is"
        )
    compiled = subject.engine == "steps" and is_compiled(_long_job(options), loaded.device)
    stock_pipeline = twin_pipeline(loaded.pipeline)
    stock = Stock(replace(loaded, pipeline=stock_pipeline), switches)
    ours = Ours(loaded, subject.engine, compiled=compiled)
    return Sides(subject, stock, ours, stock_pipeline, switches, compiled, options.encode)


def _long_job(options: BenchOptions) -> ModelSource:
    """What a job says that is long enough to be compiled for, unless it says otherwise."""
    wanted = "auto" if options.compiled is None else options.compiled
    return ModelSource(options.model, compile=wanted, planned_images=MAX_ROWS)


def _first(rows: Rows) -> frozenset[int]:
    """The rows of which the pixels are kept, to be compared."""
    return frozenset(row.row for row in rows[:COMPARED])


def _peak_bytes(device: torch.device) -> int:
    """The most memory in use: of the accelerator since the reset, else of this process ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory_bytes()
