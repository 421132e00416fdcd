"""Builds a published model at full size in memory, with random weights of realistic variance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from render_farm.engine.bench.published import Published
from render_farm.engine.bench.tokenizer import make_tokenizer
from render_farm.engine.bench.workload import WORDS
from render_farm.engine.device import choose_device, choose_dtype, device_model, settle_kernels
from render_farm.engine.libraries import quiet_libraries
from render_farm.engine.model import LoadedPipeline

SEED = 15
CHECKED_SIDE = 16  # latents: enough for four levels of halving
LEAST_STD, MOST_STD = 0.1, 10.0


def make_model(published: Published, dtype: str = "auto", device: str = "auto") -> LoadedPipeline:
    """The pipeline with random weights, drawn on the device in the dtype: there is one copy of it.

    Weights are torch's and transformers' own first ones, from a fixed seed. The U-Net's last layer
    is scaled where its output has not a standard deviation of 0.1 to 10, since timing depends on
    the values: zeros run faster than real activations.

    Raises: `ModelError` for an unknown dtype or device.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    quiet_libraries()
    settle_kernels(place)
    torch.manual_seed(SEED)
    classes: Any = diffusers
    with torch.device(place), _default_dtype(kind):
        unet = classes.UNet2DConditionModel(**published.unet)
        vae = classes.AutoencoderKL(**published.vae)
        texts = _text_encoders(published)
    for module in (unet, vae, *texts.values()):
        module.to(device=place, dtype=kind).eval().requires_grad_(False)
    settle_variance(unet)
    scheduler = getattr(classes, published.scheduler_class)(**published.scheduler)
    pipeline = getattr(classes, published.pipeline_class)(
        unet=unet, vae=vae, scheduler=scheduler, **texts, **_tokenizers(published), **published.init
    )
    pipeline.set_progress_bar_config(disable=True)
    factor = int(pipeline.vae_scale_factor)
    return LoadedPipeline(pipeline, factor, place, kind, device_model(place))


def settle_variance(unet: Any) -> float:
    """Scale the last layer if the output is far from standard; the deviation it had before."""
    config = unet.config
    lanes, side = 2, CHECKED_SIDE
    kind: dict[str, Any] = {"device": unet.device, "dtype": unet.dtype}
    arguments: dict[str, Any] = {}
    if config.addition_embed_type == "text_time":
        times = 6 * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - times
        arguments["added_cond_kwargs"] = {
            "text_embeds": torch.randn(lanes, pooled, **kind),
            "time_ids": torch.full((lanes, 6), 512.0, **kind),
        }
    with torch.inference_mode():
        output = unet(
            torch.randn(lanes, config.in_channels, side, side, **kind),
            torch.tensor([800, 200], device=unet.device),
            torch.randn(lanes, 77, config.cross_attention_dim, **kind),
            **arguments,
        ).sample
    deviation = float(output.float().std())
    if not LEAST_STD <= deviation <= MOST_STD:
        with torch.no_grad():
            for parameter in unet.conv_out.parameters():
                parameter.div_(deviation)
    return deviation


def _text_encoders(published: Published) -> dict[str, Any]:
    """The pipeline's text encoders by component name; the second one has a projection."""
    configs = [CLIPTextConfig(**config) for config in published.texts]
    made: dict[str, Any] = {"text_encoder": CLIPTextModel(configs[0])}
    if len(configs) > 1:
        made["text_encoder_2"] = CLIPTextModelWithProjection(configs[1])
    return made


def _tokenizers(published: Published) -> dict[str, Any]:
    names = ("tokenizer", "tokenizer_2")
    return {
        name: make_tokenizer(WORDS, config["vocab_size"], config["max_position_embeddings"], pad)
        for name, config, pad in zip(names, published.texts, published.pads, strict=False)
    }


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
