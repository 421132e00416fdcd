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
    ("model.clip_skip", 1, 100),
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


@pytest.mark.parametrize("amounts", [{"a100": 1}, {"a": 0.0001, "b": 2.5}, {}])
def test_resources_have_names_of_their_own_and_amounts_that_ray_can_count(amounts: object) -> None:
    assert job("workers.resources", amounts).workers.resources == amounts


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        *((name, 1) for name in ("CPU", "GPU", "memory", "object_store_memory", "")),
        *(("a", amount) for amount in (0, -1, 0.00004, 0.12345, "much")),
    ],
)
def test_what_ray_cannot_reserve_is_refused(name: str, amount: object) -> None:
    with pytest.raises(InputError) as caught:
        job("workers.resources", {name: amount})
    (problem,) = caught.value.problems
    assert problem.field.startswith("workers.resources")


@pytest.mark.parametrize("value", ["auto", True, False])
def test_compiling_is_auto_or_a_truth(value: object) -> None:
    assert job("model.compile", value).model.compile is value
    for wrong in ("true", 1, 0, None, "yes"):
        assert problem_of("model.compile", wrong).allowed == "auto, true or false"


@pytest.mark.parametrize("value", ["true", 1, 0, None, []])
def test_the_safety_checker_is_a_truth(value: object) -> None:
    assert problem_of("model.safety_checker", value).allowed == "true or false"


def loras(*items: object) -> dict[str, tuple[str, str]]:
    """Field: (value, allowed) of the mistakes in a list of LoRAs."""
    with pytest.raises(InputError) as caught:
        job("model.loras", list(items))
    return {problem.field: (problem.value, problem.allowed) for problem in caught.value.problems}


def test_loras_have_a_path_and_a_weight_of_1_unless_given() -> None:
    assert job("seed", 0).model.loras == []
    first, second = job("model.loras", [{"path": "a"}, {"path": "b", "weight": -10}]).model.loras
    assert (first.path, first.weight) == ("a", 1.0)
    assert (second.path, second.weight) == ("b", -10.0)
    assert problem_of("model.loras", "a.safetensors").allowed.startswith("a list of LoRAs")


def test_every_mistake_in_a_list_of_loras_is_told_with_its_place() -> None:
    found = loras(
        {"path": "a", "weight": 10.5},
        {"path": "a", "weight": float("nan")},
        {"path": "a", "weight": "1"},
        {"path": "", "weight": 1},
        {"weight": 1},
        {"path": "a", "scale": 1},
        "a.safetensors",
    )
    assert found.keys() == {
        "model.loras[0].weight",
        "model.loras[1].weight",
        "model.loras[2].weight",
        "model.loras[3].path",
        "model.loras[4].path",
        "model.loras[5].scale",
        "model.loras[6]",
    }
    assert found["model.loras[0].weight"] == ("10.5", "a number, -10 to 10")
    assert found["model.loras[5].scale"] == ("unknown key", "path, weight")
    assert found["model.loras[6]"] == ("'a.safetensors'", "the keys path, weight")
