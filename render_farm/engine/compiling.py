"""Whether the model is compiled, where what compiling makes is kept, and when it fails."""

from __future__ import annotations

import logging
import os

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from render_farm.engine.source import ModelSource
from render_farm.errors import ModelError, first_line

log = logging.getLogger(__name__)

WORTHWHILE_ON_CPU = 20_000
WORTHWHILE_ON_ACCELERATOR = 4_000
"""Images from which on `auto` compiles.

On a core compiling took half a minute for a size of picture and saved a fifth of the 30 ms that a
picture of the demo model takes. For an accelerator, where a picture takes some 200 ms by published
figures, the number is a guess.
"""

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MOST_SHAPES = 4096


def is_compiled(source: ModelSource, device: torch.device) -> bool:
    """The answer to `ModelSource.compile` for this process.

    ``auto`` says yes to a long job on a machine that has a compiler. Sets the place of torch's
    compile cache for the whole process, unless it is set.

    Raises: `ModelError` when the job asks for compiling and this machine cannot.
    """
    if source.compile is False or (source.compile == "auto" and not _is_worthwhile(source, device)):
        return False
    if source.compile_cache is not None:
        os.environ.setdefault(CACHE_VARIABLE, source.compile_cache)
    _allow_many_shapes()
    obstacle = _obstacle(device)
    if obstacle is None:
        return True
    if source.compile == "auto":
        log.warning("not compiled: this machine cannot", extra={"reason": obstacle})
        return False
    raise ModelError(
        "model.compile",
        f"true, and compiling fails here: {obstacle}",
        "true where torch.compile works: a C++ compiler and Python's headers on a CPU, Triton "
        "and a C compiler on an accelerator",
        "install them (Debian: g++ and python3-dev) on every node, or set model.compile: auto",
    )


def compiler_failure(error: Exception) -> ModelError | None:
    """What an exception says about the compiler; None when it says nothing."""
    if not isinstance(error, TorchDynamoException | FailOnRecompileLimitHit):
        return None
    return ModelError(
        "model.compile",
        f"compiling failed: {' '.join(str(error).split())[:500]}",
        "a model that torch.compile can compile on this machine",
        "see the worker's log, or start a new run with model.compile: false",
    )


def _allow_many_shapes() -> None:
    """Compile for as many sizes as a job has; torch would stop at the ninth.

    Beyond the limit it fails, and never goes on without compiling: that would be other pictures.
    """
    torch._dynamo.config.recompile_limit = MOST_SHAPES  # noqa: SLF001
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES  # noqa: SLF001
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # noqa: SLF001


def _is_worthwhile(source: ModelSource, device: torch.device) -> bool:
    least = WORTHWHILE_ON_CPU if device.type == "cpu" else WORTHWHILE_ON_ACCELERATOR
    return source.planned_images is not None and source.planned_images >= least


def _obstacle(device: torch.device) -> str | None:
    """Why compiling does not work here, found by compiling next to nothing; None if it does."""
    try:
        torch.compile(_next_to_nothing, dynamic=False)(torch.ones(8, device=device))
    except (RuntimeError, OSError) as error:  # a missing compiler, a cache that cannot be written
        return first_line(error)
    return None


def _next_to_nothing(numbers: torch.Tensor) -> torch.Tensor:
    return numbers * 2 + 1
