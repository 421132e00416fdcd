"""Puts requests into batches: lazily, in their order, each batch of one group."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from render_farm.job.request import RenderRequest

Item = TypeVar("Item")

VECTOR = 32
"""Numbers that torch's loops on a CPU take at once, at most.

The last few of a batch, where they do not fill a vector, are computed one by one and in activations
by another formula: what is last in such a batch comes out a little differently.
"""


def batches(
    requests: Iterable[RenderRequest],
    batch_size: int,
    group: Callable[[RenderRequest], Hashable],
) -> Iterator[list[RenderRequest]]:
    """Batches of at most `batch_size` consecutive requests of equal group.

    Takes from `requests` only what the batch needs; one more where the group changes.

    Raises: `ValueError` when `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} (allowed: 1 or more)")
    batch: list[RenderRequest] = []
    for request in requests:
        if batch and group(request) != group(batch[0]):
            yield batch
            batch = []
        batch.append(request)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def padded(batch: Sequence[Item], batch_size: int) -> list[Item]:
    """The batch at its full size, its last item repeated."""
    return [*batch, *[batch[-1]] * (batch_size - len(batch))]
