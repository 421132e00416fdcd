"""Which request the engine is given next, over all shards in hand."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from render_farm.farm.backlog import Backlog, Ticket
from render_farm.job.request import RenderRequest

SMALL, LARGE = (64, 64), (128, 64)


class Shard:
    """An owner of tickets."""

    def __init__(self, name: str) -> None:
        self.name = name


def ticket(owner: Shard, row: int, size: tuple[int, int] = SMALL, *, alone: bool = False) -> Ticket:
    return Ticket(
        owner, RenderRequest(row, 0, None, "p", "", row, *size, 4, 7.5, "model"), 0, alone
    )


def add(backlog: Backlog, name: str, *rows: tuple[int, tuple[int, int]]) -> Shard:
    owner = Shard(name)
    backlog.add(owner, [ticket(owner, row, size) for row, size in rows])
    return owner


def drain(backlog: Backlog) -> list[list[int]]:
    """The rows of each stretch of one size, until nothing waits."""
    stretches = []
    while (first := backlog.first(wait=False)) is not None:
        size = first.request.width, first.request.height
        taken = iter(lambda size=size: backlog.take(size), None)
        stretches.append([one.request.row for one in taken])
    return stretches


def test_a_size_goes_on_across_the_border_of_a_shard():
    backlog = Backlog()
    add(backlog, "a", (0, SMALL), (1, SMALL))
    add(backlog, "b", (2, SMALL), (3, SMALL))
    assert drain(backlog) == [[0, 1, 2, 3]]


def test_all_shards_in_hand_are_rendered_size_by_size():
    backlog = Backlog()
    add(backlog, "a", (0, SMALL), (1, LARGE))
    add(backlog, "b", (2, SMALL), (3, LARGE))
    assert drain(backlog) == [[0, 2], [1, 3]]


def test_a_shard_that_comes_later_waits_for_the_sizes_that_others_still_need():
    backlog = Backlog()
    add(backlog, "a", (0, SMALL), (1, LARGE))
    assert backlog.first(wait=False) is not None
    add(backlog, "b", (2, SMALL))
    assert backlog.take(SMALL).request.row == 0
    assert backlog.take(SMALL) is None  # it is the large one's turn
    assert drain(backlog) == [[1], [2]]


def test_rows_to_be_rendered_alone_come_first():
    backlog, owner = Backlog(), Shard("a")
    backlog.add(owner, [ticket(owner, 0), ticket(owner, 1, alone=True)])
    first = backlog.first(wait=False)
    assert (first.request.row, first.alone) == (1, True)
    assert backlog.take_alone(owner) is first
    assert drain(backlog) == [[0]]


def test_what_is_put_back_is_taken_next_and_what_is_added_again_last():
    backlog = Backlog()
    add(backlog, "a", *((row, SMALL) for row in range(4)))
    taken = [backlog.take(SMALL) for _ in range(2)]
    backlog.put_back(taken)
    backlog.add_again(backlog.take(SMALL))
    assert drain(backlog) == [[1, 2, 3, 0]]


def test_nothing_is_left_of_a_shard_that_was_removed():
    backlog = Backlog()
    owner = add(backlog, "a", (0, SMALL), (1, SMALL))
    taken = backlog.take(SMALL)
    backlog.remove(owner)
    backlog.put_back([taken])
    backlog.add_again(taken)
    assert drain(backlog) == []
    assert backlog.ahead(owner, SMALL, 9) == []


def test_the_next_shard_of_a_size_is_known_before_this_one_is_used_up():
    backlog = Backlog()
    first = add(backlog, "a", (0, SMALL))
    add(backlog, "b", (1, LARGE))
    third = add(backlog, "c", (2, SMALL))
    assert backlog.next_owner(first, SMALL) is third
    assert backlog.next_owner(third, SMALL) is None


def test_whoever_waits_is_woken_by_a_ticket_and_by_the_end():
    backlog = Backlog()
    seen: list[object] = []

    def wait() -> None:
        seen.append(backlog.first(wait=True).request.row)
        backlog.take(SMALL)
        seen.append(backlog.first(wait=True))

    thread = threading.Thread(target=wait)
    thread.start()
    add(backlog, "a", (7, SMALL))
    while len(seen) < 1:
        thread.join(0.01)
    backlog.close()
    thread.join(60)
    assert seen == [7, None]


@given(st.lists(st.lists(st.sampled_from([SMALL, LARGE]), max_size=6), max_size=6), st.data())
def test_every_ticket_is_handed_out_once_whatever_comes_between(shards, data):
    backlog = Backlog()
    rows = iter(range(1000))
    coming = [[(next(rows), size) for size in sizes] for sizes in shards]
    expected = {row for shard in coming for row, _ in shard}
    taken: list[int] = []
    while coming or backlog.first(wait=False) is not None:
        first = backlog.first(wait=False)
        if coming and (first is None or data.draw(st.booleans())):
            add(backlog, "x", *coming.pop(0))
            continue
        one = backlog.take((first.request.width, first.request.height))
        if data.draw(st.integers(0, 9)) == 0:
            backlog.put_back([one])
        else:
            taken.append(one.request.row)
    assert sorted(taken) == sorted(expected)
