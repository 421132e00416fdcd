"""What becomes of pictures that came out black, white or flat: `limits.on_flagged`."""

from __future__ import annotations

from dataclasses import replace

from render_farm.engine.checks import faults
from render_farm.engine.sampler import Refused, Rendered
from render_farm.job.rerolls import MOST_REROLLS, reroll_flags
from render_farm.job.spec import OnFlagged


def judged(
    outcome: Rendered | Refused, reroll: int, on_flagged: OnFlagged
) -> Rendered | Refused | None:
    """What the `reroll`-th try at a sample came to; None if it is to be rendered once more.

    A function of the picture and the policy alone, so that a sample ends the same way in every
    attempt, whatever is rendered beside it.
    """
    if isinstance(outcome, Refused):
        # The seed that is recorded with the error is not the row's own: say where it is from.
        tried = f" (at reroll {reroll})" if reroll else ""
        return replace(outcome, error=f"{outcome.error}{tried}")
    found = faults(outcome.flags)
    if not found or on_flagged == "keep":
        told = reroll_flags(reroll)
        return replace(outcome, flags=(*outcome.flags, *told)) if told else outcome
    if on_flagged == "reroll" and reroll < MOST_REROLLS:
        return None
    tries = "in 1 try" if reroll == 0 else f"in the last of {reroll + 1} tries"
    return Refused(outcome.request, "flagged", f"the picture is {', '.join(found)} {tries}")
