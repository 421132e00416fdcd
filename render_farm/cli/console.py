"""What the commands say and how they end: one JSON object or text, and an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from render_farm.errors import (
    InputError,
    ModelError,
    Problem,
    RenderFarmError,
    StopError,
    StoreError,
)

if TYPE_CHECKING:
    from render_farm.job.spec import JobSpec

OK, UNEXPECTED, BAD_INPUT, QUARANTINED, STOPPED = 0, 1, 2, 3, 4

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Set where the user has not: no usage reports, no advice about libraries that are not ours."""

err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


class _FieldFormatter(logging.Formatter):
    """The message, then what a record carries in `extra`."""

    _OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(
            f"{key}={value}" for key, value in vars(record).items() if key not in self._OWN
        )
        return f"{super().format(record)}  {fields}".rstrip()


def set_up_logging(verbose: bool) -> None:
    """Our own log to standard error; of others only warnings."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    handler = logging.StreamHandler()
    handler.setFormatter(_FieldFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("render_farm").setLevel(logging.INFO if verbose else logging.WARNING)


@contextmanager
def reporting(as_json: bool) -> Iterator[Report]:
    """Run a command: its report goes to standard output, its errors become exit codes.

    With `as_json`, standard output carries one JSON object and nothing else: what libraries print
    meanwhile, from C too, goes to standard error.
    """
    report = Report(as_json)
    with _stdout_kept_clean(as_json) as write:
        try:
            yield report
        except RenderFarmError as error:
            code = _show_error(error, as_json, write)
        except Exception as error:  # noqa: BLE001 - the edge of the program: a script needs its JSON
            err.print_exception()
            code = UNEXPECTED
            if as_json:
                write(problems_json((_unexpected(error),)))
        else:
            code = report.code
            if as_json:
                write(json.dumps(report.data, default=str, allow_nan=False))
    if code:
        raise SystemExit(code)


class Report:
    """What a command found, and how it is to end."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.data: dict[str, Any] = {}
        self.code = OK

    def say(self, text: str) -> None:
        """Text for people; a script that asked for JSON does not get it."""
        if not self.as_json:
            out.print(text, markup=False)

    def table(self, rows: list[tuple[str, str]]) -> None:
        """Two columns for people; values are never cut, so that they can be copied."""
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self.say(f"{name:<{width}}  {value}")


def lasting(job: JobSpec) -> JobSpec:
    """The job, if what it reads and writes outlives this process. Raises: `InputError`."""
    for field, uri in (("prompts.path", job.prompts.path), ("output.uri", job.output.uri)):
        if uri.lower().startswith("memory:"):
            allowed = "an s3:// prefix or a local path"
            raise InputError.of(field, uri, allowed, "memory ends with the command: name a place")
    return job


def write_file(option: str, path: Path, data: bytes) -> None:
    """Write a file that the user asked for. Raises: `InputError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        allowed = "a file that can be written"
        raise InputError.of(option, f"{path} ({error})", allowed, "name another file") from error


def problems_json(problems: tuple[Problem, ...]) -> str:
    """The design's form of errors."""
    errors = [
        {"field": p.field, "value": p.value, "allowed": p.allowed, "fix": p.fix} for p in problems
    ]
    return json.dumps({"ok": False, "errors": errors})


def _show_error(error: RenderFarmError, as_json: bool, write: Any) -> int:
    problems, code = _problems_of(error)
    if as_json:
        write(problems_json(problems))
    for problem in problems:
        err.print(f"[bold red]{escape(problem.field)}[/]: {escape(problem.value)}")
        if problem.allowed:
            err.print(f"  [dim]allowed:[/] {escape(problem.allowed)}")
        err.print(f"  [dim]fix:[/]     {escape(problem.fix)}")
    return code


def _problems_of(error: RenderFarmError) -> tuple[tuple[Problem, ...], int]:
    if isinstance(error, InputError):
        return error.problems, BAD_INPUT
    if isinstance(error, ModelError):
        return (error.problem,), BAD_INPUT
    if isinstance(error, StopError):
        return (Problem("stopped", error.reason, "", error.fix),), STOPPED
    if isinstance(error, StoreError):
        fix = "check the URI, the credentials (AWS_PROFILE, …) and AWS_ENDPOINT_URL_S3"
        return (Problem("store", str(error), "a store that can be reached", fix),), BAD_INPUT
    return (_unexpected(error),), UNEXPECTED


def _unexpected(error: Exception) -> Problem:
    return Problem(type(error).__name__, str(error), "", "see standard error, and tell us")


@contextmanager
def _stdout_kept_clean(as_json: bool) -> Iterator[Any]:
    if not as_json:
        yield lambda text: out.print(text, markup=False)
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield lambda text: os.write(kept, f"{text}\n".encode())
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
