"""Pictures as they come from a model, and what both engines answer about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from render_farm.engine.checks import picture_flags
from render_farm.engine.safety import SafetyChecker
from render_farm.engine.sampler import Refused, Rendered
from render_farm.job.request import RenderRequest

Answer = Rendered | Refused


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, uint8 [height, width, 3] in RGB.

    `sound` is false where latents or pixels were NaN or infinite. `flags` say what was particular
    about making it; `nsfw` what the safety checker says, None where none was asked.
    """

    pixels: NDArray[np.uint8]
    sound: bool
    flags: tuple[str, ...] = ()
    nsfw: bool | None = None


def inspected(pictures: Sequence[Picture], safety: SafetyChecker | None) -> list[Picture]:
    """The pictures with the verdicts of the model's safety checker, if there is one.

    All of a full batch: the checker's bits depend on the number of pictures too.
    """
    if safety is None:
        return list(pictures)
    verdicts = safety.check(np.stack([picture.pixels for picture in pictures]))
    return [replace(p, nsfw=nsfw) for p, nsfw in zip(pictures, verdicts, strict=True)]


@dataclass(frozen=True, slots=True)
class Made:
    """How a picture was made: the recorded shape, its share of the time, its cut tokens."""

    batch_shape: str
    render_s: float
    cut_tokens: int
    dtype: str


def answer(request: RenderRequest, picture: Picture, made: Made) -> Answer:
    """A picture becomes a sample, or is refused when it is not a number."""
    if not picture.sound:
        return Refused(
            request,
            "non_finite",
            f"the model returned NaN or infinity in {made.dtype}; bfloat16 or float32 "
            "may render it",
        )
    return Rendered(
        request=request,
        pixels=picture.pixels,
        batch_shape=made.batch_shape,
        render_s=made.render_s,
        cut_tokens=made.cut_tokens,
        flags=(*picture_flags(picture.pixels), *picture.flags),
        nsfw=picture.nsfw,
    )
