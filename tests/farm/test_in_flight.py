"""Notes of what is being rendered are written before it is."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from render_farm.farm.in_flight import InFlight, Pace, at_once
from render_farm.job.request import RenderRequest


def request(row: int) -> RenderRequest:
    return RenderRequest(row, 0, None, "p", "", row, 64, 64, 4, 7.5, "model")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Following(list):
    """Requests that wait."""

    def first(self, most: int) -> list[RenderRequest]:
        return self[:most]


class Flight:
    """An `InFlight` of requests 0 … rows - 1 and what it noted."""

    def __init__(self, rows: int, batch_size: int, errand: Callable = at_once) -> None:
        self.notes: list[tuple[int, ...]] = []
        self.clock = Clock()
        self.waiting = [request(row) for row in range(rows)]
        self.batch_size = batch_size
        self.flight = InFlight(self.notes.append, Pace(self.clock), errand)

    def take(self) -> RenderRequest:
        taken = self.waiting.pop(0)
        self.flight.take(taken, Following(self.waiting), self.batch_size)
        return taken


def test_a_row_is_noted_before_it_is_handed_out():
    flight = Flight(5, batch_size=2)
    while flight.waiting:
        assert flight.take().row in flight.notes[-1]


def test_a_note_names_a_batch_and_what_is_still_open():
    flight = Flight(6, batch_size=2)
    first = flight.take()
    assert flight.notes[0] == (0, 1)
    flight.flight.answered(first.key)
    flight.take()
    assert flight.notes[-1] == (0, 1, 2, 3)  # sent on its way while 0 was in the engine
    flight.take()
    assert flight.notes[-1] == (1, 2, 3, 4, 5)


def test_the_next_note_is_written_while_the_engine_is_busy_with_the_last():
    sent: list[Callable[[], None]] = []
    waited: list[int] = []

    def later(work: Callable[[], None]) -> Callable[[], object]:
        number = len(sent)
        sent.append(work)
        return lambda: (waited.append(number), work())

    flight = Flight(8, batch_size=4, errand=later)
    for _ in range(3):
        flight.take()
    assert (len(sent), waited) == (2, [0])  # only the first was waited for


def test_fast_batches_share_a_note_that_covers_about_a_second():
    flight = Flight(200, batch_size=1)
    while flight.waiting:
        flight.flight.answered(flight.take().key)
        flight.clock.now += 0.1
    assert len(flight.notes) < 50
    assert max(len(note) for note in flight.notes) in range(8, 33)


def test_nothing_is_in_flight_after_the_landing():
    flight = Flight(1, batch_size=1)
    flight.take()
    flight.flight.landed()
    assert flight.notes == [(0,), ()]


def test_a_shard_that_was_never_in_the_engine_leaves_no_note():
    flight = Flight(1, batch_size=1)
    flight.flight.landed()
    assert flight.notes == []


@given(st.data(), st.integers(1, 60), st.integers(1, 9))
def test_whatever_is_in_the_engine_is_in_the_last_note(data, rows, batch_size):
    flight = Flight(rows, batch_size)
    open_requests: list[RenderRequest] = []
    while flight.waiting:
        match data.draw(st.sampled_from(["take", "answer", "interrupt", "wait"])):
            case "take":
                open_requests.append(flight.take())
                assert {one.row for one in open_requests} <= set(flight.notes[-1])
            case "answer" if open_requests:
                flight.flight.answered(open_requests.pop(0).key)
            case "interrupt":
                flight.flight.interrupted()
                flight.waiting[:0] = open_requests
                open_requests.clear()
            case "wait":
                flight.clock.now += data.draw(st.sampled_from([0.1, 1.0, 5.0]))
