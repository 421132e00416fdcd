"""Reading ahead keeps order and bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from render_farm.ledger.read_ahead import READERS, read_ahead


def test_answers_come_in_the_order_in_which_they_were_wanted() -> None:
    later = threading.Event()

    def read(number: int) -> int:
        if number == 0:
            later.wait(60)  # the first answers last
        if number == 20:
            later.set()
        return number * 2

    assert list(read_ahead(read, range(50))) == [number * 2 for number in range(50)]


def test_so_many_are_asked_at_once() -> None:
    together = threading.Barrier(READERS, timeout=60)
    assert len(list(read_ahead(lambda _: together.wait(), range(READERS)))) == READERS


def test_no_more_is_drawn_than_may_be_held() -> None:
    drawn: list[int] = []

    def wanted() -> Iterator[int]:
        for number in range(10**6):
            drawn.append(number)
            yield number

    answers = read_ahead(lambda number: number, wanted(), ahead=7)
    for number in range(5):
        assert next(answers) == number
        assert len(drawn) == 8 + number
    answers.close()
    assert len(drawn) <= 13


def test_what_a_read_raises_stands_where_its_answer_would() -> None:
    def read(number: int) -> int:
        return 6 // (3 - number)

    answers = read_ahead(read, range(10))
    assert [next(answers) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(answers)
