"""A published model, but tiny: the same classes and keys, a thousandth of the size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.engine.bench.made import make_model
from render_farm.engine.bench.published import SD15, SDXL, Published
from render_farm.engine.model import LoadedPipeline

TINY_UNET = {
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "sample_size": 8,
}
TINY_VAE = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "projection_dim": 32,
    "vocab_size": 1000,
}


def shrunk(published: Published) -> Published:
    """The published model with narrow layers."""
    xl = len(published.texts) > 1
    unet = {**published.unet, **TINY_UNET}
    unet["block_out_channels"] = [16, 16, 32] if xl else [16, 16, 32, 32]
    unet["attention_head_dim"] = [2, 2, 4] if xl else 4
    if xl:
        unet |= {"cross_attention_dim": 64, "addition_time_embed_dim": 8}
        unet |= {"projection_class_embeddings_input_dim": 6 * 8 + 32}
        unet["transformer_layers_per_block"] = 1
    return replace(
        published,
        unet=unet,
        vae={**published.vae, **TINY_VAE},
        texts=tuple({**text, **TINY_TEXT} for text in published.texts),
    )


@pytest.fixture(scope="session")
def tiny_sd15() -> LoadedPipeline:
    return make_model(shrunk(SD15), device="cpu")


@pytest.fixture(scope="session")
def tiny_sdxl() -> LoadedPipeline:
    return make_model(shrunk(SDXL), device="cpu")
