"""Which shards a death or the tail explains, on attempts that are written down here."""

from __future__ import annotations

from tests.storm.journal import ON_THE_WAY_S, Attempt, Journal


def journal_of(*attempts: Attempt) -> Journal:
    journal = Journal()
    for attempt in attempts:
        journal.attempts[attempt.identity] = attempt
        journal.by_slot.setdefault(attempt.slot, []).append(attempt)
    return journal


def attempt(
    shard: int, slot: str, began_s: float, won_s: float | None = None, lost_s: float | None = None
) -> Attempt:
    return Attempt("run", shard, f"{slot}-{shard}", slot, began_s, won_s=won_s, lost_s=lost_s)


def test_a_shard_that_was_begun_and_not_closed_was_open():
    journal = journal_of(attempt(1, "a", 0.0), attempt(2, "a", 0.0, won_s=0.5))
    assert journal.open_at("a", 1.0) == {1}
    assert journal.open_at("a", 0.2) == {1, 2}


def test_a_shard_that_was_begun_after_the_death_in_vain_was_open():
    journal = journal_of(attempt(1, "a", 2.0))
    assert journal.open_at("a", 1.0) == {1}


def test_a_shard_that_was_begun_after_the_death_and_won_before_anybody_else_began_was_not():
    journal = journal_of(attempt(1, "a", 2.0, won_s=3.0), attempt(1, "b", 4.0, lost_s=5.0))
    assert journal.open_at("a", 1.0) == set()


def test_a_shard_that_a_sleeper_begins_after_its_death_and_wins_beside_another_was_open():
    # the other workers of a raylet are stopped a moment after the one that is the zombie
    journal = journal_of(attempt(1, "a", 1.1, won_s=9.0), attempt(1, "b", 4.0, lost_s=9.5))
    assert journal.open_at("a", 1.0) == {1}


def test_a_shard_that_is_begun_beside_another_at_the_tail_is_helped():
    journal = journal_of(attempt(1, "a", 1.0, won_s=3.0), attempt(1, "b", 2.0, lost_s=3.5))
    assert journal.helped("run", shards=2, most_in_hand=2) == {1: 1}


def test_a_shard_that_is_won_while_its_second_attempt_is_on_the_way_is_helped():
    late_s = 3.0 + ON_THE_WAY_S / 2
    journal = journal_of(attempt(1, "a", 1.0, won_s=3.0), attempt(1, "b", late_s))
    assert journal.helped("run", shards=2, most_in_hand=2) == {1: 1}


def test_a_shard_that_is_begun_again_long_after_it_was_won_or_before_the_tail_is_not_helped():
    late_s = 3.0 + 2 * ON_THE_WAY_S
    late = journal_of(attempt(1, "a", 1.0, won_s=3.0), attempt(1, "b", late_s))
    assert not late.helped("run", shards=2, most_in_hand=2).total()
    early = journal_of(attempt(1, "a", 1.0, won_s=3.0), attempt(1, "b", 2.0, lost_s=3.5))
    assert not early.helped("run", shards=20, most_in_hand=2).total()
