"""Flags of pictures that went wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.engine.checks import picture_flags


def plain(value: int) -> np.ndarray:
    return np.full((64, 64, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("picture", "flags"),
    [
        (plain(0), ("black", "flat")),
        (plain(4), ("black", "flat")),
        (plain(5), ("flat",)),
        (plain(255), ("white", "flat")),
        (plain(128), ("flat",)),
        (np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3), ()),
    ],
)
def test_plain_pictures_are_flagged(picture, flags):
    assert picture_flags(picture) == flags


def test_a_few_odd_pixels_do_not_hide_a_black_picture():
    picture = plain(0)
    picture[0, :20] = 255  # 20 of 4096 pixels: 0.49 %
    assert "black" in picture_flags(picture)
    picture[1, :20] = 255
    assert picture_flags(picture) == ()


def test_a_small_thing_on_a_plain_ground_is_not_flat():
    picture = plain(200)
    picture[20:30, 20:30] = 90  # 2.4 % of the pixels
    assert picture_flags(picture) == ()


def test_noise_of_compression_stays_flat():
    noise = np.random.default_rng(0).integers(-2, 3, (64, 64, 3))
    assert picture_flags((plain(128) + noise).astype(np.uint8)) == ("flat",)


@pytest.mark.parametrize(("apart", "flags"), [(4, ("flat",)), (5, ())])
def test_the_median_of_two_equal_halves_lies_in_the_middle(apart, flags):
    picture = plain(100)
    picture[:, 32:] += apart
    assert picture_flags(picture) == flags


def flags_by_definition(pixels: np.ndarray) -> tuple[str, ...]:
    """As the docstring of `picture_flags` has it; flat needs a look at a few pixels as well."""
    step_y, step_x = (max(1, side // 16) for side in pixels.shape[:2])

    def near_median(part: np.ndarray) -> float:
        flat = part.reshape(-1, 3)
        return float((np.abs(flat - np.median(flat, axis=0)) <= 2).all(axis=1).mean())

    flat = near_median(pixels[::step_y, ::step_x]) >= 0.895 and near_median(pixels) >= 0.995
    found = {
        "black": (pixels <= 4).mean() >= 0.995,
        "white": (pixels >= 251).mean() >= 0.995,
        "flat": flat,
    }
    return tuple(flag for flag, there in found.items() if there)


@given(
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    ground=st.sampled_from([0, 2, 4, 5, 128, 250, 251, 253, 255]),
    noise=st.integers(0, 3),
    odd=st.sampled_from(
        [0.0, 0.003, 0.0045, 0.005, 0.0055, 0.007, 0.02, 0.08, 0.1, 0.105, 0.11, 0.5]
    ),
    seed=st.integers(0, 2**32),
)
def test_the_short_ways_to_a_flag_lead_where_the_definition_does(size, ground, noise, odd, seed):
    rng = np.random.default_rng(seed)
    picture = ground + rng.integers(-noise, noise + 1, (*size, 3))
    odd_pixels = rng.random(size) < odd
    picture[odd_pixels] = rng.integers(0, 256, (int(odd_pixels.sum()), 3))
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    assert picture_flags(pixels) == flags_by_definition(pixels)


def test_what_the_first_look_misses_is_found_by_the_second():
    striped = np.zeros((512, 512, 3), np.uint8)
    striped[1::32] = 255  # the first look takes every 32nd row, from the 0th
    assert picture_flags(striped) == flags_by_definition(striped) == ()


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize(("odd", "flags"), [(26, ("flat",)), (27, ())])
def test_the_first_look_bears_a_tenth_of_odd_pixels_in_any_channel(channel, odd, flags):
    picture = np.full((512, 512, 3), 128, np.uint8)
    places = picture[::32, ::32]  # the 256 that it looks at
    places[np.arange(odd) // 16, np.arange(odd) % 16, channel] = np.arange(odd) % 2 * 255
    assert picture_flags(picture) == flags_by_definition(picture) == flags
