"""How long a worker may be silent, as sentences. The test holds the clock."""

from __future__ import annotations

from render_farm.farm.watch import FIRST_S, FLOOR_S, TIMES_SLOWEST, Watch

ROWS = 100


def learned(*seconds_a_shard: float) -> Watch:
    """A watch that saw shards of 100 rows take so long."""
    watch = Watch(None)
    for seconds in seconds_a_shard:
        watch.renders("early", ROWS, 0.0)
        watch.closed("early", ROWS, seconds)
        watch.rests("early")
    return watch


def test_a_first_shard_may_take_its_time():
    watch = Watch(None)
    watch.renders("a", ROWS, 0.0)
    assert watch.silent(FIRST_S) == {}
    assert watch.silent(FIRST_S + 1) == {"a": FIRST_S + 1}


def test_the_limit_is_ten_times_the_slowest_pace_seen():
    watch = learned(60.0, 200.0, 100.0)
    assert watch.limit_s(ROWS) == TIMES_SLOWEST * 200.0
    assert watch.limit_s(ROWS // 2) == TIMES_SLOWEST * 100.0


def test_fast_shards_leave_time_enough_to_wait_for_a_store():
    assert learned(0.5).limit_s(ROWS) == FLOOR_S


def test_a_shard_that_was_not_closed_teaches_nothing():
    watch = Watch(None)
    watch.renders("a", ROWS, 0.0)
    watch.rests("a")
    assert watch.limit_s(ROWS) == FIRST_S


def test_a_sign_of_life_begins_the_silence_anew():
    watch = learned(60.0)
    watch.renders("a", ROWS, 1000.0)
    watch.seen("a", 1500.0)
    assert watch.silent(2100.0) == {}
    assert watch.silent(2101.0) == {"a": 601.0}


def test_an_old_sign_of_life_does_not_undo_a_newer_one():
    watch = learned(60.0)
    watch.renders("a", ROWS, 1000.0)
    watch.seen("a", 900.0)
    assert watch.silent(1601.0) == {"a": 601.0}


def test_a_worker_that_rests_is_not_waited_for():
    watch = learned(60.0)
    watch.renders("a", ROWS, 0.0)
    watch.rests("a")
    assert watch.silent(1e9) == {}


def test_a_start_has_an_hour_whatever_was_learned_or_given():
    for watch in (learned(1.0), Watch(5.0)):
        watch.starts("a", 0.0)
        assert watch.silent(FIRST_S) == {}
        assert "a" in watch.silent(FIRST_S + 1)


def test_a_limit_that_is_given_is_the_limit():
    watch = Watch(5.0)
    watch.renders("a", ROWS, 0.0)
    watch.closed("a", ROWS, 1000.0)
    assert watch.limit_s(ROWS) == 5.0


def test_a_larger_shard_more_makes_the_limit_longer_and_is_no_sign_of_life():
    watch = learned(60.0)
    watch.renders("a", ROWS, 0.0)
    watch.takes("a", 2 * ROWS)
    assert watch.silent(1200.0) == {}
    assert watch.silent(1201.0) == {"a": 1201.0}


def test_pace_is_that_of_the_shard_that_was_closed():
    watch = Watch(None)
    watch.renders("a", 2 * ROWS, 0.0)
    watch.closed("a", ROWS, 100.0)
    assert watch.limit_s(ROWS) == TIMES_SLOWEST * 100.0
