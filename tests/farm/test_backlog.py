"""Which request the engine is given next, over all shards in hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from render_farm.farm.backlog import Backlog, Ticket
from render_farm.job.request import Kind, RenderRequest

SMALL, LARGE = Kind("", 64, 64), Kind("", 128, 64)


class Shard:
    """An owner of tickets."""

    def __init__(self, name: str) -> None:
        self.name = name


def ticket(owner: Shard, row: int, kind: Kind = SMALL, *, alone: bool = False) -> Ticket:
    model, width, height = kind
    request = RenderRequest(row, 0, None, "p", "", row, width, height, 4, 7.5, "model", model)
    return Ticket(owner, request, 0, alone)


def add(backlog: Backlog, name: str, *rows: tuple[int, Kind]) -> Shard:
    owner = Shard(name)
    backlog.add(owner, [ticket(owner, row, kind) for row, kind in rows])
    return owner


def drain(backlog: Backlog) -> list[list[int]]:
    """The rows of each stretch of one kind, until nothing waits."""
    stretches = []
    while (first := backlog.first(wait=False)) is not None:
        taken = iter(lambda kind=first.request.kind: backlog.take(kind), None)
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
        one = backlog.take(first.request.kind)
        if data.draw(st.integers(0, 9)) == 0:
            backlog.put_back([one])
        else:
            taken.append(one.request.row)
    assert sorted(taken) == sorted(expected)


# --- several models ---

A, A_LARGE, B, C = Kind("a", 64, 64), Kind("a", 128, 64), Kind("b", 64, 64), Kind("c", 64, 64)
KINDS = [A, A_LARGE, B, Kind("b", 128, 64), C]

shards_of_kinds = st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), max_size=6)


def stretches(backlog: Backlog) -> Iterator[Kind]:
    """The kind of each stretch, until nothing waits."""
    while (first := backlog.first(wait=False)) is not None:
        yield first.request.kind
        while backlog.take(first.request.kind) is not None:
            pass


def test_models_do_not_share_a_batch():
    backlog = Backlog()
    add(backlog, "a", (0, A), (1, B), (2, A))
    assert drain(backlog) == [[0, 2], [1]]


def test_a_model_ends_its_sizes_in_all_shards_before_the_next_model_begins():
    backlog = Backlog()
    add(backlog, "a", (0, A), (1, B))
    add(backlog, "b", (2, C))
    add(backlog, "c", (3, A_LARGE), (4, C))
    assert drain(backlog) == [[0], [3], [1], [2, 4]]


def test_the_model_in_hand_goes_on_where_new_shards_begin_with_another():
    backlog = Backlog()
    add(backlog, "a", (0, A), (1, B))
    assert backlog.take(A).request.row == 0
    turns = stretches(backlog)
    assert next(turns) == B
    add(backlog, "b", (2, A), (3, B))
    assert list(turns) == [A]


@given(shards_of_kinds)
def test_what_is_in_hand_takes_one_stretch_a_kind_and_one_load_a_model(shards: list[list[Kind]]):
    backlog = Backlog()
    rows = iter(range(1000))
    for kinds in shards:
        add(backlog, "x", *((next(rows), kind) for kind in sorted(kinds)))
    turns = list(stretches(backlog))
    assert sorted(turns) == sorted({kind for kinds in shards for kind in kinds})
    models = [model for model, _ in groupby(turns, key=lambda kind: kind.model)]
    assert len(models) == len(set(models))


@given(shards_of_kinds, st.integers(1, 4), st.sampled_from(KINDS))
def test_no_shard_waits_for_ever_however_many_of_one_kind_come(
    shards: list[list[Kind]], window: int, flood: Kind
):
    """Every shard that ends lets the next one in, and they all bring the kind of the flood."""
    backlog, rows = Backlog(), iter(range(100_000))
    coming = iter([*shards, *([[flood]] * 200)])
    left: dict[Shard, int] = {}
    began: dict[Shard, int] = {}
    turn = 0

    def refill() -> None:
        while len(left) < window and (kinds := next(coming, None)) is not None:
            owner = add(backlog, "x", *((next(rows), kind) for kind in sorted(kinds)))
            left[owner], began[owner] = len(kinds), turn

    refill()
    while (first := backlog.first(wait=False)) is not None:
        turn += 1
        while (one := backlog.take(first.request.kind)) is not None:
            left[one.owner] -= 1
            if not left[one.owner]:
                del left[one.owner]
                # the turn in hand, one of every other model, and one more of its own
                assert turn - began[one.owner] <= 2 * len(KINDS)
                refill()
    assert not left
