"""What is measured: a model by its name or its folder, and the rows that it is to render."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from render_farm.engine.bench.made import make_model
from render_farm.engine.bench.options import BenchOptions
from render_farm.engine.bench.published import PUBLISHED
from render_farm.engine.bench.workload import (
    MIXED,
    Setting,
    Size,
    mixed_rows,
    most_mixed_rows,
    uniform_rows,
)
from render_farm.engine.choice import choose_engine
from render_farm.engine.folder import check_folder
from render_farm.engine.model import LoadedPipeline, load_pipeline
from render_farm.engine.source import ModelSource
from render_farm.errors import InputError, ModelError, Problem, RowError
from render_farm.job.request import RenderRequest

FOLDER_STEPS = 20
UNIFORM_STEPS_OF_MIXED = 25
GUIDANCE = 7.5

TURNS = 2
"""Batches of uniform rows for the larger side: the second one shows what overlaps."""

Check = Callable[[RenderRequest], None]

_OPTIONS_OF_ROWS = {"bad_size": "--size", "bad_steps": "--steps"}
_OPTIONS = {"model.path": "--model", "model.dtype": "--dtype"}


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in memory, which engine renders it, and what its rows are like."""

    loaded: LoadedPipeline
    engine: str
    size: Size
    setting: Setting


def find_subject(options: BenchOptions) -> Subject:
    """Load or make the model.

    Raises: `InputError` for options that do not fit it.
    """
    try:
        return _made(options) if options.model in PUBLISHED else _from_folder(options)
    except ModelError as error:
        found = error.problem
        field = _OPTIONS.get(found.field, found.field)
        raise InputError((Problem(field, found.value, found.allowed, found.fix),)) from error


def uniform_count(options: BenchOptions, batch: int, stock_batch: int) -> int:
    """Rows of the uniform workload: full batches of both sides, where they are not too many."""
    if options.rows is not None and not options.mixed:
        return options.rows
    common = math.lcm(batch, stock_batch)
    larger = max(batch, stock_batch)
    return TURNS * (common if common <= 4 * larger else larger)


def mixed_workload(
    options: BenchOptions, size: Size, batch: int, first: int = 0
) -> list[RenderRequest]:
    """Rows of the mixed workload, four batches of `batch` at most of a setting.

    Raises: `InputError` where more rows are asked for than there can be.
    """
    most = most_mixed_rows(batch)
    if options.rows is not None and options.rows > most:
        raise InputError.of(
            "--rows",
            options.rows,
            f"1 to {most}: four batches of {batch} of each setting",
            "ask for fewer rows, or for a larger --batch",
        )
    return mixed_rows(size, batch, options.rows, first)


def check_settings(options: BenchOptions, subject: Subject, check: Check) -> None:
    """Let an engine refuse what it can never render, before anything is timed.

    Raises: `InputError`.
    """
    settings = (subject.setting, *(MIXED if options.mixed else ()))
    for setting in settings:
        for row in uniform_rows(1, subject.size, setting):
            try:
                check(row)
            except RowError as error:
                raise InputError((_problem(error),)) from error


def _problem(error: RowError) -> Problem:
    """A row's mistake as one of the option that it comes from."""
    field = _OPTIONS_OF_ROWS.get(error.error_type, "--mixed")
    value, _, allowed = error.message.partition(" (allowed")
    return Problem(field, value, allowed.strip(" :)") or "what the model can", "choose another one")


def _made(options: BenchOptions) -> Subject:
    published = PUBLISHED[options.model]
    size = options.size or Size(published.side_px, published.side_px)
    loaded = make_model(published, options.dtype)
    return Subject(loaded, "steps", size, _setting(options, published.steps))


def _from_folder(options: BenchOptions) -> Subject:
    if not Path(options.model).is_dir():
        raise InputError.of(
            "--model", options.model, "a local model folder, sd15 or sdxl", "give one of these"
        )
    facts = check_folder(options.model)
    size = options.size
    if size is None:
        if facts.default_width is None or facts.default_height is None:
            raise InputError.of(
                "--size",
                "default",
                "WIDTHxHEIGHT in pixels",
                "give it: the model does not say its own",
            )
        size = Size(facts.default_width, facts.default_height)
    loaded = load_pipeline(ModelSource(options.model, dtype=options.dtype))
    return Subject(loaded, choose_engine("auto", facts), size, _setting(options, FOLDER_STEPS))


def _setting(options: BenchOptions, usual_steps: int) -> Setting:
    usual = UNIFORM_STEPS_OF_MIXED if options.mixed else usual_steps
    return Setting(options.steps or usual, GUIDANCE, "model")
