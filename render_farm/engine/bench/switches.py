"""torch's process-wide switches, kept for each side: an engine sets them for its own sake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_PLACES = {
    "cudnn": (torch.backends.cudnn, ("benchmark", "deterministic", "allow_tf32")),
    "matmul": (
        torch.backends.cuda.matmul,
        (
            "allow_tf32",
            "allow_fp16_reduced_precision_reduction",
            "allow_bf16_reduced_precision_reduction",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Switches:
    """The values of the switches at one time: ``(place, name)`` to value."""

    values: dict[tuple[str, str], bool]
    deterministic: bool

    @classmethod
    def now(cls) -> Switches:
        """What is in force."""
        values = {
            (place, name): getattr(module, name)
            for place, (module, names) in _PLACES.items()
            for name in names
        }
        return cls(values, torch.are_deterministic_algorithms_enabled())

    def set(self) -> None:
        """Put these in force."""
        for (place, name), value in self.values.items():
            setattr(_PLACES[place][0], name, value)
        torch.use_deterministic_algorithms(self.deterministic)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Put these in force until the block ends, then those from before."""
        before = Switches.now()
        self.set()
        try:
            yield
        finally:
            before.set()
