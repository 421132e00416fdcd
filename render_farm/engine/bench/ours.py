"""Our contestant: the `Sampler` that the farm would use for the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from render_farm.engine.batches import batches
from render_farm.engine.bench.pictures import Pictures
from render_farm.engine.bench.workload import Setting, Size, uniform_rows
from render_farm.engine.call import CallSampler
from render_farm.engine.device import synchronize
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.sampler import Refused, Sampler, SamplerInfo
from render_farm.engine.slots import lanes_needed
from render_farm.engine.steps import StepSampler
from render_farm.errors import EngineError, InputError, OutOfMemory
from render_farm.job.request import RenderRequest
from render_farm.job.spec import ShardsSpec

WARM_UP_STEPS = 2
SHARD_ROWS = ShardsSpec().rows


class Ours:
    """Renders rows with the engine of that name, and knows how full its forwards were."""

    def __init__(self, loaded: LoadedPipeline, engine: str, *, compiled: bool) -> None:
        self._steps = StepSampler(loaded, compiled=compiled) if engine == "steps" else None
        self._sampler: Sampler = self._steps or CallSampler(loaded)
        self._advanced = 0
        self._computed = 0

    @property
    def info(self) -> SamplerInfo:
        """Engine, device, dtype and versions in force."""
        return self._sampler.info

    @property
    def occupancy(self) -> float:
        """Lanes that advanced a row ÷ lanes computed, since `reset`."""
        if self._steps is not None:
            return self._steps.occupancy
        return self._advanced / self._computed if self._computed else 0.0

    def reset(self) -> None:
        """Count lanes from here on."""
        self._advanced = self._computed = 0
        if self._steps is not None:
            self._steps.reset_counters()

    def check(self, row: RenderRequest) -> None:
        """Refuse a row that the model can never render. Raises: `RowError`."""
        self._sampler.check(row)

    def default_batch(self, width: int, height: int) -> int:
        """The engine's own choice of a batch for pictures of that size (px); may measure."""
        return self._sampler.default_batch_size(width, height)

    def render(self, rows: Sequence[RenderRequest], batch: int, pictures: Pictures) -> None:
        """Render rows as a worker does: shard by shard, each in the order that the engine likes.

        Raises:
            OutOfMemory: the batch does not fit.
            EngineError: a row was refused, so that the time would mean nothing.
        """
        for start in range(0, len(rows), SHARD_ROWS):
            shard = sorted(rows[start : start + SHARD_ROWS], key=self._sampler.order)
            for answer in self._sampler.render(shard, batch):
                if isinstance(answer, Refused):
                    reason = f"{answer.error_type}: {answer.error}"
                    raise EngineError(f"{answer.request.prompt}: {reason}")
                pictures.take(answer.request.row, answer.pixels)
            if self._steps is None:
                self._count(shard, batch)

    def _count(self, rows: Sequence[RenderRequest], batch: int) -> None:
        """Lanes of calls, which are padded to the batch and last as long as their rows."""
        for call in batches(rows, batch, self._sampler.order):
            lanes = call[0].steps * lanes_needed(call[0])
            self._advanced += lanes * len(call)
            self._computed += lanes * batch


def warm_up(
    ours: Ours, wanted: int | None, size: Size, setting: Setting, device: torch.device
) -> tuple[int, float]:
    """Render one full batch of few steps; the batch that fits, and the seconds it took.

    The seconds hold choosing a batch, compiling and choosing kernels. A batch that was not asked
    for is halved while it does not fit.

    Raises:
        InputError: the batch that was asked for does not fit.
        OutOfMemory: not even one picture fits.
    """
    began_s = time.perf_counter()
    batch = wanted or ours.default_batch(size.width, size.height)
    short = replace(setting, steps=min(setting.steps, WARM_UP_STEPS))
    while True:
        try:
            with Pictures() as pictures:
                ours.render(uniform_rows(batch, size, short), batch, pictures)
            synchronize(device)
        except OutOfMemory as error:
            if wanted is not None:
                fits = "a batch that the device has memory for"
                raise InputError.of("--batch", wanted, fits, "ask for less, or auto") from error
            if batch == 1:
                raise
        else:
            return batch, time.perf_counter() - began_s
        batch //= 2
