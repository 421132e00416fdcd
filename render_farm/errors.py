"""Every exception that `render_farm` raises on purpose.

::

    RenderFarmError
    ├── InputError              the user's input is wrong; carries every `Problem` found (exit 2)
    ├── StopError               the run stopped before its end and can be resumed (exit 4)
    ├── RowError                one row cannot be rendered; it becomes quarantined
    ├── StoreError
    │   ├── NotFound            no object under the key
    │   ├── AlreadyExists       `create` found an object under the key
    │   ├── AccessDenied        credentials missing, wrong or not sufficient; bucket missing
    │   ├── Unavailable         the store did not answer, after all retries
    │   │   └── Damaged         an object arrived otherwise than it was stored; read it again
    │   └── Unknown             `create` was sent and its outcome is not known
    └── EngineError
        ├── ModelError          the model folder cannot be loaded
        │   └── ModelTooLarge   it does not fit the device's memory, or not beside another
        ├── OutOfMemory         the batch shape does not fit the device; a smaller one may
        └── DeviceLost          the accelerator is in an unknown state; the process must end

Every one of them survives pickling, since workers hand them across processes: pickle rebuilds an
exception as ``type(*args)``, so constructors hand `super().__init__` exactly what they took.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in what the user gave: where it is, what was found, what is allowed, the fix."""

    field: str
    value: str
    allowed: str
    fix: str

    def __str__(self) -> str:
        return f"{self.field}: {self.value} (allowed: {self.allowed}). Fix: {self.fix}"


class RenderFarmError(Exception):
    """Base class of every error raised on purpose."""


class InputError(RenderFarmError):
    """What the user gave is wrong. All problems found are reported together."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @classmethod
    def of(cls, field: str, value: object, allowed: str, fix: str) -> InputError:
        """Build the error from one problem; `value` is shown as the user would recognise it."""
        return cls((Problem(field, shown(value), allowed, fix),))


class StopError(RenderFarmError):
    """The run stopped before its end. Nothing is lost: it can be resumed.

    `reason` says why and `fix` what to do before `resume`.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason = reason
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.reason}. {self.fix}"


class RowError(RenderFarmError):
    """A row that cannot be rendered.

    `error_type` is a short stable word for counting (``null_prompt``), `message` names the
    field, the value and what is allowed.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(error_type, message)
        self.error_type = error_type
        self.message = message

    def __str__(self) -> str:
        return f"{self.error_type}: {self.message}"


class StoreError(RenderFarmError):
    """Something went wrong between us and the store. `key` is the object concerned."""

    def __init__(self, uri: str, key: str, message: str) -> None:
        super().__init__(uri, key, message)
        self.uri = uri
        self.key = key
        self.message = message

    def __str__(self) -> str:
        where = f"{self.uri.rstrip('/')}/{self.key}" if self.key else self.uri
        return f"{where}: {self.message}"


class NotFound(StoreError):
    """There is no object under the key."""


class AlreadyExists(StoreError):
    """`create` found an object under the key. It may be the caller's own earlier write."""


class AccessDenied(StoreError):
    """Credentials are missing, wrong or not sufficient, or the bucket does not exist."""


class Unavailable(StoreError):
    """The store did not answer, or answered with an error of its own, after all retries."""


class Damaged(Unavailable):
    """An object's bytes arrived otherwise than they were stored; read it again."""


class Unknown(StoreError):
    """`create` was sent and it is not known whether it was applied: read back to find out."""


class EngineError(RenderFarmError):
    """An image could not be made, for a reason that is not the row's."""


class ModelError(EngineError):
    """The model cannot be loaded: `field` of the job file, `value`, `allowed` and `fix`."""

    def __init__(self, field: str, value: str, allowed: str, fix: str) -> None:
        super().__init__(field, value, allowed, fix)
        self.problem = Problem(field, value, allowed, fix)

    def __str__(self) -> str:
        return str(self.problem)


class ModelTooLarge(ModelError):
    """The model does not fit into what is free of the device's memory."""


class OutOfMemory(EngineError):
    """The device has no memory for a batch of `batch_size`."""

    def __init__(self, batch_size: int, message: str) -> None:
        super().__init__(batch_size, message)
        self.batch_size = batch_size
        self.message = message

    def __str__(self) -> str:
        return f"out of memory with a batch of {self.batch_size}: {self.message}"


class DeviceLost(EngineError):
    """The accelerator failed in a way that leaves its context unusable; end the process."""


def shown(value: object, limit: int = 200) -> str:
    """A value as an error message shows it: `repr`, cut at `limit` characters and marked so."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def first_line(error: BaseException) -> str:
    """What an error says, without the traces that libraries put below it; its type if nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
