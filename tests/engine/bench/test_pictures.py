"""Where both sides leave their pictures."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.engine.bench.pictures import Pictures, Pixels, largest_difference


def grey(level: int) -> Pixels:
    return np.full((2, 2, 3), level, np.uint8)


def test_every_picture_is_encoded_before_the_block_ends():
    encoded: list[int] = []

    def encode(pixels: Pixels) -> bytes:
        encoded.append(int(pixels[0, 0, 0]))
        return b"x"

    with Pictures(encode) as pictures:
        for row in range(20):
            pictures.take(row, grey(row))
    assert sorted(encoded) == list(range(20))


def test_a_picture_that_cannot_be_encoded_is_an_error():
    def encode(pixels: Pixels) -> bytes:
        raise ValueError("no such codec")

    pictures = Pictures(encode)
    with pytest.raises(ValueError, match="no such codec"), pictures:
        pictures.take(0, grey(0))


def test_pixels_are_kept_of_the_rows_asked_for_only():
    with Pictures(keep={3, 5}) as pictures:
        for row in range(8):
            pictures.take(row, grey(row))
    assert pictures.kept.keys() == {3, 5}


def test_the_largest_difference_is_over_the_rows_of_both():
    some = {1: grey(10), 2: grey(250), 3: grey(0)}
    assert largest_difference(some, {1: grey(12), 2: grey(1), 4: grey(9)}) == 249
    assert largest_difference(some, {4: grey(9)}) == 0
    assert largest_difference(some, dict(some)) == 0
