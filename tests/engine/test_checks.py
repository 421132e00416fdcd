"""Flags of pictures that went wrong."""

from __future__ import annotations

import numpy as np
import pytest

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
