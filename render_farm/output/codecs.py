"""Pixels to image bytes and back.

The bytes depend on pixels, format, quality and the codec libraries' versions, on nothing else:
no timestamps, no text chunks, no profiles.

The choices, with timings of a 512² picture on one core:

- ``png``: zlib's run-length strategy, which every level treats alike. A photograph takes 16 ms,
  with level 6 67 ms for 10 % fewer bytes, as much as a fast GPU takes for the picture; with level
  1 it takes 20. `quality` has no meaning: PNG is lossless.
- ``jpeg``: baseline, 4:4:4. Subsampled chroma halves the time (1.4 against 0.7 ms) and takes a
  third off the bytes, and blurs saturated edges, which is what generated pictures are rich in.
- ``webp``: lossy at every quality, method 4 (21 ms); method 6 doubles the time to
  save 8 % of the bytes.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from render_farm.output.corrupt import CorruptFile

ImageFormat: TypeAlias = Literal["png", "jpeg", "webp"]

EXTENSIONS: Final[dict[ImageFormat, str]] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""The file name extension of each format, as webdataset's and other readers know it."""

_VALUES: Final = np.arange(256, dtype=np.int64)
_SQUARES: Final = _VALUES**2

_NOT_DECODABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """A copy of uint8 [height, width, 3] RGB, for `encode` and `luma`.

    Raises: ValueError, for another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels: {pixels.dtype} {pixels.shape} (allowed: uint8 [H, W, 3])")
    height, width, _ = pixels.shape
    return Image.frombytes("RGB", (width, height), np.ascontiguousarray(pixels).data)


def encode(image: Image.Image, image_format: ImageFormat, quality: int) -> bytes:
    """Encode a picture; `quality` is 1–100 and not used by ``png``.

    Raises:
        ValueError: an unknown format, a quality outside 1–100, or a side that the format cannot
            hold (WebP ends at 16383 px, JPEG at 65500).
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: {quality} (allowed: 1 to 100)")
    options = _options(image_format, quality)
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=image_format.upper(), **options)
    except (OSError, ValueError) as error:
        size = f"{image.width}x{image.height} px"
        raise ValueError(f"{size} cannot be encoded as {image_format}") from error
    return buffer.getvalue()


def decode(data: bytes, name: str = "image") -> NDArray[np.uint8]:
    """Decode png, jpeg or webp bytes into uint8 [height, width, 3] RGB.

    PNG chunks are held against their CRCs. JPEG and WebP have no checksum: altered bytes that
    still parse are found by the sha256 of the metadata only.

    Raises:
        CorruptFile: the bytes are not a whole RGB picture of one of the formats; `name` is in it.
    """
    formats = [image_format.upper() for image_format in EXTENSIONS]
    try:
        Image.open(io.BytesIO(data), formats=formats).verify()
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.mode != "RGB":
                raise CorruptFile(name, f"the picture's mode is {image.mode}, not RGB")
            return np.asarray(image, dtype=np.uint8)
    except _NOT_DECODABLE as error:
        raise CorruptFile(name, f"not a whole picture ({len(data)} bytes): {error}") from error


def luma(image: Image.Image) -> tuple[float, float]:
    """Mean and standard deviation of a picture's luma, each in 0…255.

    Luma is ITU-R BT.601 (0.299 R + 0.587 G + 0.114 B), rounded to whole numbers per pixel, and
    summed as integers: the result is the same on every machine.
    """
    counts = np.array(image.convert("L").histogram(), dtype=np.int64)
    total = image.width * image.height
    first, second = int(counts @ _VALUES), int(counts @ _SQUARES)
    variance = (total * second - first * first) / (total * total)
    return first / total, variance**0.5


def _options(image_format: ImageFormat, quality: int) -> dict[str, Any]:
    if image_format == "png":
        return {"compress_type": zlib.Z_RLE}
    if image_format == "jpeg":
        return {"quality": quality, "subsampling": 0}
    if image_format == "webp":
        return {"quality": quality, "method": 4, "lossless": False}
    raise ValueError(f"image format: {image_format!r} (allowed: {', '.join(EXTENSIONS)})")
