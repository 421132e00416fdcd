"""The U-Net as step batching calls it: a fixed number of lanes, each with its own timestep.

What a prompt contributes to cross-attention, keys and values, is the same at every step. It is
computed once when a picture enters its lanes and kept there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from render_farm.engine.attention import Context, take_over_attention
from render_farm.engine.batches import VECTOR
from render_farm.engine.conditioning import Embedding
from render_farm.engine.unet import Features, SplitUNet

LATENT_FACTOR = 8

LANES_A_PICTURE = 2
"""A batch of n has lanes for n pictures with guidance, or for twice as many without."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """The inputs of a forward that stay with a picture while it is in its lanes.

    `part` is how many pictures the part of a forward takes at once that sees no text: half of
    what `count` lanes have with guidance, so that few more pictures than that, where some have
    none, cost little more. `context` is laid out as `Context` with the lanes in front; `pooled`
    [L, channels] and `time_ids` [L, 6] are what SDXL takes besides.
    """

    count: int
    part: int
    context: Context
    pooled: torch.Tensor | None
    time_ids: torch.Tensor | None

    def fill(self, lane: int, context: Context, pooled: torch.Tensor | None) -> None:
        """Give a lane to what a text contributes."""
        for (keys, values), (key, value) in zip(self.context, context, strict=True):
            keys[lane] = key
            values[lane] = value
        if self.pooled is not None and pooled is not None:
            self.pooled[lane] = pooled

    def added(self) -> dict[str, torch.Tensor] | None:
        """What SDXL's U-Net takes besides, under its names."""
        if self.pooled is None or self.time_ids is None:
            return None
        return {"text_embeds": self.pooled, "time_ids": self.time_ids}


class Denoiser:
    """Predicts the noise in lanes of latents.

    Takes the U-Net over: its attention is replaced, and its memory laid out channels last.
    """

    def __init__(self, unet: Any, device: torch.device) -> None:
        self._device = device
        self._cross = take_over_attention(unet)
        self._unet: Any = unet.to(memory_format=torch.channels_last)
        self._eager = SplitUNet(self._unet)
        self._of_picture: Callable[..., Features] = self._eager.of_picture
        self._of_text: Callable[..., torch.Tensor] = self._eager.of_text

    @property
    def device(self) -> torch.device:
        """Where latents, timesteps and lanes are."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, latents and predictions."""
        dtype: torch.dtype = self._unet.dtype
        return dtype

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        channels: int = self._unet.config.in_channels
        return channels

    def pictures_at_once(self, batch_size: int, width: int, height: int) -> int:
        """The least number of pictures of that size (px), from `batch_size` on, that fills vectors.

        It is `batch_size` for published models, whose widths are multiples of a `VECTOR`.
        """
        widths = self._unet.config.block_out_channels
        # what skips and what comes from the level above has widths that add up of these
        common = math.gcd(*widths)
        numbers = [
            common * _halved(height, level) * _halved(width, level) for level in range(len(widths))
        ]
        while any(batch_size * each % VECTOR for each in numbers):
            batch_size += 1
        return batch_size

    def compile(self) -> None:
        """Compile the forwards from now on, once for each shape, when it is first called."""
        self._of_picture = torch.compile(self._of_picture, dynamic=False, fullgraph=True)
        self._of_text = torch.compile(self._of_text, dynamic=False, fullgraph=True)

    def context(self, embedding: Embedding) -> Context:
        """What a text contributes to every cross-attention layer."""
        of_layers = (attn.keys_and_values(embedding.hidden[None]) for attn in self._cross)
        return tuple((key[0], value[0]) for key, value in of_layers)

    def lanes(self, count: int, embedding: Embedding, width: int, height: int) -> Lanes:
        """Memory for `count` lanes of pictures of that size (px), every lane filled alike.

        `embedding` is any, for its shapes.
        """
        context = tuple(
            (key.expand(count, -1, -1, -1).clone(), value.expand(count, -1, -1, -1).clone())
            for key, value in self.context(embedding)
        )
        pictures = count // LANES_A_PICTURE
        half = self.pictures_at_once(pictures // 2, width, height) if pictures > 1 else pictures
        part = half if 2 * half == pictures else pictures
        if embedding.pooled is None:
            return Lanes(count, part, context, None, None)
        # original size, crop and target size, as the stock pipeline sets them by default
        sizes = [height, width, 0, 0, height, width]
        ids = torch.tensor([sizes], dtype=self.dtype, device=self._device)
        pooled = embedding.pooled.expand(count, -1).clone()
        return Lanes(count, part, context, pooled, ids.repeat(count, 1))

    def try_out(self, latents: torch.Tensor, lanes: Lanes) -> None:
        """A forward to see how long it takes, never a compiled one: [L / 2, C, h, w]."""
        timesteps = torch.full((len(latents),), 500.0, device=self._device)
        owners = torch.arange(lanes.count, device=self._device) % len(latents)
        features = self._eager.of_picture(
            latents.contiguous(memory_format=torch.channels_last), timesteps
        )
        self._eager.of_text(_gather([features], owners), lanes.context, lanes.added())

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, owners: torch.Tensor, lanes: Lanes
    ) -> torch.Tensor:
        """The prediction for every lane, [L, C, h, w].

        `latents` [n, C, h, w] and `timesteps`, float32 [n], are of pictures, a multiple of
        `Lanes.part`; `owners`, int64 [L], says which picture each lane works at.
        """
        # always as many at a time, so that a picture's bits do not depend on their number
        parts = [
            self._of_picture(some.contiguous(memory_format=torch.channels_last), times)
            for some, times in zip(
                torch.split(latents, lanes.part),
                torch.split(timesteps, lanes.part),
                strict=True,
            )
        ]
        prediction: torch.Tensor = self._of_text(
            _gather(parts, owners), lanes.context, lanes.added()
        )
        return prediction


def _halved(side_px: int, times: int) -> int:
    """A side in latents after so many halvings, rounded up as convolutions of stride 2 do."""
    halved: int = -(-side_px // (LATENT_FACTOR * 2**times))
    return halved


def _gather(parts: Sequence[Features], owners: torch.Tensor) -> Features:
    """The features of pictures, in parts, handed to the lanes that work at them."""

    def to_lanes(*tensors: torch.Tensor) -> torch.Tensor:
        whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return whole[owners]

    residuals = [part.residual for part in parts if part.residual is not None]
    return Features(
        hidden=to_lanes(*(part.hidden for part in parts)),
        embedding=to_lanes(*(part.embedding for part in parts)),
        skips=tuple(to_lanes(*each) for each in zip(*(p.skips for p in parts), strict=True)),
        residual=to_lanes(*residuals) if residuals else None,
    )
