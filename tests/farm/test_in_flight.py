"""Notes of what is being rendered are written before it is."""

from __future__ import annotations

from render_farm.farm.in_flight import InFlight
from render_farm.job.request import RenderRequest


def request(row: int) -> RenderRequest:
    return RenderRequest(row, 0, None, "p", "", row, 64, 64, 4, 7.5, "model")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_row_is_noted_before_it_is_handed_out():
    notes: list[tuple[int, ...]] = []
    flight = InFlight(notes.append, Clock())
    for taken in flight.feed([request(row) for row in range(5)], batch_size=2):
        assert taken.row in notes[-1]


def test_a_note_names_a_batch_and_what_is_still_open():
    notes: list[tuple[int, ...]] = []
    flight = InFlight(notes.append, Clock())
    for taken in flight.feed([request(row) for row in range(4)], batch_size=2):
        if taken.row == 0:
            flight.answered(taken)
    assert notes == [(0, 1), (1, 2, 3)]


def test_fast_batches_share_a_note_that_covers_about_a_second():
    notes: list[tuple[int, ...]] = []
    clock = Clock()
    flight = InFlight(notes.append, clock)
    for taken in flight.feed([request(row) for row in range(100)], batch_size=1):
        flight.answered(taken)
        clock.now += 0.1
    assert len(notes) < 30
    assert max(len(note) for note in notes) in range(9, 12)


def test_nothing_is_in_flight_after_the_landing():
    notes: list[tuple[int, ...]] = []
    flight = InFlight(notes.append, Clock())
    next(flight.feed([request(0)], batch_size=1))
    flight.landed()
    assert notes[-1] == ()
