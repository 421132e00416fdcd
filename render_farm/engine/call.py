"""Renders by calling a stock diffusers pipeline, one call a batch."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from render_farm.engine.batches import batches, padded
from render_farm.engine.checks import check_request
from render_farm.engine.device import first_batch_size
from render_farm.engine.guard import Fault, attempt, halves
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.pictures import Made, Picture, answer, inspected
from render_farm.engine.sampler import (
    Refused,
    Rendered,
    SamplerInfo,
    SortKey,
    batch_shape_label,
)
from render_farm.engine.schedulers import check_scheduler, make_scheduler
from render_farm.engine.tokens import TokenCounter
from render_farm.errors import RowError, shown
from render_farm.job.request import RenderRequest


class CallSampler:
    """A `Sampler` on top of any diffusers text-to-image pipeline.

    Every lane has a noise generator of its own on the CPU, seeded with its request's seed, and
    every call has the full batch, so what a lane holds depends on its request alone. `compiled`
    compiles the pipeline's denoiser, once for each shape. `clock` returns seconds.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        compiled: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loaded = loaded
        self._pipeline = loaded.pipeline
        self._clock = clock
        denoiser = _denoiser(loaded.pipeline)
        self._compiled = compiled and denoiser is not None
        if self._compiled:
            denoiser.compile(dynamic=False)
        if getattr(loaded.pipeline, "watermark", None) is not None:
            # drawn where its library happens to be installed, so not by every worker
            loaded.pipeline.watermark = None
        self._parameters = frozenset(inspect.signature(loaded.pipeline.__call__).parameters)
        self._own_scheduler = getattr(loaded.pipeline, "scheduler", None)
        self._tokens = TokenCounter(loaded.pipeline)
        self._info = loaded.info("call")

    @property
    def info(self) -> SamplerInfo:
        """Device, dtype and library versions in force."""
        return self._info

    def check(self, request: RenderRequest) -> None:
        """Refuse a request that this model can never render.

        Raises: `RowError` with one of ``bad_prompt``, ``bad_size``, ``bad_guidance_scale``,
        ``bad_seed``, ``unknown_scheduler``, ``scheduler_incompatible``, ``bad_steps``,
        ``negative_prompt_unsupported``.
        """
        check_request(request, self._loaded.size_factor)
        check_scheduler(
            request.scheduler,
            request.steps,
            self._scheduler_config(),
            type(self._own_scheduler).__name__,
        )
        if request.negative_prompt and not self._takes_negative_prompt():
            raise RowError(
                "negative_prompt_unsupported",
                f"negative_prompt: {shown(request.negative_prompt)} (allowed: empty, since a "
                f"{type(self._pipeline).__name__} makes no use of it)",
            )

    def order(self, request: RenderRequest) -> SortKey:
        """What requests must share to be rendered by one call.

        Whether there is a negative prompt is part of it: pipelines such as Stable Diffusion XL
        treat none and an empty one differently, for the whole batch.
        """
        return (
            request.width,
            request.height,
            request.steps,
            float(request.guidance_scale),
            request.scheduler,
            bool(request.negative_prompt),
        )

    def default_batch_size(self, width: int, height: int) -> int:
        """The batch size to start with for pictures of this size (px) on this device."""
        return first_batch_size(self._loaded.device, self._loaded.dtype, width, height)

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Render requests lazily; see `Sampler.render`.

        At most one request beyond the batch in hand is taken: the first of the next group.
        """
        for batch in batches(requests, batch_size, self.order):
            yield from self._answers(batch, batch_size)

    def _answers(
        self, batch: Sequence[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Answer a batch; one that fails is halved until the requests at fault are alone."""
        began_s = self._clock()
        lanes = padded(batch, batch_size)
        called = attempt(lambda: self._call(lanes), self._loaded.device, batch_size)
        if not isinstance(called, Fault):
            first, share_s = batch[0], (self._clock() - began_s) / len(batch)
            label = batch_shape_label(batch_size, first.width, first.height, self._compiled)
            for request, picture in zip(batch, called, strict=False):
                cut = self._tokens.cut(request.prompt)
                yield answer(request, picture, Made(label, share_s, cut, self._loaded.dtype_name))
        elif len(batch) == 1:
            yield Refused(batch[0], called.error_type, called.error)
        else:
            for half in halves(batch):
                yield from self._answers(half, batch_size)

    @torch.inference_mode()
    def _call(self, lanes: Sequence[RenderRequest]) -> list[Picture]:
        """One pipeline call: a picture for each lane."""
        first = lanes[0]
        if self._own_scheduler is not None:
            self._pipeline.scheduler = make_scheduler(first.scheduler, self._own_scheduler)
        last = _LastLatents()
        images = self._pipeline(**self._arguments(lanes, last)).images  # [B, 3, H, W], 0…1
        shape = (len(lanes), 3, first.height, first.width)
        if tuple(images.shape) != shape:
            raise RowError("wrong_size", f"asked for {shape}, the pipeline made {images.shape}")
        # The pipelines clamp to 0…1, which hides infinity but keeps NaN: latents show both.
        sound = torch.isfinite(images).flatten(1).all(dim=1)
        if last.latents is not None and last.latents.shape[0] == len(lanes):
            sound &= torch.isfinite(last.latents).flatten(1).all(dim=1).to(sound.device)
        pixels = (images.float().nan_to_num() * 255).round().to(torch.uint8)
        pixels = pixels.permute(0, 2, 3, 1).contiguous()  # [B, H, W, 3]
        pictures = map(Picture, pixels.cpu().numpy(), sound.tolist())
        return inspected(list(pictures), self._loaded.safety)

    def _arguments(self, lanes: Sequence[RenderRequest], last: _LastLatents) -> dict[str, Any]:
        first = lanes[0]
        arguments: dict[str, Any] = {
            "prompt": [request.prompt for request in lanes],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.steps,
            "generator": [torch.Generator("cpu").manual_seed(lane.seed) for lane in lanes],
            "output_type": "pt",
        }
        if "guidance_scale" in self._parameters:
            arguments["guidance_scale"] = float(first.guidance_scale)
        if first.negative_prompt:
            arguments["negative_prompt"] = [request.negative_prompt for request in lanes]
        if self._loaded.clip_skip is not None:
            arguments["clip_skip"] = self._loaded.clip_skip
        if "callback_on_step_end" in self._parameters:
            arguments["callback_on_step_end"] = last
        return arguments

    def _takes_negative_prompt(self) -> bool:
        # Models distilled for guidance, such as Flux, take one for their `true_cfg_scale` only,
        # and ignore it at the default of that.
        return "negative_prompt" in self._parameters and "true_cfg_scale" not in self._parameters

    def _scheduler_config(self) -> Mapping[str, Any]:
        return {} if self._own_scheduler is None else self._own_scheduler.config


def _denoiser(pipeline: Any) -> Any:
    """The network that a pipeline calls at every step; None where it has another name."""
    return getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)


class _LastLatents:
    """A step callback that remembers the latents of the last step and changes nothing."""

    def __init__(self) -> None:
        self.latents: torch.Tensor | None = None

    def __call__(
        self, _pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.latents = tensors.get("latents")
        return {}
