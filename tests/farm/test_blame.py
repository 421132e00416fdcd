"""Whom failures are held against, as sentences."""

from __future__ import annotations

from render_farm.farm.blame import Blame


def blame(**nodes: str) -> Blame:
    found = Blame(workers=len(nodes), attempts=3)
    for worker, node in nodes.items():
        found.placed(worker, node)
    return found


def test_a_node_on_which_three_shards_fail_is_left_out():
    b = blame(a="sick", b="well")
    assert b.against_node("a", "shard 1") is None
    assert b.against_node("a", "shard 2") is None
    assert b.against_node("a", "shard 3") == "sick"
    assert b.is_left_out("a")
    assert not b.is_left_out("b")


def test_one_shard_that_fails_again_and_again_says_nothing_of_a_node():
    b = blame(a="one", b="other")
    assert not any(b.against_node("a", "shard 1") for _ in range(9))


def test_a_shard_closed_on_the_node_forgives_what_was_before():
    b = blame(a="node", a2="node", b="other")
    b.against_node("a", "shard 1")
    b.against_node("a", "shard 2")
    b.forgive("a2")
    assert b.against_node("a", "shard 3") is None


def test_a_shard_closed_elsewhere_forgives_nothing():
    b = blame(a="sick", b="well")
    b.against_node("a", "shard 1")
    b.against_node("a", "shard 2")
    b.forgive("b")
    assert b.against_node("a", "shard 3") == "sick"


def test_failures_of_several_workers_add_up_for_their_node():
    b = blame(a1="sick", a2="sick", a3="sick", b="well")
    b.against_node("a1", "a1")
    b.gone("a1")
    b.against_node("a2", "a2")
    b.gone("a2")
    assert b.against_node("a3", "a3") == "sick"


def test_the_last_node_is_never_left_out():
    b = blame(a="one", b="two")
    for shard in range(3):
        b.against_node("a", f"shard {shard}")
    assert b.left_out == {"one"}
    assert not any(b.against_node("b", f"shard {shard}") for shard in range(9))


def test_where_there_is_one_node_it_stays():
    b = blame(a="only", b="only")
    assert not any(b.against_node("a", f"shard {shard}") for shard in range(9))


def test_a_node_that_refuses_a_worker_is_left_out_at_once():
    b = blame(a="without the model", b="well")
    assert b.refused("a") == "without the model"
    assert b.refused("b") is None  # there is no other


def test_of_a_worker_that_nobody_placed_no_node_can_be_blamed():
    b = blame(b="well")
    assert b.refused("a") is None
    assert not any(b.against_node("a", f"shard {shard}") for shard in range(9))


def test_nodes_are_taken_back_when_no_worker_is_on_another():
    b = blame(a="one", a2="one", b="two")
    for shard in range(3):
        b.against_node("a", f"shard {shard}")
    assert not b.take_back()  # b works elsewhere
    b.gone("b")
    assert b.take_back()
    assert b.left_out == set()
    assert not b.take_back()
    assert b.against_node("a", "shard 9") is None


def test_the_more_workers_have_joined_the_more_may_be_lost_at_once():
    """A cluster that grew from one node to a hundred may lose fifty spot nodes in a minute."""
    grown = Blame(workers=1, attempts=3)
    for number in range(100):
        grown.placed(f"w{number}", f"n{number}")
    assert [grown.lost() for _ in range(50)] == [None] * 50
    assert any(grown.lost() for _ in range(300))
