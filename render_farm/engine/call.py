"""Renders by calling a stock diffusers pipeline, one call a batch."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from render_farm.engine.batches import batches, padded
from render_farm.engine.checks import check_request, picture_flags
from render_farm.engine.device import (
    device_failure,
    first_batch_size,
    free_cache,
    library_versions,
)
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.sampler import Refused, Rendered, SamplerInfo, SortKey
from render_farm.engine.schedulers import check_scheduler, make_scheduler
from render_farm.errors import RowError, shown
from render_farm.job.request import RenderRequest


class CallSampler:
    """A `Sampler` on top of any diffusers text-to-image pipeline.

    Every lane has a noise generator of its own on the CPU, seeded with its request's seed, and
    every call has the full batch, so what a lane holds depends on its request alone. `clock`
    returns seconds.
    """

    def __init__(
        self, loaded: LoadedPipeline, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._loaded = loaded
        self._pipeline = loaded.pipeline
        self._clock = clock
        self._parameters = frozenset(inspect.signature(loaded.pipeline.__call__).parameters)
        self._own_scheduler = getattr(loaded.pipeline, "scheduler", None)
        self._tokenizers = tuple(_tokenizers(loaded.pipeline))
        self._info = SamplerInfo(
            engine="call",
            device=loaded.device_name,
            dtype=str(loaded.dtype).removeprefix("torch."),
            versions=library_versions(),
        )

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
        try:
            pixels, sound = self._call(padded(batch, batch_size))
        except Exception as error:  # noqa: BLE001  the row: whatever it raises, it is quarantined
            failure = device_failure(error, batch_size)
            reason = _reason(error)
        else:
            share_s = (self._clock() - began_s) / len(batch)
            for lane, request in enumerate(batch):
                yield self._answer(request, pixels[lane], bool(sound[lane]), batch_size, share_s)
            return
        # Only here, where the exception and the tensors that its traceback holds are gone.
        if failure is not None:
            free_cache(self._loaded.device)
            raise failure
        if len(batch) == 1:
            yield Refused(batch[0], *reason)
            return
        middle = len(batch) // 2
        yield from self._answers(batch[:middle], batch_size)
        yield from self._answers(batch[middle:], batch_size)

    def _answer(
        self,
        request: RenderRequest,
        pixels: NDArray[np.uint8],
        sound: bool,
        batch_size: int,
        share_s: float,
    ) -> Rendered | Refused:
        if not sound:
            return Refused(
                request,
                "non_finite",
                f"the model returned NaN or infinity in {self._info.dtype}; bfloat16 or float32 "
                "may render it",
            )
        return Rendered(
            request=request,
            pixels=pixels,
            batch_shape=f"{batch_size}x{request.width}x{request.height}",
            render_s=share_s,
            cut_tokens=self._cut_tokens(request.prompt),
            flags=picture_flags(pixels),
        )

    @torch.inference_mode()
    def _call(self, lanes: Sequence[RenderRequest]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """One pipeline call: uint8 [B, H, W, 3], and which lanes hold finite numbers, bool [B]."""
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
        return pixels.cpu().numpy(), sound.cpu().numpy()

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
        if "callback_on_step_end" in self._parameters:
            arguments["callback_on_step_end"] = last
        return arguments

    def _takes_negative_prompt(self) -> bool:
        # Models distilled for guidance, such as Flux, take one for their `true_cfg_scale` only,
        # and ignore it at the default of that.
        return "negative_prompt" in self._parameters and "true_cfg_scale" not in self._parameters

    def _scheduler_config(self) -> Mapping[str, Any]:
        return {} if self._own_scheduler is None else self._own_scheduler.config

    def _cut_tokens(self, prompt: str) -> int:
        """Tokens of the prompt that no text encoder saw: the fewest that a tokenizer cuts."""
        return min(
            (
                max(0, len(tokenizer(prompt).input_ids) - length)
                for tokenizer, length in self._tokenizers
            ),
            default=0,
        )


class _LastLatents:
    """A step callback that remembers the latents of the last step and changes nothing."""

    def __init__(self) -> None:
        self.latents: torch.Tensor | None = None

    def __call__(
        self, _pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.latents = tensors.get("latents")
        return {}


def _tokenizers(pipeline: Any) -> Iterator[tuple[Any, int]]:
    """The pipeline's tokenizers, each with the number of tokens that its encoder takes."""
    parameters = inspect.signature(pipeline.__call__).parameters
    asked = parameters.get("max_sequence_length")
    most = asked.default if asked is not None and isinstance(asked.default, int) else None
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is not None:
            length = tokenizer.model_max_length
            yield tokenizer, length if most is None else min(length, most)


def _reason(error: Exception) -> tuple[str, str]:
    if isinstance(error, RowError):
        return error.error_type, error.message
    return type(error).__name__, str(error)
