"""The scheduler as sentences: events in, decisions out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from render_farm.farm.decisions import (
    Abandon,
    Assign,
    Avoid,
    Decision,
    GiveUp,
    Release,
    Replace,
    Stop,
)
from render_farm.farm.early_stop import over_limit
from render_farm.farm.messages import Tally
from render_farm.farm.scheduler import Scheduler
from render_farm.ledger.attempts import AttemptLog, Failure
from render_farm.ledger.receipt import Receipt, RowCounts

ROWS = 10


def scheduler(shards: int, attempts: int = 3, max_quarantined: float = 0.05) -> Scheduler:
    return Scheduler(iter(range(shards)), {}, Tally(), attempts, max_quarantined)


def receipt(shard: int, quarantined: int = 0, error: str = "bad_prompt") -> Receipt:
    return Receipt(
        kind="rendered",
        shard=shard,
        attempt="a",
        first_row=shard * ROWS,
        rows=ROWS,
        counts=RowCounts(done=ROWS - quarantined, quarantined=quarantined),
        errors_by_type={error: quarantined} if quarantined else {},
    )


def log(shard: int, *in_flight: int, died: bool = False, times: int = 1) -> AttemptLog:
    failure = Failure(
        attempt="a",
        worker="w",
        error_type="ValueError",
        error="x",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        in_flight=in_flight,
        end="process" if died else "error",
    )
    return AttemptLog(shard=shard, failures=(failure,) * times)


def assigned(decisions: list[Decision]) -> dict[str, int]:
    return {d.worker: d.assignment.shard for d in decisions if isinstance(d, Assign)}


def test_a_worker_has_as_many_shards_in_hand_as_it_has_places():
    s = scheduler(9)
    ready = s.worker_ready("a", 3)
    assert [d.assignment.shard for d in ready if isinstance(d, Assign)] == [0, 1, 2]
    assert assigned(s.shard_closed("a", receipt(1))) == {"a": 3}
    assert s.hands.of("a") == (0, 2, 3)


def test_an_assignment_says_how_many_answers_of_its_worker_the_tally_knows():
    s = scheduler(9)
    s.worker_ready("a", 2)
    s.worker_ready("b", 2)
    s.shard_closed("b", receipt(2))
    s.shard_closed("a", receipt(0))
    (decision,) = s.shard_closed("a", receipt(1))
    assert isinstance(decision, Assign)
    assert (decision.assignment.heard, decision.assignment.tally.decided) == (2, 3 * ROWS)


def test_every_ready_worker_gets_the_next_open_shard():
    s = scheduler(3)
    assert assigned(s.worker_ready("a")) == {"a": 0}
    assert assigned(s.worker_ready("b")) == {"b": 1}
    assert assigned(s.shard_closed("a", receipt(0))) == {"a": 2}


def test_the_run_is_finished_when_nothing_is_rendered_and_nothing_is_left():
    s = scheduler(1)
    s.worker_ready("a")
    assert not s.finished
    s.shard_closed("a", receipt(0))
    assert s.finished


def test_a_run_without_open_shards_is_finished_at_once():
    assert scheduler(0).finished


def test_a_failed_shard_goes_to_another_worker():
    s = scheduler(2)
    s.worker_ready("a")
    s.worker_ready("b")
    assert assigned(s.shard_failed("a", 0, log(0))) == {}
    assert assigned(s.shard_closed("b", receipt(1))) == {"b": 0}


def test_a_worker_that_failed_a_shard_goes_on_with_other_shards():
    s = scheduler(3)
    s.worker_ready("a")
    assert assigned(s.shard_failed("a", 0, log(0))) == {"a": 1}


def test_the_only_worker_is_replaced_when_it_has_failed_all_that_is_left():
    s = scheduler(1)
    s.worker_ready("a")
    assert s.shard_failed("a", 0, log(0)) == [Replace("a")]
    assert assigned(s.worker_ready("b")) == {"b": 0}


def test_no_worker_is_replaced_while_another_may_still_take_the_failed_shard():
    s = scheduler(2)
    s.worker_ready("a")
    s.worker_ready("b")
    assert s.shard_failed("a", 0, log(0)) == []


def test_a_shard_that_used_its_attempts_is_given_up_and_the_others_go_on():
    s = scheduler(2, attempts=2)
    s.worker_ready("a")
    s.worker_ready("b")
    s.shard_failed("a", 0, log(0))
    s.shard_closed("b", receipt(1))
    decisions = s.shard_failed("b", 0, log(0))
    assert decisions == [GiveUp(0)]
    assert s.finished
    assert s.given_up == {0}


def test_attempts_are_counted_a_shard_and_not_a_worker():
    s = scheduler(2, attempts=2)
    s.worker_ready("a")
    assert GiveUp(0) not in s.shard_failed("a", 0, log(0))
    assert GiveUp(1) not in s.shard_failed("a", 1, log(1))


def test_the_next_attempt_is_told_whom_the_last_one_suspected():
    s = scheduler(2)
    s.worker_ready("a")
    s.worker_lost("a", {0: log(0, 4, 5, died=True)})
    (decision,) = [d for d in s.worker_ready("b") if isinstance(d, Assign)]
    assert decision.assignment.shard == 0
    assert decision.assignment.log.suspects() == {4, 5}


def test_suspects_of_an_earlier_invocation_are_not_forgotten_and_its_attempts_are():
    left = log(0, 7, died=True, times=5)
    s = Scheduler(iter([0]), {0: left}, Tally(), attempts=2, max_quarantined=0.05)
    (decision,) = s.worker_ready("a")
    assert isinstance(decision, Assign)
    assert decision.assignment.log.suspects() == {7}
    assert GiveUp(0) not in s.shard_failed("a", 0, left)


def test_a_worker_that_fails_twice_in_a_row_is_replaced():
    """A sick node must not burn an attempt of every shard there is."""
    s = scheduler(100)
    s.worker_ready("sick")
    assert Replace("sick") not in s.shard_failed("sick", 0, log(0))
    assert Replace("sick") in s.shard_failed("sick", 1, log(1))


def test_a_success_between_two_failures_forgives_the_first():
    s = scheduler(100)
    s.worker_ready("a")
    s.shard_failed("a", 0, log(0))
    s.shard_closed("a", receipt(1))
    assert Replace("a") not in s.shard_failed("a", 2, log(2))


def test_attempts_that_all_fail_alike_stop_the_run_before_every_shard_is_given_up():
    s = scheduler(1000)
    failed = 0
    for number in range(100):
        if s.finished:
            break
        for decision in s.worker_ready(f"w{number}"):
            assert isinstance(decision, Assign)
            s.shard_failed(f"w{number}", decision.assignment.shard, log(decision.assignment.shard))
            failed += 1
    assert s.stopped is not None
    assert "ValueError" in s.stopped.reason
    assert failed < 20


def test_the_more_workers_there_are_the_more_may_be_lost_at_once():
    many = Scheduler(iter(range(999)), {}, Tally(), attempts=3, max_quarantined=1.0, workers=64)
    for number in range(64):
        assert not any(isinstance(d, Stop) for d in many.worker_lost(f"w{number}", {}))


def test_a_lost_worker_is_replaced_while_there_is_work_for_it():
    s = scheduler(1)
    s.worker_ready("a")
    assert Replace("a") in s.worker_lost("a", {0: log(0, died=True)})


def test_a_worker_lost_at_the_end_is_not_replaced():
    s = scheduler(2)
    s.worker_ready("a")
    s.worker_ready("b")
    s.shard_closed("a", receipt(0))
    assert s.worker_lost("a", {}) == []


def test_workers_that_keep_dying_without_a_finished_shard_stop_the_run():
    s = scheduler(100, attempts=3)
    decisions: list[Decision] = []
    for number in range(9):
        decisions += s.worker_lost(f"w{number}", {})
    assert any(isinstance(d, Stop) for d in decisions)
    assert s.finished


def test_a_finished_shard_forgives_earlier_deaths():
    s = scheduler(100)
    for number in range(8):
        s.worker_lost(f"w{number}", {})
    s.worker_ready("a")
    s.shard_closed("a", receipt(0))
    assert not any(isinstance(d, Stop) for d in s.worker_lost("z", {}))


def test_a_death_that_convicts_a_row_uses_no_attempt():
    """Any number of rows of one shard may end their process: each costs itself, not the shard."""
    s = scheduler(1, attempts=2)
    left = AttemptLog(shard=0)
    for number, in_flight in enumerate([(1, 2, 3), (1,), (2,), (3,)]):
        s.worker_ready(f"w{number}")
        died = log(0, *in_flight, died=True).failures
        left = left.model_copy(update={"failures": (*left.failures, *died)})
        assert GiveUp(0) not in s.worker_lost(f"w{number}", {0: left})
    assert left.condemned() == {1, 2, 3}
    s.worker_ready("last")
    assert GiveUp(0) in s.shard_failed("last", 0, left)


def on_nodes(s: Scheduler, **nodes: str) -> None:
    for worker, node in nodes.items():
        s.worker_placed(worker, node)
        s.worker_ready(worker)


def test_a_node_that_fails_three_shards_is_left_out_and_its_workers_start_elsewhere():
    s = scheduler(100)
    on_nodes(s, a="sick", b="well")
    s.shard_failed("a", 0, log(0))
    assert Replace("a") in s.shard_failed("a", 2, log(2))
    s.worker_placed("a2", "sick")
    s.worker_ready("a2")
    decisions = s.worker_lost("a2", {3: log(3, died=True)})
    assert decisions[:2] == [Avoid(frozenset({"sick"})), Replace("a2")]


def test_a_failed_shard_goes_to_another_node_before_it_meets_the_same_one_again():
    s = scheduler(3)
    on_nodes(s, a1="one", a2="one", b="two")
    s.shard_failed("a1", 0, log(0))  # a1 has failed it, and nothing else is left
    assert assigned(s.shard_closed("b", receipt(2)))["b"] == 0
    s = scheduler(4)
    on_nodes(s, a1="one", a2="one")
    s.worker_lost("a1", {0: log(0, died=True)})
    assert assigned(s.shard_closed("a2", receipt(1))) == {"a2": 2}
    assert assigned(s.shard_closed("a2", receipt(2))) == {"a2": 3}
    assert assigned(s.shard_closed("a2", receipt(3))) == {"a2": 0}


def test_a_worker_on_a_node_that_was_left_out_ends_its_shard_and_is_replaced():
    s = scheduler(100)
    on_nodes(s, a1="sick", a2="sick", b="well")
    for worker in ("a3", "a4", "a5"):
        s.worker_placed(worker, "sick")
        decisions = s.worker_lost(worker, {})
    assert Avoid(frozenset({"sick"})) in decisions
    assert s.shard_closed("a1", receipt(0)) == [Replace("a1")]
    s.worker_placed("late", "sick")
    assert s.worker_ready("late") == [Replace("late")]
    assert assigned(s.shard_closed("b", receipt(2))) == {"b": 3}


def test_when_no_worker_is_left_elsewhere_every_node_is_taken_back():
    s = scheduler(100)
    on_nodes(s, b="well")
    for worker in ("a1", "a2", "a3"):
        s.worker_placed(worker, "sick")
        s.worker_lost(worker, {})
    assert s.worker_lost("b", {0: log(0, died=True)})[:2] == [Avoid(frozenset()), Replace("b")]


def test_a_worker_that_is_the_last_one_left_on_a_left_out_node_is_not_the_end():
    """Its replacement would wait for room elsewhere, where nobody is."""
    s = scheduler(100)
    on_nodes(s, a="sick", b="well")
    for worker in ("a1", "a2", "a3"):
        s.worker_placed(worker, "sick")
        s.worker_lost(worker, {})
    assert Avoid(frozenset()) in s.worker_lost("b", {1: log(1, died=True)})
    assert assigned(s.shard_closed("a", receipt(0))) == {"a": 1}


def test_nodes_are_taken_back_when_the_only_worker_elsewhere_is_dismissed():
    """Its replacement may never find room, and nobody would say so."""
    s = scheduler(100)
    on_nodes(s, a="sick", b="well")
    for worker in ("a1", "a2", "a3"):
        s.worker_placed(worker, "sick")
        s.worker_lost(worker, {})
    s.shard_failed("b", 1, log(1))
    decisions = s.shard_failed("b", 2, log(2))
    assert Replace("b") in decisions
    assert Avoid(frozenset()) in decisions


def test_workers_that_began_before_their_node_was_left_out_may_be_refused_as_well():
    s = scheduler(100)
    on_nodes(s, b="well")
    s.worker_placed("a1", "without the model")
    s.worker_placed("a2", "without the model")
    s.worker_refused("a1", "no such folder")
    assert s.worker_refused("a2", "no such folder") == [Replace("a2")]
    assert s.stopped is None


def test_deaths_that_convict_rows_are_held_against_no_node_and_stop_no_run():
    s = scheduler(1, attempts=2)
    left = AttemptLog(shard=0)
    for number, in_flight in enumerate([tuple(range(20)), *((row,) for row in range(20))]):
        on_nodes(s, **{f"w{number}": "only"})
        died = log(0, *in_flight, died=True).failures
        left = left.model_copy(update={"failures": (*left.failures, *died)})
        s.worker_lost(f"w{number}", {0: left})
    assert s.stopped is None
    assert left.condemned() == set(range(20))


def test_nothing_is_kept_of_shards_that_were_given_up_but_the_last_error():
    s = scheduler(100, attempts=1)
    s.worker_ready("a")
    for shard in (0, 1):
        s.shard_failed("a", shard, log(shard))
    assert s.given_up == {0, 1}
    assert not {0, 1} & s._queue._logs.keys()
    assert s.last_error == "ValueError: x"


def test_a_node_where_a_worker_cannot_start_is_left_out_and_the_only_one_stops_the_run():
    s = scheduler(100)
    on_nodes(s, b="well")
    s.worker_placed("a", "without the model")
    decisions = s.worker_refused("a", "no such folder")
    assert decisions == [Avoid(frozenset({"without the model"})), Replace("a")]
    s.worker_placed("c", "well")
    (stop,) = s.worker_refused("c", "no such folder")
    assert isinstance(stop, Stop)
    assert "no such folder" in stop.reason


def test_after_a_stop_nothing_is_assigned_and_the_run_ends_with_the_shards_in_hand():
    s = scheduler(5)
    s.worker_ready("a")
    assert s.stop("asked", "resume") == [Stop("asked", "resume")]
    assert s.worker_ready("b") == []
    assert not s.finished
    assert s.shard_given_back("a", 0) == []
    assert s.finished


def test_the_first_reason_to_stop_stands():
    s = scheduler(5)
    s.stop("first", "")
    assert s.stop("second", "") == []
    assert s.stopped == Stop("first", "")


def test_assignments_carry_the_tally_so_that_a_worker_can_stop_the_run_before_it_commits():
    s = scheduler(2)
    s.worker_ready("a")
    (decision,) = s.shard_closed("a", receipt(0, quarantined=4))
    assert isinstance(decision, Assign)
    assert decision.assignment.tally == Tally(ROWS, 4, {"bad_prompt": 4})


def test_a_run_that_is_over_its_limit_already_stops_before_any_worker_starts():
    tally = Tally(1000, 500, {"bad_prompt": 500})
    s = Scheduler(iter([1]), {}, tally, attempts=3, max_quarantined=0.05)
    assert any(isinstance(d, Stop) for d in s.start())


@pytest.mark.parametrize(
    ("tally", "limit", "stops"),
    [
        (Tally(199, 199 // 2, {"e": 99}), 0.05, False),  # too few rows to judge a fraction
        (Tally(200, 19, {"e": 19}), 0.05, False),  # too few quarantined
        (Tally(200, 20, {"e": 20}), 0.05, True),
        (Tally(400, 20, {"e": 20}), 0.05, False),  # the limit itself is allowed
        (Tally(7, 7, {"e": 7}), 0.05, False),
        (Tally(8, 8, {"e": 8}), 0.05, True),  # all of the first rows, one error
        (Tally(8, 8, {"e": 7, "f": 1}), 0.05, False),
        (Tally(9, 8, {"e": 8}), 0.05, False),
        (Tally(1000, 1000, {"e": 1000}), 1.0, False),  # the user expects it
        (Tally(), 0.0, False),
    ],
)
def test_the_limit_on_quarantined_rows(tally: Tally, limit: float, stops: bool):
    assert (over_limit(tally, limit) is not None) == stops


def test_the_reason_names_the_commonest_error():
    reason, _ = over_limit(Tally(300, 100, {"rare": 10, "common": 90}), 0.05) or ("", "")
    assert "common (90 rows)" in reason


def died(*shards: int) -> dict[int, AttemptLog]:
    return {shard: log(shard, 10 * shard, 10 * shard + 1, died=True) for shard in shards}


def test_of_a_lost_workers_shards_those_it_had_not_begun_are_handed_out_as_if_nothing_had_been():
    s = scheduler(4, attempts=1)
    s.worker_ready("a", 3)
    s.worker_lost("a", died(0))
    assert assigned(s.worker_ready("b")) == {"b": 0}  # alone; begun ones have failed and go first
    assert assigned(s.shard_closed("b", receipt(0))) == {"b": 1}
    assert [s.log(shard).failures for shard in (1, 2)] == [(), ()]


def test_a_death_in_company_is_nobodys_and_uses_no_attempt_but_one_alone_does():
    s = scheduler(2, attempts=1)
    s.worker_ready("a", 2)
    assert not any(isinstance(d, GiveUp) for d in s.worker_lost("a", died(0, 1)))
    assert assigned(s.worker_ready("b", 2)) == {"b": 0}
    assert GiveUp(0) in s.worker_lost("b", {0: log(0, 0, 1, died=True, times=2)})


def test_a_shard_that_kills_every_worker_is_given_up_after_its_attempts_and_one_more():
    s = Scheduler(iter(range(9)), {}, Tally(), 3, 0.05, workers=10)
    deaths, given_up = 0, False
    while not given_up:
        s.worker_ready(f"w{deaths}", 3)
        (worker,) = s.hands.workers
        assert 0 in s.hands.of(worker)
        deaths += 1
        decisions = s.worker_lost(worker, {0: log(0, 0, 1, died=True, times=deaths)})
        given_up = GiveUp(0) in decisions
    assert deaths == 4


def test_a_shard_with_which_a_process_ended_is_rendered_alone():
    s = scheduler(9)
    s.worker_ready("a", 3)
    s.worker_ready("b", 3)
    s.worker_lost("a", died(0))
    assert assigned(s.shard_closed("b", receipt(3))) == {}  # its hands are to be empty first
    assert assigned(s.shard_closed("b", receipt(4))) == {}
    assert assigned(s.shard_closed("b", receipt(5))) == {"b": 0}
    assert s.hands.of("b") == (0,)
    s.shard_closed("b", receipt(0))
    assert s.hands.of("b") == (1, 2, 6)


def test_one_worker_empties_its_hands_for_a_shard_and_the_others_go_on():
    s = scheduler(99)
    for worker in "abc":
        s.worker_ready(worker, 2)
    s.worker_lost("a", died(0))
    assert assigned(s.shard_closed("b", receipt(2))) == {}
    assert assigned(s.shard_closed("c", receipt(4))) == {"c": 1}
    assert assigned(s.shard_closed("b", receipt(3))) == {"b": 0}


def test_when_the_worker_that_emptied_its_hands_is_lost_another_does():
    s = scheduler(99)
    for worker in "abc":
        s.worker_ready(worker, 2)
    s.worker_lost("a", died(0))
    s.shard_closed("b", receipt(2))
    s.worker_lost("b", {})
    assert assigned(s.shard_closed("c", receipt(4))) == {}
    assert assigned(s.shard_closed("c", receipt(5))) == {"c": 0}


def test_shards_with_which_a_process_ended_under_an_earlier_driver_are_rendered_alone():
    s = Scheduler(iter(range(5)), died(1, 2), Tally(), attempts=3, max_quarantined=0.05)
    for worker in "abc":
        s.worker_ready(worker, 3)
    assert [s.hands.of(worker) for worker in "abc"] == [(0,), (1,), (2,)]
    s.shard_closed("a", receipt(0))
    assert s.hands.of("a") == (3, 4)


def test_at_the_end_an_idle_worker_takes_what_the_busiest_was_given_last():
    s = scheduler(5)
    s.worker_ready("a", 2)
    s.worker_ready("b", 3)
    decisions = s.worker_ready("c", 3)
    assert decisions[0] == Abandon("b", 4, unless_begun=True)
    assert assigned(decisions) == {"c": 4}


def test_of_workers_with_one_shard_each_the_one_that_has_had_it_longest_is_helped():
    s = scheduler(4)
    s.worker_ready("a", 1)
    s.worker_ready("b", 1)
    s.shard_closed("a", receipt(0))
    assert s.hands.of("a") == (2,)
    s.shard_closed("a", receipt(2))
    assert assigned(s.worker_ready("c", 1)) == {"c": 1}  # b's, the oldest; a has 3 since just now


def test_a_shard_that_is_given_back_for_another_worker_is_that_workers_alone():
    s = scheduler(2)
    s.worker_ready("a", 2)
    s.worker_ready("b", 2)
    assert s.shard_given_back("a", 1) == []
    assert s.hands.holders(1) == ("b",)


def test_the_first_receipt_wins_and_the_other_attempt_is_abandoned_and_counts_nothing():
    s = scheduler(1)
    s.worker_ready("a", 2)
    assert assigned(s.worker_ready("b", 2)) == {"b": 0}
    assert s.shard_closed("b", receipt(0)) == [Abandon("a", 0, unless_begun=False)]
    assert s.finished
    assert s.tally.decided == ROWS
    s.shard_closed("a", receipt(0))
    assert (s.tally.decided, s.decided) == (ROWS, 1)


def test_no_shard_has_more_than_two_attempts_at_a_time():
    s = scheduler(1)
    s.worker_ready("a", 2)
    s.worker_ready("b", 2)
    assert s.worker_ready("c", 2) == []


def test_no_second_attempt_is_made_by_a_worker_that_failed_nor_at_a_shard_that_is_rendered_alone():
    s = scheduler(1)
    s.worker_ready("a")
    s.worker_ready("b")
    assert s.shard_failed("a", 0, log(0)) == []  # b goes on, and a has failed it
    s = Scheduler(iter([0]), died(0), Tally(), attempts=3, max_quarantined=0.05)
    s.worker_ready("a")
    assert s.worker_ready("b") == []


def test_a_failure_beside_another_attempt_counts_and_the_shard_waits_for_the_other():
    s = scheduler(1, attempts=2)
    s.worker_ready("a")
    s.worker_ready("b")
    s.shard_failed("a", 0, log(0))
    assert not s.waiting
    assert GiveUp(0) in s.shard_failed("b", 0, log(0, times=2))


def test_a_shard_is_not_given_up_while_an_attempt_at_it_is_under_way():
    s = scheduler(1, attempts=1)
    s.worker_ready("a")
    s.worker_ready("b")
    assert GiveUp(0) not in s.shard_failed("a", 0, log(0))
    s.shard_closed("b", receipt(0))
    assert s.given_up == set()
    assert s.finished


def test_a_worker_that_fails_again_and_again_gives_back_what_it_has_not_begun_and_goes():
    s = scheduler(99)
    s.worker_ready("sick", 3)
    s.shard_failed("sick", 0, log(0))
    decisions = s.shard_failed("sick", 1, log(1))
    assert Abandon("sick", 2, unless_begun=True) in decisions
    assert assigned(decisions) == {}
    left = s.hands.of("sick")
    for shard in left[:-1]:
        assert s.shard_given_back("sick", shard) == []
    assert s.shard_closed("sick", receipt(left[-1])) == [Replace("sick")]


def test_workers_on_a_node_that_drains_give_back_what_they_have_not_begun_and_leave():
    s = scheduler(99)
    for worker, node in (("a", "spot"), ("b", "steady")):
        s.worker_placed(worker, node)
        s.worker_ready(worker, 2)
    assert s.node_drains({"spot"}) == [
        Abandon("a", 0, unless_begun=True),
        Abandon("a", 1, unless_begun=True),
    ]
    assert assigned(s.shard_given_back("a", 1)) == {}
    assert s.shard_closed("a", receipt(0)) == [Replace("a")]
    assert assigned(s.shard_closed("b", receipt(2))) == {"b": 1}


def test_a_worker_that_becomes_ready_on_a_node_that_drains_is_replaced_at_once():
    s = scheduler(99)
    s.node_drains({"spot"})
    s.worker_placed("late", "spot")
    assert s.worker_ready("late") == [Replace("late")]


def test_at_the_end_a_worker_that_leaves_is_not_replaced():
    s = scheduler(2)
    for worker, node in (("a", "spot"), ("b", "steady")):
        s.worker_placed(worker, node)
        s.worker_ready(worker)
    s.node_drains({"spot"})
    assert s.shard_closed("a", receipt(0)) == [Release("a")]


def test_workers_that_there_is_nothing_left_for_are_spare_but_for_one():
    s = scheduler(1)
    for worker in "abcd":
        s.worker_ready(worker)
    assert s.spare() == ["d"]  # a renders, b tries as well, c stays should both fail
    assert s.release("d") == [Release("d")]
    assert s.spare() == []


def test_no_worker_is_spare_while_shards_wait():
    s = scheduler(2)
    for worker in "abcd":
        s.worker_ready(worker)
    assert [s.hands.holders(shard) for shard in (0, 1)] == [("a", "c"), ("b", "d")]
    s.shard_failed("a", 0, log(0))
    s.shard_failed("c", 0, log(0, times=2))
    assert s.hands.empty == ("a", "c")  # b or d will take the shard that both have failed
    assert s.spare() == []


def test_a_stopped_run_does_not_wait_for_attempts_at_shards_that_are_closed():
    s = scheduler(1)
    s.worker_ready("a")
    s.worker_ready("b")
    s.stop("asked", "resume")
    s.shard_closed("b", receipt(0))
    assert s.finished


def test_memory_does_not_grow_with_the_shards():
    s = scheduler(5000)
    s.worker_ready("a", 3)
    s.worker_ready("b", 3)
    while not s.finished:
        for worker in ("a", "b"):
            for shard in s.hands.open_of(worker):
                if shard % 7 == 0 and not s.log(shard).failures:
                    s.shard_failed(worker, shard, log(shard))
                    s._blame.forgive(worker)
                else:
                    s.shard_closed(worker, receipt(shard))
    kept = [*vars(s._queue).values(), *vars(s.hands).values()]
    assert s.decided == 5000
    assert all(len(each) < 10 for each in kept if isinstance(each, dict | set | list))
