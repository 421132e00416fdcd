"""Modules twice, weights once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor

from render_farm.engine.bench.twin import on_meta, twin, twin_pipeline
from render_farm.engine.model import LoadedPipeline


def render(pipeline: Any) -> Any:
    generator = torch.Generator("cpu").manual_seed(3)
    return pipeline(
        prompt="a red square",
        width=64,
        height=64,
        num_inference_steps=2,
        generator=generator,
        output_type="np",
    ).images


def test_a_twin_has_the_same_memory_and_modules_of_its_own(tiny_sd15: LoadedPipeline):
    text = tiny_sd15.pipeline.text_encoder
    copied = twin(text)
    assert next(copied.children()) is not next(text.children())
    assert list(text.buffers())
    for kind in ("parameters", "buffers"):
        pairs = zip(getattr(text, kind)(), getattr(copied, kind)(), strict=True)
        assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs), kind


def test_what_is_done_to_one_is_not_seen_by_the_other(tiny_sd15: LoadedPipeline):
    unet = twin(tiny_sd15.pipeline.unet)
    copied = twin(unet)
    unet.to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())
    assert not copied.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    kinds = {type(each) for each in copied.attn_processors.values()}
    assert AttnProcessor not in kinds
    unet.half()
    assert copied.dtype == torch.float32


def test_a_twin_pipeline_makes_the_same_pictures_whatever_becomes_of_the_first(
    tiny_sdxl: LoadedPipeline,
):
    first = twin_pipeline(tiny_sdxl.pipeline)
    second = twin_pipeline(first)
    before = render(first)
    first.scheduler.register_to_config(prediction_type="v_prediction")
    first.unet.conv_out = torch.nn.Identity()
    first.vae.half()
    assert np.array_equal(render(second), before)


def test_on_meta_is_shapes_without_data(tiny_sd15: LoadedPipeline):
    vae = tiny_sd15.pipeline.vae
    empty = on_meta(vae)
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    assert [t.shape for t in empty.parameters()] == [t.shape for t in vae.parameters()]
