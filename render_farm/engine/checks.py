"""Checks that every engine makes: of requests before the work, of pictures after it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from render_farm.errors import RowError, shown
from render_farm.job.request import RenderRequest
from render_farm.job.seeds import SEED_LIMIT
from render_farm.job.spec import MAX_GUIDANCE, MAX_SIDE_PX

# Thresholds of the flags, in 8-bit values. "flat" means that at least 99.5 % of the picture lies
# within FLAT_RANGE of its median in every channel: a plain colour with compression-like noise.
BLACK_LUMA = 4
WHITE_LUMA = 251
FLAT_RANGE = 2
SHARE = 0.995
SAMPLE_SHARE = 0.895

FAULTS = frozenset({"black", "white", "flat"})
"""The flags of `picture_flags`: such a picture shows nothing."""


def check_request(request: RenderRequest, size_factor: int) -> None:
    """Refuse what no model with this factor between pixels and latents can render.

    Raises: `RowError` ``bad_prompt``, ``bad_size``, ``bad_guidance_scale`` or ``bad_seed``.
    """
    for field in ("prompt", "negative_prompt"):
        text = getattr(request, field)
        if not isinstance(text, str):
            raise RowError("bad_prompt", f"{field}: {shown(text)} (allowed: text)")
    for field in ("width", "height"):
        check_side(field, getattr(request, field), size_factor)
    guidance = request.guidance_scale
    if not (_is_number(guidance) and math.isfinite(guidance) and 0 <= guidance <= MAX_GUIDANCE):
        raise RowError(
            "bad_guidance_scale",
            f"guidance_scale: {shown(guidance)} (allowed: 0 to {MAX_GUIDANCE:g})",
        )
    if not (_is_whole(request.seed) and 0 <= request.seed < SEED_LIMIT):
        raise RowError("bad_seed", f"seed: {shown(request.seed)} (allowed: 0 to {SEED_LIMIT - 1})")


def check_side(field: str, value: int, size_factor: int) -> None:
    """Refuse a width or height (px) that is not a multiple of the factor, or out of bounds.

    Raises: `RowError` ``bad_size``.
    """
    if _is_whole(value) and size_factor <= value <= MAX_SIDE_PX and value % size_factor == 0:
        return
    raise RowError(
        "bad_size",
        f"{field}: {shown(value)} (allowed: multiples of {size_factor} "
        f"from {size_factor} to {MAX_SIDE_PX})",
    )


def picture_flags(pixels: NDArray[np.uint8]) -> tuple[str, ...]:
    """Signs that a picture went wrong: of ``black``, ``white`` and ``flat``, in this order.

    `pixels` is uint8 [H, W, 3]. ``black`` and ``white``: at least 99.5 % of the values are ≤ 4 or
    ≥ 251. ``flat``: at least 99.5 % of the pixels are within 2 of the median in every channel.
    Black and white pictures are usually flat as well.
    """
    flags = []
    if not _has_midtones(pixels):
        if np.count_nonzero(pixels <= BLACK_LUMA) / pixels.size >= SHARE:
            flags.append("black")
        if np.count_nonzero(pixels >= WHITE_LUMA) / pixels.size >= SHARE:
            flags.append("white")
    if _is_flat(pixels):
        flags.append("flat")
    return tuple(flags)


def faults(flags: Iterable[str]) -> tuple[str, ...]:
    """Of a picture's flags those that make it a failure; the others are information."""
    return tuple(flag for flag in flags if flag in FAULTS)


def _has_midtones(pixels: NDArray[np.uint8]) -> bool:
    """Whether a few rows hold more values between black and white than a picture of either may.

    Nearly every picture is told by that; the others are looked at whole.
    """
    sample = pixels[:: max(1, pixels.shape[0] // 16)]
    # What is below wraps around to above: one comparison does for both ends.
    shifted = sample - np.uint8(BLACK_LUMA + 1)
    midtones = np.count_nonzero(shifted < WHITE_LUMA - BLACK_LUMA - 1)
    return bool((pixels.size - midtones) / pixels.size < SHARE)


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    # Nearly every picture is told apart by a few hundred pixels; only what these leave open
    # is looked at whole, which costs milliseconds.
    sample = pixels[:: max(1, pixels.shape[0] // 16), :: max(1, pixels.shape[1] // 16)]
    if _is_spread(sample[..., 0]):
        return False
    return _share_near_median(sample) >= SAMPLE_SHARE and _share_near_median(pixels) >= SHARE


def _is_spread(values: NDArray[np.uint8]) -> bool:
    """Whether one channel shows already that less than `SAMPLE_SHARE` are near the median.

    Were they, then without as many values at either end as may be far from the median the rest
    would all be near it.
    """
    far = int(values.size * (1 - SAMPLE_SHARE)) + 1
    if values.size < 4 * far:
        return False  # too few to say
    ends = np.partition(values.ravel(), (far, values.size - 1 - far))
    return int(ends[values.size - 1 - far]) - int(ends[far]) > 2 * FLAT_RANGE


def _share_near_median(pixels: NDArray[np.uint8]) -> float:
    """The share of pixels within `FLAT_RANGE` of the median in every channel.

    The median of an even number of values may end in a half: all is compared at twice its size.
    """
    channels = np.ascontiguousarray(pixels.reshape(-1, 3).T)  # [3, pixels]
    count = channels.shape[1]
    middle = [(count - 1) // 2, count // 2]
    ordered = np.partition(channels, middle, axis=1)
    twice_median = ordered[:, middle].sum(axis=1, dtype=np.int16)  # [3]
    near = np.abs(channels * np.int16(2) - twice_median[:, None]) <= 2 * FLAT_RANGE
    return float(np.count_nonzero(near[0] & near[1] & near[2]) / count)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
