"""Latents become pixels in batches of one shape, and an overflow of float16 is made good."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from render_farm.engine.decoder import VAE_FLOAT32, Decoder, decode_batch_size
from render_farm.engine.pictures import Made, Picture, answer
from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.steps import StepSampler
from tests.engine.conftest import REQUEST
from tests.models.folders import vae

CPU = torch.device("cpu")
LOUD = 3000.0
"""Latents that a VAE of `fragile` cannot decode in float16: 65504 is the end there."""


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return vae().state_dict()


def made(weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    model = vae().eval()
    model.load_state_dict(weights)
    return model.to(dtype)


def fragile(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> AutoencoderKL:
    """A VAE that is loud inside before it is made quiet by a normalization."""
    louder = {"decoder.conv_in.weight": weights["decoder.conv_in.weight"] * 400}
    return made(weights | louder, dtype)


def latents(count: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    noise = torch.randn(count, 4, 4, 6, generator=torch.Generator().manual_seed(9))
    return list(noise.to(dtype).split(1))


def decoded(decoder: Decoder, some: list[torch.Tensor], batch_size: int) -> list[Picture]:
    with torch.inference_mode():
        return decoder.finish(decoder.begin(some, batch_size))


def stock(model: Any, one: torch.Tensor) -> np.ndarray:
    """Decoded as the stock pipeline does, [H, W, 3], whole numbers from 0 to 255."""
    with torch.inference_mode():
        image = model.decode(one.to(model.dtype) / model.config.scaling_factor).sample
    image = (image.float() / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0)
    return np.round(image.numpy() * 255).astype(int)


def counting(model: AutoencoderKL) -> list[tuple[int, torch.dtype]]:
    """Pictures and dtype of every decoding; copies of the model add to the same list."""
    seen: list[tuple[int, torch.dtype]] = []
    model.post_quant_conv.register_forward_pre_hook(
        lambda _module, inputs: seen.append((len(inputs[0]), inputs[0].dtype))
    )
    return seen


def test_pixels_are_those_of_the_stock_pipeline(weights):
    reference = made(weights)
    some = latents(3)
    for one, picture in zip(some, decoded(Decoder(made(weights), CPU), some, 4), strict=True):
        assert picture.pixels.shape == (32, 48, 3)
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.flags["C_CONTIGUOUS"]
        assert np.abs(picture.pixels - stock(reference, one)).max() <= 1
        assert picture.sound
        assert picture.flags == ()


def test_latents_with_a_mean_and_a_spread_are_brought_back_to_them(weights):
    mean, std = [0.5, -1.0, 0.0, 2.0], [2.0, 0.5, 1.0, 3.0]
    model = made(weights)
    model.register_to_config(latents_mean=mean, latents_std=std)
    (one,) = latents(1)
    (picture,) = decoded(Decoder(model, CPU), [one], 1)
    shifted = one * torch.tensor(std).view(1, 4, 1, 1)
    shifted += torch.tensor(mean).view(1, 4, 1, 1) * model.config.scaling_factor
    assert np.abs(picture.pixels - stock(made(weights), shifted)).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_picture_is_the_same_beside_any_other_in_any_lane(weights, batch_size):
    model = made(weights)
    seen = counting(model)
    decoder = Decoder(model, CPU)
    some = latents(batch_size)
    together = decoded(decoder, some, batch_size)
    turned = decoded(decoder, some[::-1], batch_size)[::-1]
    for one, picture, again in zip(some, together, turned, strict=True):
        (alone,) = decoded(decoder, [one], batch_size)
        assert picture.pixels.tobytes() == again.pixels.tobytes() == alone.pixels.tobytes()
    assert {count for count, _ in seen} == {batch_size}


def test_an_overflow_in_float16_is_decoded_in_float32_and_said(weights):
    model = fragile(weights, torch.float16)
    seen = counting(model)
    decoder = Decoder(model, CPU)
    some = latents(3, torch.float16)
    quiet = decoded(decoder, some, 4)
    assert [picture.flags for picture in quiet] == [()] * 3
    assert set(seen) == {(4, torch.float16)}
    some[1] = some[1] * LOUD
    pictures = decoded(decoder, some, 4)
    assert [picture.flags for picture in pictures] == [(), (VAE_FLOAT32,), ()]
    assert all(picture.sound for picture in pictures)
    right = stock(copy.deepcopy(model).float(), some[1].float())
    assert np.abs(pictures[1].pixels - right).max() <= 1
    assert pictures[1].pixels.std() > 5
    for lane in (0, 2):
        assert pictures[lane].pixels.tobytes() == quiet[lane].pixels.tobytes()
    assert seen[-1] != (4, torch.float16)
    assert (4, torch.float32) in seen


def test_a_vae_that_is_known_to_overflow_is_in_float32_from_the_start(weights):
    model = fragile(weights, torch.float16)
    right = stock(copy.deepcopy(model).float(), latents(1, torch.float16)[0].float())
    seen = counting(model)
    pictures = decoded(Decoder(model, CPU, overflows=True), latents(2, torch.float16), 2)
    assert set(seen) == {(2, torch.float32)}
    assert [picture.flags for picture in pictures] == [(VAE_FLOAT32,)] * 2
    assert np.abs(pictures[0].pixels - right).max() <= 1


def test_a_vae_in_float32_is_not_said_to_overflow(weights):
    (picture,) = decoded(Decoder(made(weights), CPU, overflows=True), latents(1), 1)
    assert picture.flags == ()


def test_what_was_decoded_in_float32_depends_on_no_neighbour_either(weights):
    decoder = Decoder(fragile(weights, torch.float16), CPU)
    one, two = (each * LOUD for each in latents(2, torch.float16))
    together = decoded(decoder, [one, two], 2)
    alone = [decoded(decoder, [each], 2)[0] for each in (one, two)]
    assert [p.pixels.tobytes() for p in together] == [p.pixels.tobytes() for p in alone]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_numbers_are_not_decoded_again(weights, dtype, value):
    model = made(weights, dtype)
    seen = counting(model)
    some = latents(2, dtype)
    clean = decoded(Decoder(model, CPU), some, 2)
    spoilt = [some[0], some[1].clone()]
    spoilt[1][0, 2, 1, 1] = value
    seen.clear()
    pictures = decoded(Decoder(model, CPU), spoilt, 2)
    assert [picture.sound for picture in pictures] == [True, False]
    assert pictures[0].pixels.tobytes() == clean[0].pixels.tobytes()
    assert seen == [(2, dtype)]


def test_infinite_latents_behind_a_sound_looking_picture_are_found(weights):
    model = made(weights)
    model.decoder.register_forward_hook(lambda _module, _inputs, image: torch.nan_to_num(image))
    one, other = latents(2)
    other[0, 0, 0, 0] = float("inf")
    pictures = decoded(Decoder(model, CPU), [one, other], 2)
    assert [picture.sound for picture in pictures] == [True, False]


def test_an_overflow_in_another_dtype_is_not_decoded_again(weights):
    model = made(weights | {"decoder.conv_out.bias": torch.full((3,), float("inf"))})
    seen = counting(model)
    (picture,) = decoded(Decoder(model, CPU), latents(1), 1)
    assert not picture.sound
    assert seen == [(1, torch.float32)]


def test_what_float32_cannot_decode_either_is_refused(weights):
    spoilt = {"decoder.conv_out.bias": torch.full((3,), float("inf"))}
    (picture,) = decoded(Decoder(made(weights | spoilt, torch.float16), CPU), latents(1), 1)
    assert not picture.sound
    asked = Made("1x48x32", 1.0, 0, torch.float16)
    refused = answer(REQUEST, picture, asked)
    assert isinstance(refused, Refused)
    assert refused.error_type == "non_finite"
    assert "float16" in refused.error


def test_the_flag_reaches_the_answer_and_is_no_fault_of_the_picture(load_model):
    loaded = load_model("demo", dtype="float16")
    with torch.no_grad():
        loaded.pipeline.vae.decoder.conv_in.weight.mul_(1e4).clamp_(-6e4, 6e4)
    request = replace(REQUEST, width=16, height=16)
    (done,) = StepSampler(loaded).render([request], 2)
    assert isinstance(done, Rendered)
    assert done.flags == (VAE_FLOAT32,)


@pytest.mark.parametrize(
    ("batch_size", "side_px", "at_once"),
    [
        (1, 512, 1),
        (2, 512, 2),
        (3, 512, 2),
        (8, 512, 8),
        (64, 512, 8),
        (64, 64, 16),
        (12, 64, 8),
        (8, 768, 2),
        (8, 1024, 2),
        (8, 8192, 1),
    ],
)
def test_few_pictures_are_decoded_at_once(batch_size, side_px, at_once):
    assert decode_batch_size(batch_size, side_px, side_px) == at_once
