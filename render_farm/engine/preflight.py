"""Holds a job's default parameters against a model folder before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from render_farm.engine.checks import check_side
from render_farm.engine.folder import FolderFacts
from render_farm.engine.rehearsal import SIZE_FACTOR
from render_farm.engine.schedulers import NAMES, check_scheduler, step_bounds
from render_farm.errors import Problem, RowError, shown

ANY_BETAS = {"beta_schedule": "scaled_linear"}
"""A rehearsal takes every scheduler that there is."""


class Parameters(Protocol):
    """The defaults of a job that a model can refuse."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def scheduler(self) -> str: ...


def check_defaults(defaults: Parameters, facts: FolderFacts | None) -> list[Problem]:
    """Every default that the model in the folder, or a rehearsal (None), can never render.

    Imports no torch.
    """
    problems = _size_problems(defaults, facts.size_factor if facts else SIZE_FACTOR)
    if facts is None:
        return problems + _scheduler_problems(defaults, ANY_BETAS, "")
    own_class = facts.layout.components.get("scheduler", "")
    return problems + _scheduler_problems(defaults, _scheduler_config(facts), own_class)


def _size_problems(defaults: Parameters, factor: int) -> list[Problem]:
    problems = []
    for field in ("width", "height"):
        value = getattr(defaults, field)
        try:
            check_side(field, value, factor)
        except RowError:
            nearest = max(factor, round(value / factor) * factor)
            problems.append(
                Problem(
                    f"defaults.{field}",
                    shown(value),
                    f"multiples of {factor}, the factor between the model's pixels and latents",
                    f"set it to {nearest}",
                )
            )
    return problems


def _scheduler_problems(
    defaults: Parameters, config: Mapping[str, Any], own_class: str
) -> list[Problem]:
    name, steps = defaults.scheduler, defaults.steps
    try:
        check_scheduler(name, steps, config, own_class)
    except RowError as error:
        if error.error_type == "bad_steps":
            least, most = step_bounds(name, config, own_class)
            allowed = f"{least} to {most} with {name}"
            return [Problem("defaults.steps", shown(steps), allowed, "set it within this range")]
        fits = ", ".join(NAMES) if name not in NAMES else "model"
        return [Problem("defaults.scheduler", shown(name), fits, "name one of these")]
    return []


def _scheduler_config(facts: FolderFacts) -> dict[str, Any]:
    path = Path(facts.path) / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
