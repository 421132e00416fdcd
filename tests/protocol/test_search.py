"""The search itself: what it says of models that are known by heart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.search import Step, search, search_for_traps

DOUBLES, ADDS_ONE, FALLS = "doubles", "adds one", "falls into the hole"


class Counting:
    """Numbers from 1 to 99: each is doubled or grows by one; `bad` may not be reached.

    From `hole` on, if there is one, a number may fall into 200, where it stays.
    """

    def __init__(self, bad: int | None = None, hole: int | None = None) -> None:
        self.bad = bad
        self.hole = hole

    def initial(self) -> bytes:
        return bytes([1])

    def steps(self, state: bytes) -> Iterator[Step]:
        number = state[0]
        if number == self.hole:
            yield FALLS, 0, bytes([200])
        for what, after in ((DOUBLES, 2 * number), (ADDS_ONE, number + 1)):
            if after < 100:
                yield what, 0, bytes([after])

    def broken(self, state: bytes) -> str | None:
        return "this number is not reached" if state[0] == self.bad else None


def test_every_state_is_visited_once() -> None:
    found = search(Counting())
    assert (found.states, found.violation) == (99, None)
    assert found.fired == {DOUBLES: 49, ADDS_ONE: 98}


def test_a_planted_violation_is_found_by_the_fewest_steps() -> None:
    violation = search(Counting(bad=25)).violation
    assert violation is not None
    steps = [what for what, _ in violation.trace]  # 1 2 3 6 12 24 25
    assert steps == [DOUBLES, ADDS_ONE, DOUBLES, DOUBLES, DOUBLES, ADDS_ONE]
    assert "this number" in str(violation)
    assert "6. adds one [0]" in str(violation)


def test_a_violation_at_the_very_start_is_seen() -> None:
    violation = search(Counting(bad=1)).violation
    assert violation is not None
    assert violation.trace == ()


def test_a_search_that_is_too_big_does_not_pass_for_a_whole_one() -> None:
    with pytest.raises(RuntimeError, match="more than 50 states"):
        search(Counting(), most_states=50)


def test_a_state_that_no_way_leads_out_of_is_a_trap() -> None:
    assert search_for_traps(Counting(), lambda state: state[0] == 99) == (99, None)
    states, trap = search_for_traps(Counting(hole=5), lambda state: state[0] == 99)
    assert states == 100
    assert trap is not None
    assert [what for what, _ in trap.trace] == [DOUBLES, DOUBLES, ADDS_ONE, FALLS]
