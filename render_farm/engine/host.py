"""Copies between host and device that nothing waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class HostCopy:
    """A tensor on its way to the host. `arrived` is a CUDA event, None where it is there."""

    _tensor: torch.Tensor
    _arrived: Any

    @property
    def ready(self) -> bool:
        """Whether `wait` returns at once."""
        return self._arrived is None or bool(self._arrived.query())

    def wait(self) -> NDArray[Any]:
        """The array on the host."""
        if self._arrived is not None:
            self._arrived.synchronize()
        array: NDArray[Any] = self._tensor.numpy()
        return array


class HostCopies:
    """Copies tensors of one device. On CUDA through pinned memory, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        # torch's stubs know no CUDA streams
        self._stream: Any = torch.Stream(device) if device.type == "cuda" else None

    def copy(self, tensor: torch.Tensor) -> HostCopy:
        """Begin to copy what the device has been told to compute; the tensor must not change."""
        if self._stream is None:
            return HostCopy(tensor.cpu(), None)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with self._stream:
            host.copy_(tensor, non_blocking=True)
            arrived = torch.Event(self._stream.device)
            arrived.record(self._stream)
        # the allocator must not hand this memory out while the copy reads it
        tensor.record_stream(self._stream)
        return HostCopy(host, arrived)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on the device; on CUDA queued behind the work that it was told."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
