"""A request: one sample to render, fully resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from render_farm.job.spec import ONLY_MODEL


def sample_key(row: int, sample: int) -> str:
    """The name of a sample in the result: row, nine digits, and sample, two."""
    return f"{row:09d}_{sample:02d}"


class Kind(NamedTuple):
    """What samples must share to be rendered together: the model's name, and the size in px."""

    model: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """One sample of one row, with every parameter decided.

    `row` is the row's ordinal in the whole dataset, `sample` counts the images of that row from
    0, `seed` is in 0…2^63−1 and belongs to this sample alone. `width` and `height` are pixels.
    `scheduler` is ``model`` or a name of `render_farm.engine.schedulers`. `model` is a name among
    the job's models, `ONLY_MODEL` where it has one without a name.
    """

    row: int
    sample: int
    id: str | None
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    model: str = ONLY_MODEL

    @property
    def kind(self) -> Kind:
        """What a sample must share with this one to be rendered together with it."""
        return Kind(self.model, self.width, self.height)

    @property
    def key(self) -> str:
        """The sample's name in the result."""
        return sample_key(self.row, self.sample)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the prompt dataset as it was read.

    `columns` holds the columns of the input as Python values; `row_in_file` counts within
    `file`, the path relative to the dataset's root folder.
    """

    row: int
    file: str
    row_in_file: int
    columns: Mapping[str, Any]
