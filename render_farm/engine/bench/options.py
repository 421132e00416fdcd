"""What a benchmark of the engine is asked for, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from render_farm.engine.bench.pictures import Encode
from render_farm.engine.bench.workload import Size

COMPILES: Mapping[str, bool | None] = {"auto": None, "true": True, "false": False}
"""Allowed values of ``--compile``; None lets the device decide."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and how.

    `model` is ``sd15``, ``sdxl`` or a local folder. None stands for a default: `steps` and `size`
    are the model's own, `batch` is the engine's choice, `stock_batch` the stock
    pipeline's best by trying, `rows` follows from the batches, `compiled`
    is as for a long job, `rounds` are 5, or 3 with `mixed`. `encode` makes pixels into bytes,
    for both sides alike; None leaves them pixels.
    """

    model: str
    steps: int | None = None
    size: Size | None = None
    batch: int | None = None
    stock_batch: int | None = None
    mixed: bool = False
    rows: int | None = None
    threads: int = 1
    dtype: str = "auto"
    compiled: bool | None = None
    rounds: int | None = None
    encode: Encode | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast some rows were rendered, images/s, and ours ÷ stock."""

    rows: int
    images_per_s: float
    stock_images_per_s: float
    ratio_to_stock: float

    @classmethod
    def of(cls, rows: int, ours_s: float, stock_s: float) -> Rates:
        """The rates of `rows` rows that took so many seconds."""
        return cls(rows, rows / ours_s, rows / stock_s, stock_s / ours_s)


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """The figures of one benchmark; `docs/bench.md` says what each of them means.

    With `mixed`, those without a prefix are of the mixed rows, `uniform` and `steps` of equal rows
    in the same run, and `gain_kernels` x `gain_scheduling` is the `ratio_to_stock`. What cannot be
    counted is None.
    """

    images_per_s: float
    stock_images_per_s: float
    stock_batch: int
    ratio_to_stock: float
    fraction_of_peak: float | None
    occupancy: float
    peak_memory_mb: float
    device: str
    dtype: str
    stock_fraction_of_peak: float | None
    batch: int
    model: str
    engine: str
    size: str
    steps: int
    rows: int
    mixed: bool
    rounds: int
    compiled: bool
    warm_up_s: float
    threads: int
    peak_tflops: float
    flops_per_image: float | None
    largest_difference: int
    uniform: Rates | None
    gain_kernels: float | None
    gain_scheduling: float | None
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The figures by name, those of every benchmark first."""
        return asdict(self)
