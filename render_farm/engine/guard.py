"""The row's seam: whatever the libraries raise at a batch becomes a fault of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from render_farm.engine.compiling import compiler_failure
from render_farm.engine.device import device_failure, free_cache
from render_farm.errors import EngineError, OutOfMemory, RowError

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a batch could not be computed: the type and the text of what was raised."""

    error_type: str
    error: str


def attempt(action: Callable[[], Result], device: torch.device, batch_size: int) -> Result | Fault:
    """What `action` returns, or the fault of the rows that it was about.

    Raises:
        OutOfMemory: the batch does not fit the device.
        DeviceLost: the process must end.
        ModelError: the compiler failed, which is no row's fault.
    """
    try:
        return action()
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001  the row: whatever it raises, it is quarantined
        failure = device_failure(error, batch_size) or compiler_failure(error)
        fault = _fault(error)
    # Only here, where the exception and the tensors that its traceback holds are gone.
    if isinstance(failure, OutOfMemory):
        free_cache(device)
    if failure is not None:
        raise failure
    return fault


def halves(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """The two halves of a batch in which a fault is looked for."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


def _fault(error: Exception) -> Fault:
    if isinstance(error, RowError):
        return Fault(error.error_type, error.message)
    return Fault(type(error).__name__, str(error))
