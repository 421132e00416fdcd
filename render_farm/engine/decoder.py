"""Latents to pixels: decoding in batches of one fixed shape, checked, made uint8 on the device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from render_farm.engine.batches import padded
from render_farm.engine.host import HostCopies, HostCopy
from render_farm.engine.pictures import Picture

MOST_AT_ONCE = 16
PIXELS_AT_ONCE = 8 * 512 * 512
"""Decoding needs more memory a picture than denoising does, and no large batch to be fast."""

VAE_FLOAT32 = "vae_float32"
"""The flag of a picture that was decoded in float32, because float16 overflows."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch that is being decoded: its latents, and what is on its way to the host."""

    latents: torch.Tensor
    count: int
    pixels: HostCopy
    finite: HostCopy

    @property
    def ready(self) -> bool:
        """Whether `Decoder.finish` will not have to wait."""
        return self.pixels.ready and self.finite.ready


def decode_batch_size(batch_size: int, width: int, height: int) -> int:
    """How many pictures of that size (px) are decoded at once; follows from the batch's shape."""
    fits = max(1, min(batch_size, MOST_AT_ONCE, PIXELS_AT_ONCE // (width * height)))
    return 1 << (fits.bit_length() - 1)


class Decoder:
    """Decodes with a Stable Diffusion pipeline's own VAE, its memory laid out channels last.

    One that `overflows` in float16 is turned to float32 from the start.
    """

    def __init__(self, vae: Any, device: torch.device, overflows: bool = False) -> None:
        upcast = overflows and vae.dtype == torch.float16
        self._flags = (VAE_FLOAT32,) if upcast else ()
        self._vae = (vae.float() if upcast else vae).to(memory_format=torch.channels_last)
        self._decode: Any = self._vae.decode
        self._float32: Any = None
        self._host = HostCopies(device)

    def compile(self) -> None:
        """Compile the decoding from now on, once for each shape, when it is first called."""
        self._decode = torch.compile(self._vae.decode, dynamic=False)

    def begin(self, latents: Sequence[torch.Tensor], batch_size: int) -> Pending:
        """Start decoding up to `batch_size` latents, each [1, C, h, w] in the denoiser's scale.

        The batch is padded to `batch_size`, so a picture does not depend on its neighbours. On an
        accelerator this waits for nothing: what follows can be queued behind it.
        """
        stacked = torch.cat(padded(latents, batch_size))  # (B, C, h, w)
        images = self._run(self._decode, self._vae, stacked)
        return Pending(
            latents=stacked,
            count=len(latents),
            pixels=self._host.copy(_pixels(images)),
            finite=self._host.copy(torch.stack([_finite(stacked), _finite(images)])),
        )

    def finish(self, pending: Pending) -> list[Picture]:
        """The pictures that `begin` started on. Waits for them."""
        pixels = pending.pixels.wait()
        latents_finite, images_finite = pending.finite.wait()
        sound = latents_finite & images_finite
        overflowed = latents_finite & ~images_finite
        if not (overflowed.any() and self._vae.dtype == torch.float16):
            return [
                Picture(pixels[lane], bool(sound[lane]), self._flags)
                for lane in range(pending.count)
            ]
        images = self._in_float32(pending.latents)
        again = self._host.copy(_pixels(images)).wait()
        saved = self._host.copy(_finite(images)).wait()
        return [
            Picture(again[lane], bool(saved[lane]), (VAE_FLOAT32,))
            if overflowed[lane]
            else Picture(pixels[lane], bool(sound[lane]))
            for lane in range(pending.count)
        ]

    def _in_float32(self, latents: torch.Tensor) -> torch.Tensor:
        """Decoded by a float32 copy of the VAE, kept: what overflows once does so often."""
        if self._float32 is None:
            self._float32 = copy.deepcopy(self._vae).float()
        return self._run(self._float32.decode, self._float32, latents.float())

    def _run(self, decode: Any, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        unscaled = _unscaled(latents.to(vae.dtype), vae.config)
        images: torch.Tensor = decode(
            unscaled.contiguous(memory_format=torch.channels_last), return_dict=False
        )[0]
        return images  # (B, 3, H, W), -1…1


def _unscaled(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """Latents in the VAE's scale, as the stock pipelines compute them."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        scaled: torch.Tensor = latents / config.scaling_factor
        return scaled
    shape = (1, latents.shape[1], 1, 1)
    shift: torch.Tensor = torch.tensor(mean).view(shape).to(latents)
    spread: torch.Tensor = torch.tensor(std).view(shape).to(latents)
    standard: torch.Tensor = latents * spread / config.scaling_factor + shift
    return standard


def _finite(batch: torch.Tensor) -> torch.Tensor:
    """Which lanes hold finite numbers only, bool [B]."""
    return torch.isfinite(batch).flatten(1).all(dim=1)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] from -1 to 1, to uint8 [B, H, W, 3]; NaN becomes black."""
    bounded = (images.float() / 2 + 0.5).clamp(0, 1).nan_to_num()
    return (bounded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
