"""Pixels to bytes and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from render_farm.output.codecs import EXTENSIONS, as_image, decode, encode, luma
from render_farm.output.corrupt import CorruptFile

RAMP = np.stack(np.meshgrid(np.arange(0, 256, 4), np.arange(0, 256, 8)), axis=-1).astype(np.uint8)
PIXELS = np.concatenate([RAMP, RAMP[..., :1] // 2], axis=-1)

each_format = pytest.mark.parametrize("image_format", EXTENSIONS)


@each_format
def test_a_picture_comes_back_at_its_size_and_the_same_bytes_come_twice(image_format):
    encoded = encode(as_image(PIXELS), image_format, 95)
    assert encoded == encode(as_image(PIXELS[::-1][::-1]), image_format, 95)
    error = np.abs(decode(encoded).astype(int) - PIXELS.astype(int))
    assert error.mean() < (0.01 if image_format == "png" else 3)
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == image_format.upper()
        assert not image.getexif()


def test_png_is_exact():
    assert (decode(encode(as_image(PIXELS), "png", 1)) == PIXELS).all()


def test_jpeg_keeps_full_chroma():
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    assert np.abs(decode(encode(as_image(stripes), "jpeg", 95)).astype(int) - stripes).mean() < 12


@each_format
def test_cut_off_or_foreign_bytes_are_told_by_name(image_format):
    encoded = encode(as_image(PIXELS), image_format, 95)
    for broken in (encoded[: len(encoded) // 2], encoded[:20], b"", b"GIF89a" + encoded):
        with pytest.raises(CorruptFile, match=r"^000000001_00: not a whole picture"):
            decode(broken, "000000001_00")


def test_a_flipped_bit_in_a_png_is_seen():
    encoded = bytearray(encode(as_image(PIXELS), "png", 95))
    for position in range(40, len(encoded) - 12, max(1, len(encoded) // 20)):
        encoded[position] ^= 4
        with pytest.raises(CorruptFile):
            decode(bytes(encoded))
        encoded[position] ^= 4
    assert decode(bytes(encoded)).shape == PIXELS.shape


def test_a_picture_that_is_not_rgb_is_refused():
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    with pytest.raises(CorruptFile, match="mode is L"):
        decode(buffer.getvalue())


@pytest.mark.parametrize(
    ("pixels", "image_format", "quality", "message"),
    [
        (PIXELS.astype(np.float32), "png", 90, "allowed: uint8"),
        (PIXELS[..., 0], "png", 90, "allowed: uint8"),
        (PIXELS[:0], "png", 90, "allowed: uint8"),
        (PIXELS, "jpeg", 0, "quality: 0"),
        (PIXELS, "jpeg", 101, "quality: 101"),
        (PIXELS, "gif", 90, "image format: 'gif'"),
        (np.zeros((1, 16384, 3), np.uint8), "webp", 90, "16384x1 px cannot be encoded as webp"),
    ],
)
def test_what_cannot_be_encoded_is_refused(pixels, image_format, quality, message):
    with pytest.raises(ValueError, match=message):
        encode(as_image(pixels), image_format, quality)


def test_luma_is_rec_601_in_0_to_255():
    flat = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    assert luma(as_image(flat)) == (76.0, 0.0)
    assert luma(as_image(np.full((8, 8, 3), 255, np.uint8))) == (255.0, 0.0)
    halves = np.zeros((2, 8, 3), np.uint8)
    halves[1] = 255
    assert luma(as_image(halves)) == (127.5, 127.5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255), st.integers(0, 2**32))
def test_luma_is_exact_to_the_last_bit(height, width, brightest, seed):
    pixels = np.random.default_rng(seed).integers(0, brightest + 1, (height, width, 3), np.uint8)
    red, green, blue = (channel.astype(int) for channel in np.moveaxis(pixels, -1, 0))
    values = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).ravel().tolist()
    total, first, second = len(values), sum(values), sum(value * value for value in values)
    deviation = ((total * second - first * first) / (total * total)) ** 0.5
    assert luma(as_image(pixels)) == (first / total, deviation)
    assert luma(as_image(pixels[:, ::-1])) == (first / total, deviation)


def test_luma_of_a_large_picture_does_not_overflow():
    assert luma(as_image(np.full((8192, 4096, 3), 255, np.uint8))) == (255.0, 0.0)
