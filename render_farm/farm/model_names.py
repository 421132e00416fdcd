"""Mistakes in a model that has a name, told under that name: `models.xl.path`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from render_farm.errors import InputError, ModelError, Problem
from render_farm.job.spec import ONLY_MODEL, ModelSpec

_KEYS = re.compile(rf"\bmodel\.(?={'|'.join(ModelSpec.model_fields)})")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Tell which of a job's models the mistakes are in that are found here."""
    try:
        yield
    except ModelError as error:
        found = under_name(name, error.problem)
        if found == error.problem:
            raise
        raise type(error)(found.field, found.value, found.allowed, found.fix) from error
    except InputError as error:
        problems = tuple(under_name(name, problem) for problem in error.problems)
        if problems == error.problems:
            raise
        raise InputError(problems) from error


def under_name(name: str, problem: Problem) -> Problem:
    """A mistake in `model.path` as one in `models.xl.path`; another one says for which model."""
    if name == ONLY_MODEL:
        return problem
    own = f"models.{name}"
    field = _KEYS.sub(f"{own}.", problem.field)
    return Problem(
        field=field,
        value=problem.value if field.startswith("models.") else f"{problem.value}, for {own}",
        allowed=_KEYS.sub(f"{own}.", problem.allowed),
        fix=_KEYS.sub(f"{own}.", problem.fix),
    )
