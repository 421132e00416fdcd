"""Rerolls: a sample whose picture was not wanted is rendered again, from the next seed.

Which seed that is depends on the sample alone, so a rerolled picture can be made again anywhere,
as every other. Its metadata hold the seed it was made with and a flag that says which reroll.
"""

from __future__ import annotations

from dataclasses import replace

from render_farm.job.request import RenderRequest
from render_farm.job.seeds import reroll_seed

MOST_REROLLS = 3
"""After as many further seeds it is the prompt or the model, not chance."""

_FLAG = "reroll:"


def rerolled(request: RenderRequest, reroll: int) -> RenderRequest:
    """The request of the `reroll`-th reroll of a sample; 0 is the sample's own `request`."""
    return request if reroll == 0 else replace(request, seed=reroll_seed(request.seed, reroll))


def reroll_flags(reroll: int) -> tuple[str, ...]:
    """What the `reroll`-th reroll adds to its picture's flags: ``reroll:1``, and nothing for 0."""
    return () if reroll == 0 else (f"{_FLAG}{reroll}",)


def recorded_reroll(request: RenderRequest, seed: int, flags: tuple[str, ...]) -> int | None:
    """Which reroll of `request` a picture with this recorded seed and these flags is.

    0 is the sample's own seed. None: there is no such reroll, or seed and flags disagree.
    """
    told = tuple(flag for flag in flags if flag.startswith(_FLAG))
    for reroll in range(MOST_REROLLS + 1):
        if rerolled(request, reroll).seed == seed:
            return reroll if told == reroll_flags(reroll) else None
    return None
