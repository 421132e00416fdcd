"""Counts the floating-point operations of a picture, without computing anything.

::

    flops_per_image  = forwards x lanes x unet + decode + text
    fraction_of_peak = images_per_s x flops_per_image / peak

`forwards` are the U-Net's forwards that the scheduler asks for (PNDM one more than its steps, Heun
2n - 1), `lanes` is 2 with guidance and 1 without (guidance scale at most 1), `unet` are the
operations of one lane of one forward, `decode` of the VAE for one picture and `text` of the text
encoders for one prompt: the negative one is the same for all. torch's `FlopCounterMode` counts
matrix products, convolutions and attention, each multiplication and addition as one; everything
else (norms, activations) is left out, as it is in the peak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from render_farm.engine.bench.twin import on_meta
from render_farm.engine.schedulers import make_scheduler
from render_farm.engine.slots import lanes_needed
from render_farm.job.request import RenderRequest


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations: of one lane of a U-Net forward, of decoding a picture, of encoding a prompt."""

    unet: int
    decode: int
    text: int

    def of_image(self, forwards: int, lanes: int) -> int:
        """The formula of this module."""
        return forwards * lanes * self.unet + self.decode + self.text


def count_flops(pipeline: Any, width: int, height: int) -> Flops:
    """Count for pictures of that size (px) of a Stable Diffusion pipeline."""
    unet, vae = pipeline.unet, pipeline.vae
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    texts = [encoder for encoder in encoders if encoder is not None]
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    side = (height // factor, width // factor)
    length = pipeline.tokenizer.model_max_length
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    return Flops(
        unet=_counted(lambda: _forward(on_meta(unet), texts[-1], side, length)) // 2,
        decode=_counted(
            lambda: on_meta(vae).decode(_meta(vae, 1, vae.config.latent_channels, *side))
        ),
        text=sum(_counted(partial(on_meta(text), ids)) for text in texts),
    )


def average_flops(flops: Flops, rows: Iterable[RenderRequest], own_scheduler: Any) -> float:
    """Operations of a picture, averaged over the rows."""
    forwards = cache(partial(_forwards, own_scheduler))
    counted = [
        flops.of_image(forwards(row.scheduler, row.steps), lanes_needed(row)) for row in rows
    ]
    return sum(counted) / len(counted)


def _forwards(own_scheduler: Any, name: str, steps: int) -> int:
    """How many forwards a scheduler asks for."""
    scheduler = make_scheduler(name, own_scheduler)
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)


def _forward(unet: Any, last_text: Any, side: tuple[int, int], length: int) -> None:
    lanes = 2
    arguments: dict[str, Any] = {}
    if unet.config.addition_embed_type == "text_time":
        arguments["added_cond_kwargs"] = {
            "text_embeds": _meta(unet, lanes, last_text.config.projection_dim),
            "time_ids": _meta(unet, lanes, 6),
        }
    unet(
        _meta(unet, lanes, unet.config.in_channels, *side),
        torch.empty(lanes, device="meta"),
        _meta(unet, lanes, length, unet.config.cross_attention_dim),
        **arguments,
    )


def _meta(module: Any, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=module.dtype, device="meta")


def _counted(work: Callable[[], object]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
