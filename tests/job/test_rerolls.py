"""Which request a reroll is, and which reroll a recorded picture was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.job.request import RenderRequest
from render_farm.job.rerolls import MOST_REROLLS, recorded_reroll, reroll_flags, rerolled
from render_farm.job.seeds import reroll_seed

REQUEST = RenderRequest(7, 1, "a", "p", "n", 42, 64, 32, 4, 7.5, "model")


def test_a_reroll_differs_by_its_seed_alone() -> None:
    assert rerolled(REQUEST, 0) == REQUEST
    again = rerolled(REQUEST, 2)
    assert again == replace(REQUEST, seed=reroll_seed(42, 2))
    assert again.key == REQUEST.key


@pytest.mark.parametrize("reroll", range(MOST_REROLLS + 1))
def test_a_recorded_picture_is_known_by_its_seed_and_its_flag(reroll: int) -> None:
    flags = ("vae_float32", *reroll_flags(reroll))
    assert recorded_reroll(REQUEST, rerolled(REQUEST, reroll).seed, flags) == reroll


@pytest.mark.parametrize(
    ("seed", "flags"),
    [
        (41, ()),
        (42, ("reroll:1",)),
        (reroll_seed(42, 1), ()),
        (reroll_seed(42, 1), ("reroll:2",)),
        (reroll_seed(42, 1), ("reroll:1", "reroll:2")),
        (reroll_seed(42, MOST_REROLLS + 1), (f"reroll:{MOST_REROLLS + 1}",)),
        (reroll_seed(reroll_seed(42, 1), 1), ("reroll:2",)),
    ],
)
def test_a_seed_that_is_no_reroll_or_not_the_one_of_its_flag_is_none(
    seed: int, flags: tuple[str, ...]
) -> None:
    assert recorded_reroll(REQUEST, seed, flags) is None
