"""The bounds of every number of a job file, tried from both sides."""

from __future__ import annotations

from typing import Any

import pytest

from render_farm.errors import InputError, Problem
from render_farm.job.load import parse_job
from render_farm.job.spec import JobSpec
from tests.making.jobs import job_document


def job(key: str, value: object) -> JobSpec:
    """A job with one dotted key set."""
    section, _, name = key.rpartition(".")
    changes: dict[str, Any] = {section: {name: value}} if section else {name: value}
    return parse_job(job_document("p.parquet", "out", **changes))


def problem_of(key: str, value: object) -> Problem:
    with pytest.raises(InputError) as caught:
        job(key, value)
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == (key, repr(value))
    return problem


BOUNDS = [
    ("prompts.limit", 1, None),
    ("defaults.width", 8, 8192),
    ("defaults.height", 8, 8192),
    ("defaults.steps", 1, 1000),
    ("defaults.guidance_scale", 0, 100),
    ("defaults.samples", 1, 100),
    ("seed", 0, 2**63 - 1),
    ("output.quality", 1, 100),
    ("shards.rows", 1, 100_000),
    ("workers.count", 1, 10_000),
    ("workers.gpus", 0, 64),
    ("workers.cpus", 1, 1024),
    ("workers.batch_size", 1, 1024),
    ("limits.attempts", 1, 100),
    ("limits.max_quarantined", 0, 1),
]


@pytest.mark.parametrize(("key", "least", "most"), BOUNDS)
def test_numbers_are_accepted_up_to_their_bounds_and_not_beyond(
    key: str, least: int, most: int | None
) -> None:
    for value in (least, *([] if most is None else [most])):
        job(key, value)
    for value in (least - 1, -(10**30), *([] if most is None else [most + 1, 10**30])):
        problem = problem_of(key, value)
        assert str(least) in problem.allowed
        assert problem.fix == f"set {problem.field} to {problem.allowed}"


@pytest.mark.parametrize("key", [key for key, _, _ in BOUNDS])
@pytest.mark.parametrize("value", ["5", True, [5], {"a": 5}, float("nan"), float("inf"), ""])
def test_what_is_no_number_is_no_number(key: str, value: object) -> None:
    problem_of(key, value)


@pytest.mark.parametrize("key", [key for key, _, _ in BOUNDS if "gpus" not in key])
def test_half_a_number_is_refused_where_whole_ones_are_asked_for(key: str) -> None:
    if key in {"defaults.guidance_scale", "limits.max_quarantined"}:
        assert job(key, 0.5)
    else:
        problem = problem_of(key, 5.5)
        assert "whole number" in problem.allowed or "whole pixels" in problem.allowed


@pytest.mark.parametrize("value", ["auto", 0, 0.25, 8])
def test_gpus_may_be_shared(value: object) -> None:
    assert job("workers.gpus", value).workers.gpus == value
