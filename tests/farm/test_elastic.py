"""What a pool makes of a cluster that changes, as sentences. The test is the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ray.exceptions import RaySystemError

from render_farm.farm.elastic import LOOK_S, Elastic, Look
from render_farm.farm.sizing import fitting

ONE_CPU = {"CPU": 1.0}


@dataclass
class Cluster:
    """Answers looks with `now`, or fails; counts them. Time is what the test says."""

    now: Look = field(default_factory=Look)
    fails: bool = False
    looks: int = 0
    time_s: float = 0.0
    asked: list[list[dict[str, float]]] = field(default_factory=list)

    def look(self) -> Look:
        self.looks += 1
        if self.fails:
            raise RaySystemError("no head")
        return self.now

    def ask(self, bundles: list[dict[str, float]]) -> None:
        if self.fails:
            raise RaySystemError("no head")
        self.asked.append(bundles)

    def elastic(self, bundle: dict[str, float] | None = None) -> Elastic:
        return Elastic(bundle or ONE_CPU, self.look, self.ask, lambda: self.time_s)


def test_room_is_what_is_free_on_every_node():
    """What other jobs use, and what the pool's own workers use, is not free."""
    elastic = Cluster(Look({"a": {"CPU": 2.0}, "b": {"CPU": 1.5}, "c": {}})).elastic()
    assert elastic.room(frozenset(), 0) == 3


def test_nodes_that_are_left_out_or_drain_have_no_room():
    nodes = {name: {"CPU": 4.0} for name in "abc"}
    elastic = Cluster(Look(nodes, draining={"b"})).elastic()
    assert elastic.room({"c"}, 0) == 4


def test_workers_that_were_started_and_are_nowhere_yet_are_not_counted_twice():
    elastic = Cluster(Look({"a": {"CPU": 3.0}})).elastic()
    assert elastic.room(frozenset(), 2) == 1
    assert elastic.room(frozenset(), 5) == 0


def test_a_worker_needs_all_that_it_reserves_on_one_node():
    bundle = {"CPU": 2.0, "GPU": 0.5, "fast-disk": 1.0}
    nodes = {
        "whole": {"CPU": 8.0, "GPU": 1.0, "fast-disk": 9.0},
        "no disk": {"CPU": 8.0, "GPU": 8.0},
        "no card": {"CPU": 8.0, "fast-disk": 8.0},
    }
    assert Cluster(Look(nodes)).elastic(bundle).room(frozenset(), 0) == 2


@pytest.mark.parametrize(("gpus", "share", "workers"), [(1.0, 0.1, 10), (0.3, 0.1, 3), (2, 0.5, 4)])
def test_no_share_of_an_accelerator_is_lost_to_rounding(gpus: float, share: float, workers: int):
    assert fitting({"CPU": 99.0, "GPU": gpus}, {"CPU": 1, "GPU": share}) == workers


def test_a_place_that_was_free_at_the_last_look_may_be_taken_by_now():
    """Else a worker would be started for the place of one that has just been placed."""
    cluster = Cluster(Look({"a": {"CPU": 1.0}}))
    elastic = cluster.elastic()
    assert elastic.draining() == []
    cluster.now = Look({"a": {"CPU": 0.0}})
    assert elastic.room(frozenset(), 0) == 0


def test_drain_notices_are_looked_for_once_a_second_however_often_they_are_asked_for():
    cluster = Cluster()
    elastic = cluster.elastic()
    for _ in range(100):
        elastic.draining()
    assert cluster.looks == 1
    cluster.time_s = LOOK_S
    elastic.draining()
    assert cluster.looks == 2


def test_a_node_that_drains_is_told_once():
    cluster = Cluster(Look({"a": {}, "b": {}}, draining={"a"}))
    elastic = cluster.elastic()
    assert elastic.draining() == ["a"]
    cluster.time_s, cluster.now = 5.0, Look({"a": {}, "b": {}}, draining={"a", "b"})
    assert elastic.draining() == ["b"]


def test_while_the_head_does_not_answer_the_last_look_stands():
    cluster = Cluster(Look({"a": {"CPU": 2.0}}))
    elastic = cluster.elastic()
    assert elastic.room(frozenset(), 0) == 2
    cluster.time_s, cluster.fails = 5.0, True
    assert elastic.room(frozenset(), 0) == 2


def test_the_autoscaler_is_asked_only_when_something_else_is_wanted_and_at_last_for_nothing():
    cluster = Cluster()
    elastic = cluster.elastic({"CPU": 1.0, "GPU": 1.0})
    for workers in (2, 2, 1, 0, 0):
        elastic.want(workers)
    bundle = {"CPU": 1.0, "GPU": 1.0}
    assert cluster.asked == [[bundle, bundle], [bundle], []]


def test_an_autoscaler_that_could_not_be_asked_is_asked_again():
    cluster = Cluster(fails=True)
    elastic = cluster.elastic()
    elastic.want(1)
    cluster.fails = False
    elastic.want(1)
    assert cluster.asked == [[ONE_CPU]]
