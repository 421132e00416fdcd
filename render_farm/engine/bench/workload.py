"""What is rendered while it is measured: rows of one setting, or of many, in random order.

Pure: the same arguments give the same rows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from render_farm.job.request import RenderRequest

SIZES = ("small", "large")
COLOURS = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black"]
SHAPES = ["circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond"]
PLACES = (
    "in the center",
    "at the top",
    "at the bottom",
    "at the left",
    "at the right",
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
)
WORDS = " ".join([*SIZES, *COLOURS, *SHAPES, *PLACES, "a on background"]).split()

MIXED_STEPS = (10, 20, 30, 40, 50)
MIXED_GUIDANCE = (1.0, 3.0, 5.0, 7.0, 9.0)
MIXED_SCHEDULERS = ("ddim", "euler", "dpmpp-2m")
MOST_BATCHES_A_SETTING = 4
USUAL_MIXED_ROWS = 1200


@dataclass(frozen=True, slots=True)
class Setting:
    """What the rows of one call of a stock pipeline share, beside their size."""

    steps: int
    guidance_scale: float
    scheduler: str


MIXED = tuple(
    Setting(*each) for each in itertools.product(MIXED_STEPS, MIXED_GUIDANCE, MIXED_SCHEDULERS)
)


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of pictures, px."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def uniform_rows(count: int, size: Size, setting: Setting, first: int = 0) -> list[RenderRequest]:
    """`count` rows of one setting from row `first` on, with distinct prompts and seeds."""
    return _rows([setting] * count, size, first)


def most_mixed_rows(batch: int) -> int:
    """How many rows a mixed workload has at most."""
    return len(MIXED) * MOST_BATCHES_A_SETTING * batch


def mixed_rows(
    size: Size, batch: int, count: int | None = None, first: int = 0
) -> list[RenderRequest]:
    """Rows of 75 settings in random order, of each at most four times `batch`.

    Another `first` row means other prompts and seeds, and the same settings in the same order.

    `count` rows, `USUAL_MIXED_ROWS` unless there cannot be so many, are drawn over the settings,
    each as likely as the others.

    Raises: `ValueError` when there cannot be so many.
    """
    draw = random.Random(0)  # noqa: S311 - to be repeated, not to be secret
    most = MOST_BATCHES_A_SETTING * batch
    if count is None:
        count = min(USUAL_MIXED_ROWS, most_mixed_rows(batch))
    if not 1 <= count <= most_mixed_rows(batch):
        raise ValueError(f"count: {count} (allowed: 1 to {most_mixed_rows(batch)})")
    settings: list[Setting] = []
    open_settings = dict.fromkeys(MIXED, most)
    while len(settings) < count:
        chosen = draw.choice(tuple(open_settings))
        settings.append(chosen)
        open_settings[chosen] -= 1
        if not open_settings[chosen]:
            del open_settings[chosen]
    return _rows(settings, size, first)


def setting_of(row: RenderRequest) -> Setting:
    """The setting of a row."""
    return Setting(row.steps, row.guidance_scale, row.scheduler)


def by_setting(rows: Iterable[RenderRequest]) -> list[list[RenderRequest]]:
    """Rows grouped by setting: groups in the order of their first rows, each in its rows' order."""
    groups: dict[Setting, list[RenderRequest]] = {}
    for row in rows:
        groups.setdefault(setting_of(row), []).append(row)
    return list(groups.values())


def prompts(count: int) -> list[str]:
    """Distinct sentences of nine to thirteen words, in an order that mixes all of them."""
    scenes = list(itertools.product(SIZES, COLOURS, SHAPES, PLACES, COLOURS))
    random.Random(0).shuffle(scenes)  # noqa: S311
    texts = [
        f"a {size} {colour} {shape} {place} on a {ground} background"
        for size, colour, shape, place, ground in scenes[:count]
    ]
    rounds = -(-count // len(texts)) if texts else 0
    again = (f"{text} {number}" for number in range(2, rounds + 1) for text in texts)
    return list(itertools.islice(itertools.chain(texts, again), count))


def _rows(settings: Sequence[Setting], size: Size, first: int) -> list[RenderRequest]:
    texts = prompts(first + len(settings))[first:]
    return [
        RenderRequest(
            row=number,
            sample=0,
            id=None,
            prompt=prompt,
            negative_prompt="",
            seed=number,
            width=size.width,
            height=size.height,
            steps=setting.steps,
            guidance_scale=setting.guidance_scale,
            scheduler=setting.scheduler,
        )
        for number, (prompt, setting) in enumerate(zip(texts, settings, strict=True), first)
    ]
