"""The scheduler in farms that are played by chance; the rules are asserted in `simulated.py`."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.farm.simulated import SimulatedFarm

chance = st.integers(0, 2**32)
often = settings(max_examples=300, deadline=None)


@often
@given(chance, st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_whatever_happens_every_shard_ends_closed_or_given_up_exactly_once(
    seed: int, shards: int, places: int, attempts: int, workers: int
):
    farm = SimulatedFarm(
        Random(seed),
        shards,
        places,
        attempts,
        workers,
        killers=frozenset(range(0, shards, 5)),
        deaths=30,
        errors=60,
        drains=2,
        patient=seed % 2 == 0,
    )
    farm.play()
    assert farm.scheduler.given_up == farm.given_up
    assert not farm.given_up & set(farm.closed)
    assert len(farm.closed) == len(set(farm.closed))
    if farm.scheduler.stopped is None:
        assert farm.given_up | set(farm.closed) == set(range(shards))


@often
@given(chance, st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_shards_that_end_their_workers_are_given_up_and_cost_no_other_shard(
    seed: int, shards: int, places: int, attempts: int, workers: int
):
    """One end in company, which is nobody's, and then as many as there are attempts. A second
    attempt at such a shard, begun before the first end was known, may cost one more."""
    random = Random(seed)
    killers = frozenset(shard for shard in range(shards) if random.random() < 0.3)
    farm = SimulatedFarm(
        random, shards, places, attempts, workers, killers, deaths=attempts - 1, drains=1
    )
    farm.play()
    assert farm.scheduler.stopped is None
    assert farm.given_up == killers
    assert set(farm.closed) == set(range(shards)) - killers
    assert all(count <= attempts + 2 for count in farm.killed_by.values())


@often
@given(chance, st.integers(10, 30), st.integers(1, 4), st.integers(1, 4))
def test_workers_that_live_have_their_hands_full(seed: int, shards: int, places: int, workers: int):
    farm = SimulatedFarm(Random(seed), shards, places, attempts=1, workers=workers)
    farm.play()
    assert sorted(farm.closed) == list(range(shards))
    assert farm.at_once == places
