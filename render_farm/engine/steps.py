"""Renders by step batching: one forward of the denoiser serves pictures at different steps.

Each picture has lanes of its own, and in them its own timestep, scheduler, guidance scale,
negative prompt and noise. One that is finished leaves its lanes to the next request at once, so
rows with different parameters fill a batch as well as equal ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from render_farm.engine.checks import check_request
from render_farm.engine.conditioning import ENCODE_BATCH, PromptEncoder, Text, texts_of
from render_farm.engine.decoder import Decoder
from render_farm.engine.denoiser import LANES_A_PICTURE, Denoiser, Lanes
from render_farm.engine.device import MOST_MEASURED, synchronize
from render_farm.engine.guard import Fault, attempt, halves
from render_farm.engine.measuring import best_batch_size
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.outlet import BatchOfOneSize, Outlet
from render_farm.engine.sampler import Refused, Rendered, SamplerInfo, SortKey
from render_farm.engine.schedulers import check_scheduler
from render_farm.engine.slots import Denoised, Occupancy, Window
from render_farm.engine.stage import Stage
from render_farm.engine.tokens import TokenCounter
from render_farm.engine.walk import Schedules
from render_farm.errors import EngineError, RowError
from render_farm.job.request import RenderRequest

log = logging.getLogger(__name__)

Result = TypeVar("Result")

TIMED_FORWARDS = 5


class StepSampler:
    """A `Sampler` for Stable Diffusion 1.x, 2.x and XL pipelines.

    Takes the pipeline's denoiser and decoder over: the pipeline cannot be called any more.
    `compiled` compiles the denoiser, and on an accelerator the decoder, once for each shape, when
    it is first rendered. `clock` returns seconds.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        compiled: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loaded = loaded
        self._clock = clock
        self._compiled = compiled
        pipeline = loaded.pipeline
        self._tokens = TokenCounter(pipeline)
        self._encoder = PromptEncoder(pipeline, loaded.device, loaded.clip_skip)
        self._denoiser = Denoiser(pipeline.unet, loaded.device)
        self._decoder = Decoder(pipeline.vae, loaded.device, _overflows(pipeline))
        if compiled:
            self._denoiser.compile()
            if loaded.device.type != "cpu":
                # measured on a CPU: a compiled decoder is a quarter slower than an eager one
                self._decoder.compile()
        self._schedules = Schedules(pipeline.scheduler)
        self._occupancy = Occupancy()
        self._info = loaded.info("steps")

    @property
    def info(self) -> SamplerInfo:
        """Device, dtype and library versions in force."""
        return self._info

    @property
    def occupancy(self) -> float:
        """Lanes that advanced a request ÷ lanes computed, since `reset_counters`."""
        return self._occupancy.share

    def reset_counters(self) -> None:
        """Count lanes from nothing."""
        self._occupancy.computed = self._occupancy.advanced = 0

    def check(self, request: RenderRequest) -> None:
        """Refuse a request that this model can never render.

        Raises: `RowError` with one of ``bad_prompt``, ``bad_size``, ``bad_guidance_scale``,
        ``bad_seed``, ``unknown_scheduler``, ``scheduler_incompatible``, ``bad_steps``.
        """
        check_request(request, self._loaded.size_factor)
        own = self._loaded.pipeline.scheduler
        check_scheduler(request.scheduler, request.steps, own.config, type(own).__name__)
        try:
            self._schedules.get(request.scheduler, request.steps)
        except ValueError as error:
            raise RowError(
                "scheduler_incompatible",
                f"scheduler: {request.scheduler} with {request.steps} steps and the model's own "
                f"configuration: {error}",
            ) from error

    def order(self, request: RenderRequest) -> SortKey:
        """Long ones first: what is left at the end, when lanes run empty, is soon done.

        Equal schedules next to each other: what begins together is stepped together.
        """
        schedule = self._schedules.get(request.scheduler, request.steps)
        return (-len(schedule.timesteps), request.scheduler)

    def default_batch_size(self, width: int, height: int) -> int:
        """The batch from which on this device gains nothing, measured on forwards of its size."""

        def seconds_of(batch_size: int) -> float:
            batch = BatchOfOneSize((width, height), batch_size, self._compiled)
            timed = self._attempt(partial(self._time_forward, batch), batch)
            if isinstance(timed, Fault):
                log.warning("a batch could not be tried", extra={"error": timed.error})
                return float("inf")
            return timed

        return best_batch_size(seconds_of, MOST_MEASURED)

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Render requests lazily; see `Sampler.render`.

        A forward has two lanes for each of `batch_size`, rounded up by `Denoiser.pictures_at_once`.
        Up to `ENCODE_BATCH` requests more are taken than are in lanes, so that their texts are
        encoded together. Requests of one size are rendered together; where sizes alternate, lanes
        run empty at every change.
        """
        window = Window(requests, ENCODE_BATCH)
        while (first := window.first()) is not None:
            size = first.width, first.height
            batch = BatchOfOneSize(size, batch_size, self._compiled)
            stage = self._attempt(partial(self._stage, batch), batch)
            if isinstance(stage, Fault):
                raise EngineError(f"{stage.error_type}: {stage.error}")
            yield from self._render_size(window, batch, stage)

    def _render_size(
        self, window: Window, batch: BatchOfOneSize, stage: Stage
    ) -> Iterator[Rendered | Refused]:
        """Render what comes of one size, on an empty stage, until none is in sight."""
        outlet = Outlet(self._loaded, self._decoder, self._tokens, batch, self._clock)
        while True:
            yield from self._admit(stage, window, batch)
            if stage.empty:
                break
            finished = self._attempt(partial(self._advance, stage), batch)
            if isinstance(finished, Fault):
                yield from self._refuse_or_halve(finished, batch, stage)
            else:
                yield from outlet.put(finished)
        yield from outlet.flush()

    def _refuse_or_halve(
        self, fault: Fault, batch: BatchOfOneSize, stage: Stage
    ) -> Iterator[Rendered | Refused]:
        """Begin the halves of a batch that failed anew, until the request at fault is alone."""
        requests = stage.clear()
        if len(requests) == 1:
            yield Refused(requests[0], fault.error_type, fault.error)
            return
        for half in halves(requests):
            yield from self._render_size(Window(half, len(half)), batch, stage)

    def _admit(
        self, stage: Stage, window: Window, batch: BatchOfOneSize
    ) -> Iterator[Rendered | Refused]:
        """Fill the free lanes; answers for requests that cannot even begin."""
        while stage.free and (request := window.take(batch.size, stage.free)) is not None:
            begun = self._attempt(partial(self._begin, stage, request, tuple(window)), batch)
            if isinstance(begun, Fault):
                yield Refused(request, begun.error_type, begun.error)

    def _attempt(self, action: Callable[[], Result], batch: BatchOfOneSize) -> Result | Fault:
        return attempt(action, self._loaded.device, batch.batch_size)

    @torch.inference_mode()
    def _advance(self, stage: Stage) -> list[Denoised]:
        return stage.advance()

    @torch.inference_mode()
    def _begin(
        self, stage: Stage, request: RenderRequest, upcoming: Sequence[RenderRequest]
    ) -> None:
        """Give a request its lanes; the texts of those to come are encoded along."""
        texts = texts_of(request)
        along = [*texts, *(text for other in upcoming for text in texts_of(other))]
        embeddings = [self._encoder.get(text, along) for text in texts]
        schedule = self._schedules.get(request.scheduler, request.steps)
        stage.admit(request, schedule, embeddings)

    def _stage(self, batch: BatchOfOneSize) -> Stage:
        pictures = self._denoiser.pictures_at_once(batch.batch_size, *batch.size)
        lanes = self._lanes_of(LANES_A_PICTURE * pictures, batch.size)
        return Stage(self._denoiser, lanes, batch.size, self._occupancy, self._clock)

    @torch.inference_mode()
    def _lanes_of(self, count: int, size: tuple[int, int]) -> Lanes:
        embedding = self._encoder.get(Text("", negative=False))
        return self._denoiser.lanes(count, embedding, *size)

    @torch.inference_mode()
    def _time_forward(self, batch: BatchOfOneSize) -> float:
        """Seconds that a forward takes, after one that is not counted."""
        stage = self._stage(batch)
        times = []
        for _ in range(1 + TIMED_FORWARDS):
            synchronize(self._loaded.device)
            began_s = self._clock()
            stage.try_out()
            synchronize(self._loaded.device)
            times.append(self._clock() - began_s)
        return min(times[1:])


def _overflows(pipeline: Any) -> bool:
    """Whether the VAE is known to overflow in float16, as Stable Diffusion XL's own one is.

    The configurations of older models say so too, for want of saying anything.
    """
    return "text_encoder_2" in pipeline.components and bool(pipeline.vae.config.force_upcast)
