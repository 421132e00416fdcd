"""Published models made in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from render_farm.engine.bench.made import make_model, settle_variance
from render_farm.engine.bench.published import SD15
from render_farm.engine.bench.workload import prompts
from render_farm.engine.model import LoadedPipeline
from render_farm.errors import ModelError
from tests.engine.bench.conftest import shrunk


@pytest.fixture(params=["tiny_sd15", "tiny_sdxl"])
def made(request: pytest.FixtureRequest) -> LoadedPipeline:
    loaded: LoadedPipeline = request.getfixturevalue(request.param)
    return loaded


def test_a_made_model_renders_as_a_loaded_one_does(made: LoadedPipeline):
    images = made.pipeline(
        prompt=["a red square", "a blue ring"],
        width=64,
        height=64,
        num_inference_steps=2,
        output_type="np",
    ).images
    assert images.shape == (2, 64, 64, 3)
    assert np.isfinite(images).all()
    assert images.std() > 0.01
    assert made.size_factor == 8


def test_prompts_of_the_workload_are_tokens_and_none_is_cut(made: LoadedPipeline):
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer: Any = getattr(made.pipeline, name, None)
        if tokenizer is not None:
            lengths = [len(ids) for ids in tokenizer(prompts(100)).input_ids]
            assert 9 < max(lengths) < tokenizer.model_max_length


def test_the_same_weights_are_made_every_time(tiny_sd15: LoadedPipeline):
    again = make_model(shrunk(SD15), device="cpu")
    before = tiny_sd15.pipeline.unet.state_dict()
    for name, tensor in again.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_weights_are_made_in_the_dtype_and_the_default_is_left_alone():
    loaded = make_model(shrunk(SD15), dtype="bfloat16", device="cpu")
    pipeline = loaded.pipeline
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_last_layer_that_is_far_from_standard_is_scaled(scale: float):
    unet = make_model(shrunk(SD15), device="cpu").pipeline.unet
    with torch.no_grad():
        for parameter in unet.conv_out.parameters():
            parameter.mul_(scale)
    torch.manual_seed(1)
    assert not 0.1 <= settle_variance(unet) <= 10
    torch.manual_seed(1)
    assert settle_variance(unet) == pytest.approx(1, rel=0.01)


def test_a_last_layer_that_is_near_enough_is_left_alone():
    unet = make_model(shrunk(SD15), device="cpu").pipeline.unet
    before = unet.conv_out.weight.clone()
    assert 0.1 <= settle_variance(unet) <= 10
    assert torch.equal(unet.conv_out.weight, before)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ModelError, match="float8"):
        make_model(SD15, dtype="float8")
