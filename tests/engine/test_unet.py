"""The U-Net in lanes predicts what diffusers' own forward predicts, for every kind we step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from render_farm.engine.conditioning import Embedding
from render_farm.engine.denoiser import Denoiser
from render_farm.errors import ModelError

CPU = torch.device("cpu")
TOKENS, TEXT, POOLED = 5, 16, 12

BASE: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": TEXT,
    "norm_num_groups": 4,
}
XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
}
THREE: dict[str, Any] = {
    "block_out_channels": (16, 16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
KINDS: dict[str, dict[str, Any]] = {
    "text from the first block on": {},
    "text from the second block on": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "text in the middle only": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    },
    "Stable Diffusion 2": {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "XL": {**THREE, **XL, "transformer_layers_per_block": (1, 1, 2), "use_linear_projection": True},
    "three levels": THREE,
    "two layers a block": {"layers_per_block": 2},
    "no middle": {"mid_block_type": None},
    "a middle without text": {"mid_block_type": "UNetMidBlock2D"},
    "cosine first": {"flip_sin_to_cos": False, "freq_shift": 1},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
}


def pair(kind: str) -> tuple[UNet2DConditionModel, Denoiser]:
    """A U-Net as it is, and a denoiser with the same weights."""
    torch.manual_seed(4)
    stock = UNet2DConditionModel(**{**BASE, **KINDS[kind]}).eval()
    taken = UNet2DConditionModel(**{**BASE, **KINDS[kind]}).eval()
    taken.load_state_dict(stock.state_dict())
    return stock, Denoiser(taken, CPU)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def embeddings(count: int, pooled: bool) -> list[Embedding]:
    return [Embedding(drawn(TOKENS, TEXT), drawn(POOLED) if pooled else None) for _ in range(count)]


def predicted_by_stock(
    stock: UNet2DConditionModel, latents: torch.Tensor, timestep: float, told: Embedding
) -> torch.Tensor:
    height, width = (8 * side for side in latents.shape[-2:])
    added = None
    if told.pooled is not None:
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        added = {"text_embeds": told.pooled[None], "time_ids": ids}
    return stock(
        latents,
        timestep,
        encoder_hidden_states=told.hidden[None],
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [(8, 8), (4, 12), (5, 7), (9, 13)], ids=str)
@torch.inference_mode()
def test_every_lane_predicts_what_diffusers_predicts_for_it_alone(kind, side):
    stock, denoiser = pair(kind)
    told = embeddings(6, pooled="addition_embed_type" in KINDS[kind])
    lanes = denoiser.lanes(6, told[0], 8 * side[1], 8 * side[0])
    for lane, each in enumerate(told):
        lanes.fill(lane, denoiser.context(each), each.pooled)
    for pictures, owners in ((3, [0, 0, 1, 1, 2, 2]), (3, [2, 0, 1, 0, 0, 1]), (6, [*range(6)])):
        latents = drawn(pictures, 4, *side)
        timesteps = [1.0, 981.0, 333.5, 20.0, 7.0, 640.0][:pictures]
        got = denoiser.predict(latents, torch.tensor(timesteps), torch.tensor(owners), lanes)
        assert got.shape == (6, 4, *side)
        for lane, owner in enumerate(owners):
            expected = predicted_by_stock(
                stock, latents[owner : owner + 1], timesteps[owner], told[lane]
            )
            torch.testing.assert_close(got[lane : lane + 1], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_lane_that_is_filled_anew_forgets_what_was_in_it():
    _, denoiser = pair("XL")
    one, other = embeddings(2, pooled=True)
    latents, timesteps, owners = drawn(1, 4, 8, 8), torch.tensor([500.0]), torch.tensor([0, 0])
    lanes = denoiser.lanes(2, one, 64, 64)
    before = denoiser.predict(latents, timesteps, owners, lanes)
    lanes.fill(1, denoiser.context(other), other.pooled)
    between = denoiser.predict(latents, timesteps, owners, lanes)
    assert torch.equal(between[0], before[0])
    assert not torch.allclose(between[1], before[1], atol=1e-3)
    lanes.fill(1, denoiser.context(one), one.pooled)
    assert torch.equal(denoiser.predict(latents, timesteps, owners, lanes), before)


@torch.inference_mode()
def test_the_part_before_any_text_is_computed_once_a_picture():
    seen = []
    torch.manual_seed(4)
    unet = UNet2DConditionModel(**{**BASE, **KINDS["text from the second block on"]}).eval()
    unet.conv_in.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    unet.down_blocks[0].register_forward_pre_hook(
        lambda _module, _inputs, more: seen.append(len(more["hidden_states"])), with_kwargs=True
    )
    denoiser = Denoiser(unet, CPU)
    lanes = denoiser.lanes(8, embeddings(1, pooled=False)[0], 64, 64)
    owners = torch.arange(8) // 2
    denoiser.predict(drawn(4, 4, 8, 8), torch.full((4,), 9.0), owners, lanes)
    # in halves, so that one picture more does not cost as much as four
    assert seen == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
        {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")},
    ],
    ids=str,
)
def test_attention_of_another_kind_is_refused(changes):
    unet = UNet2DConditionModel(**{**BASE, **changes})
    with pytest.raises(ModelError, match="not as in the U-Net of a Stable Diffusion"):
        Denoiser(unet, CPU)
