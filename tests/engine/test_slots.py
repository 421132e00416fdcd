"""Lanes are handed out and taken back, and the request that fits is found among those in sight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.engine.slots import LaneTable, Occupancy, Window, lanes_needed
from tests.engine.conftest import REQUEST

SIZE = (REQUEST.width, REQUEST.height)


def rows(*guidance: float):
    return [replace(REQUEST, row=n, guidance_scale=scale) for n, scale in enumerate(guidance)]


@pytest.mark.parametrize(
    ("guidance", "lanes"), [(0.0, 1), (0.99, 1), (1.0, 1), (1, 1), (1.001, 2), (7.5, 2), (100, 2)]
)
def test_a_request_needs_two_lanes_where_it_is_guided(guidance, lanes):
    assert lanes_needed(replace(REQUEST, guidance_scale=guidance)) == lanes


def test_the_lowest_free_lanes_are_handed_out_first():
    table = LaneTable(6)
    assert table.reserve(2) == (0, 1)
    assert table.reserve(1) == (2,)
    table.release((0, 1))
    assert table.free == 5
    assert table.reserve(1) == (0,)
    assert table.reserve(2) == (1, 3)
    assert table.free == 2


def test_no_lane_is_handed_out_twice():
    table = LaneTable(3)
    table.reserve(3)
    assert table.free == 0
    with pytest.raises(IndexError):
        table.reserve(1)


def test_occupancy_is_advanced_by_computed_and_whole_before_anything_is_computed():
    assert Occupancy().share == 1
    assert Occupancy(computed=8, advanced=6).share == 0.75


def test_a_window_takes_what_has_waited_longest():
    window = Window(rows(7.5, 7.5, 7.5), 2)
    assert [window.take(SIZE, 2).row for _ in range(3)] == [0, 1, 2]
    assert window.take(SIZE, 2) is None
    assert window.first() is None


def test_an_unguided_request_overtakes_where_one_lane_is_free():
    window = Window(rows(7.5, 7.5, 1.0, 1.0), 3)
    assert window.take(SIZE, 1).row == 2
    assert window.take(SIZE, 1).row == 3
    assert window.take(SIZE, 1) is None
    assert window.take(SIZE, 2).row == 0


def test_nothing_beyond_sight_overtakes():
    window = Window(rows(7.5, 7.5, 1.0), 2)
    assert window.take(SIZE, 1) is None
    assert [request.row for request in window] == [0, 1]


def test_another_size_waits_for_its_turn():
    wide = replace(REQUEST, row=9, width=128)
    window = Window([wide, *rows(7.5)], 2)
    assert window.take(SIZE, 2).row == 0
    assert window.take(SIZE, 2) is None
    assert window.first() is wide
    assert window.take((128, 64), 2) is wide


def test_no_more_requests_are_taken_than_are_in_sight():
    source = iter(rows(*[7.5] * 9))
    window = Window(source, 3)
    window.first()
    window.first()
    assert [request.row for request in source] == [3, 4, 5, 6, 7, 8]
