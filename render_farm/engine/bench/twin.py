"""Modules twice, weights once: so that what one side does to its modules is not seen by the other.

An engine may turn weights to another memory layout, replace layers or compile them. The stock
pipeline has to stay what a user has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Module = TypeVar("Module", bound=torch.nn.Module)


def twin(
    module: Module, each: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
) -> Module:
    """A copy of the module whose tensors are `each` of the original's: by default the same memory.

    Moving or converting the tensors of one module then leaves the other's alone, since torch gives
    the moved one new memory. Writing into them in place is seen by both.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = torch.nn.Parameter(each(parameter), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = each(buffer)
    return copy.deepcopy(module, memo)


def on_meta(module: Module) -> Module:
    """A copy of the module without data, on torch's meta device: shapes only."""
    return twin(module, lambda tensor: torch.empty_like(tensor, device="meta"))


def twin_pipeline(pipeline: Any) -> Any:
    """A pipeline of the same weights whose modules and scheduler are its own."""
    copied = copy.copy(pipeline)
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            setattr(copied, name, twin(component))
        elif name == "scheduler":
            setattr(copied, name, copy.deepcopy(component))
    return copied
