"""Counted operations, held against the figures published elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from render_farm.engine.bench.flops import Flops, average_flops, count_flops
from render_farm.engine.bench.published import SD15, SDXL, Published
from render_farm.engine.model import LoadedPipeline
from tests.engine.conftest import LoadModel, MakeRequest


def on_meta(published: Published) -> Any:
    """A full-size pipeline's modules without data."""
    classes: Any = diffusers
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    with torch.device("meta"):
        texts = [
            kind(CLIPTextConfig(**config))
            for kind, config in zip(kinds, published.texts, strict=False)
        ]
        return SimpleNamespace(
            unet=classes.UNet2DConditionModel(**published.unet),
            vae=classes.AutoencoderKL(**published.vae),
            text_encoder=texts[0],
            text_encoder_2=texts[1] if len(texts) > 1 else None,
            tokenizer=SimpleNamespace(model_max_length=77),
        )


def millions(module: Any) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 1)


def test_stable_diffusion_15_has_its_published_size_and_operations():
    model = on_meta(SD15)
    assert millions(model.unet) == 859.5
    assert millions(model.vae) == 83.7
    assert millions(model.text_encoder) == 123.1
    flops = count_flops(model, 512, 512)
    assert (flops.unet // 10**9, flops.decode // 10**9, flops.text // 10**9) == (803, 2514, 13)


def test_stable_diffusion_xl_has_its_published_size_and_operations():
    model = on_meta(SDXL)
    assert millions(model.unet) == 2567.5
    assert millions(model.text_encoder_2) == 694.7
    flops = count_flops(model, 1024, 1024)
    assert (flops.unet // 10**9, flops.decode // 10**9) == (6761, 10470)


def test_operations_of_a_picture_follow_the_formula():
    assert Flops(unet=100, decode=20, text=3).of_image(forwards=7, lanes=2) == 7 * 2 * 100 + 23


def test_forwards_and_lanes_are_what_scheduler_and_guidance_ask_for(
    load_model: LoadModel, request_of: MakeRequest
):
    own = load_model("sd15").pipeline.scheduler

    def lane_forwards(**changes: object) -> float:
        row = request_of(steps=10, **{"guidance_scale": 1.0, **changes})
        return average_flops(Flops(1, 0, 0), [row], own)

    assert lane_forwards(scheduler="pndm") == 11
    assert lane_forwards(scheduler="model") == 11
    assert lane_forwards(scheduler="heun") == 19
    assert lane_forwards(scheduler="ddim") == 10
    assert lane_forwards(scheduler="ddim", guidance_scale=1.5) == 20


def test_operations_are_averaged_over_the_rows(sd15: LoadedPipeline, request_of: MakeRequest):
    rows = [
        request_of(steps=10, scheduler="ddim", guidance_scale=5.0),
        request_of(steps=20, scheduler="ddim", guidance_scale=1.0),
        request_of(steps=10, scheduler="ddim", guidance_scale=1.0),
    ]
    average = average_flops(Flops(100, 20, 3), rows, sd15.pipeline.scheduler)
    assert average == (2000 + 2000 + 1000) / 3 + 23


def test_counting_computes_nothing_and_moves_nothing(sdxl: LoadedPipeline):
    before = sdxl.pipeline.unet.conv_in.weight.clone()
    larger, smaller = (count_flops(sdxl.pipeline, side, side) for side in (128, 64))
    assert larger.decode > 3.9 * smaller.decode
    assert sdxl.pipeline.unet.device.type == "cpu"
    assert torch.equal(sdxl.pipeline.unet.conv_in.weight, before)
