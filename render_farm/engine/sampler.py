"""The one protocol between the farm and whatever makes images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from render_farm.job.request import RenderRequest

SortKey: TypeAlias = tuple[int | float | str | bool, ...]

_COMPILED = "+compiled"
_BATCH_SHAPE = re.compile(r"(?P<batch>[1-9][0-9]*)x[0-9]+x[0-9]+(?P<compiled>\+compiled)?")


@dataclass(frozen=True, slots=True)
class SamplerInfo:
    """What a sampler is, for the metadata of the samples it makes.

    `device` is the device model (``NVIDIA H100 80GB HBM3``, ``cpu: AMD EPYC 9B14 (AVX512)``),
    `dtype` the one in force (``float16``), `engine` is ``steps``, ``call`` or ``rehearsal``,
    `versions` the versions of the libraries that decide the pixels.
    """

    engine: str
    device: str
    dtype: str
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished sample: `pixels` uint8 [height, width, 3], RGB.

    `cut_tokens` counts the prompt's tokens beyond the tokenizer's length, which the model never
    saw. `render_s` is the sample's share of the time its batch took. `batch_shape` is a
    `batch_shape_label`: the full shape computed, padding included.
    """

    request: RenderRequest
    pixels: NDArray[np.uint8]
    batch_shape: str
    render_s: float
    cut_tokens: int = 0
    flags: tuple[str, ...] = ()
    nsfw: bool | None = None


def batch_shape_label(batch_size: int, width: int, height: int, compiled: bool) -> str:
    """The recorded `batch_shape`: ``16x64x64``, or ``16x64x64+compiled`` for a compiled model.

    With device and software it is what decides a picture's last bits.
    """
    return f"{batch_size}x{width}x{height}{_COMPILED if compiled else ''}"


def parse_batch_shape(label: str) -> tuple[int, bool]:
    """The batch size of a recorded `batch_shape`, and whether the model was compiled.

    Raises: `ValueError` for a label that `batch_shape_label` does not write.
    """
    found = _BATCH_SHAPE.fullmatch(label)
    if found is None:
        raise ValueError(f"batch_shape: {label!r} (allowed: 16x64x64, 16x64x64+compiled)")
    return int(found["batch"]), found["compiled"] is not None


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that cannot be rendered, for a reason that is its own."""

    request: RenderRequest
    error_type: str
    error: str


class Sampler(Protocol):
    """Makes images of requests on one device.

    Results do not depend on which requests are rendered together or in which order: for a given
    (device model, software, batch shape) a request always gives the same pixels.
    """

    @property
    def info(self) -> SamplerInfo: ...

    def check(self, request: RenderRequest) -> None:
        """Refuse a request that this model can never render, before any work is done.

        Raises: `RowError`.
        """
        ...

    def order(self, request: RenderRequest) -> SortKey:
        """Requests sorted by this keep the batches full. They can be rendered in any order."""
        ...

    def default_batch_size(self, width: int, height: int) -> int:
        """The batch size to start with for images of this size (px) on this device.

        May measure the device, which takes seconds: ask only where none is settled yet.
        """
        ...

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Render requests lazily, each answered exactly once, in any order.

        Takes no more requests from `requests` than the batches in hand need and a few that are
        looked at ahead, so the caller knows from what was taken and not answered which requests may
        be in flight. Every forward has the
        full shape of `batch_size`: short batches are padded, a failing batch is bisected in
        full padded batches until the requests at fault are alone.

        Raises:
            OutOfMemory: `batch_size` does not fit; what was not answered can be tried again.
            DeviceLost: the process must end.
        """
        ...
