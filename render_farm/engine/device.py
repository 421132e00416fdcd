"""The device that renders: which one, its names, its memory, and what its failures mean."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from render_farm.engine.source import DTYPES
from render_farm.errors import DeviceLost, EngineError, ModelError, OutOfMemory

CPU_PIXELS_A_BATCH = 2 * 512 * 512
MOST_ON_CPU = 8
MOST_ON_ACCELERATOR = 32
MOST_MEASURED = 64
"""The largest batch that is tried where batches are chosen by measuring."""
# Decoding is the peak: about 1.5 GiB for 512 × 512 in float16, guidance included.
BYTES_A_PIXEL_HALF = 6 * 1024
USABLE_MEMORY = 0.9
OTHER_ACCELERATOR_BYTES = 8 * 2**30

_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
_LOST = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "HIP error", "device-side assert")


def choose_device(wanted: str) -> torch.device:
    """The torch device for `ModelSource.device`; ``auto`` is the accelerator if there is one.

    Raises: `ModelError` when there is no such device.
    """
    if wanted == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            "device", wanted, "auto, cpu or an accelerator of this machine", f"{error}"
        ) from error
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The torch dtype for `ModelSource.dtype`.

    Raises: `ModelError` for an unknown name.
    """
    if wanted not in DTYPES:
        raise ModelError("model.dtype", wanted, ", ".join(DTYPES), "choose one of these")
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    dtype = getattr(torch, wanted)
    assert isinstance(dtype, torch.dtype)
    return dtype


def device_model(device: torch.device) -> str:
    """The device's model: ``NVIDIA H100 80GB HBM3``, or ``cpu: AMD EPYC 9B14 (AVX512)``.

    The vector instructions in use are part of a CPU's name, since clouds call several generations
    ``AMD EPYC``; and one that renders with several threads is another device, ``cpu: AMD EPYC 9B14
    (AVX512, 2 threads)``. Their pictures differ in the last bit.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    vectors = torch.backends.cpu.get_cpu_capability()
    details = vectors if threads == 1 else f"{vectors}, {threads} threads"
    return f"cpu: {_cpu_model(Path('/proc/cpuinfo'))} ({details})"


def _cpu_model(cpuinfo: Path) -> str:
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    """The versions of what decides the pixels: torch, its CUDA if any, diffusers, transformers."""
    versions = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return versions


def set_threads(count: int) -> None:
    """Use `count` threads for the arithmetic of this process on a CPU. Call it before loading.

    One thread is the choice that keeps the promise of equal pictures: how several threads share a
    sum depends on where it lies in the batch. Measured on a small Stable Diffusion: with one thread
    a picture is the same in every lane of batches of 1 to 4; with two it is so in batches of 2 and
    4, and differs by one step of 255 in batches of 3, and from what one thread makes. More threads
    than free cores also make torch a hundred times slower, since they wait by spinning.

    `CallSampler` needs even widths besides, as every published model has them: torch computes the
    end of a tensor that fills no vector register (8 floats with AVX2) by another exponential, and
    at an inner width of 37 that end is a part of the last lane.
    """
    torch.set_num_threads(count)


def settle_kernels(device: torch.device) -> None:
    """Let the shape alone decide which kernels run: never a race between them, never a random one.

    Promised pictures depend on it. On CUDA no product is split along its inner dimension, where
    the parts would be added in an order of their own for some rows of a batch. Holds for the whole
    process, and for cuBLAS only if nothing was computed on the device before.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    matmul = torch.backends.cuda.matmul
    # torch 2.9 cannot say it for split-K alone
    splits = hasattr(matmul, "allow_fp16_reduced_precision_reduction_split_k")
    whole: Any = (False, False) if splits else False
    matmul.allow_fp16_reduced_precision_reduction = whole
    matmul.allow_bf16_reduced_precision_reduction = whole


def first_batch_size(device: torch.device, dtype: torch.dtype, width: int, height: int) -> int:
    """A batch size that should fit the device, to start with; a power of two.

    On a CPU a batch of two 512 × 512 pictures is large enough to keep it busy, and eight is the
    most; on an accelerator see `batch_that_fits`.
    """
    if device.type == "cpu":
        return _power_of_two(CPU_PIXELS_A_BATCH // (width * height), MOST_ON_CPU)
    return batch_that_fits(_free_bytes(device), dtype.itemsize, width, height)


def batch_that_fits(free_bytes: int, itemsize: int, width: int, height: int) -> int:
    """The batch for that much memory: an estimate of 6 KiB a pixel in 16 bits, twice that in 32.

    A power of two from 1 to 32; a tenth of the memory stays free.
    """
    bytes_a_picture = width * height * BYTES_A_PIXEL_HALF * itemsize // 2
    return _power_of_two(int(free_bytes * USABLE_MEMORY) // bytes_a_picture, MOST_ON_ACCELERATOR)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return OTHER_ACCELERATOR_BYTES
    free, _total = torch.cuda.mem_get_info(device)
    # what torch keeps for itself after a batch is free to the next one
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _power_of_two(at_most: int, cap: int) -> int:
    bounded = max(1, min(at_most, cap))
    return 1 << (bounded.bit_length() - 1)


def device_failure(error: Exception, batch_size: int) -> EngineError | None:
    """What an exception says about the device; None when it says nothing, so is a row's."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OutOfMemory(batch_size, text)
    if not isinstance(error, RuntimeError):
        return None
    if any(sign in text for sign in _OUT_OF_MEMORY):
        return OutOfMemory(batch_size, text)
    if isinstance(error, torch.AcceleratorError) or any(sign in text for sign in _LOST):
        return DeviceLost(text)
    return None


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def free_cache(device: torch.device) -> None:
    """Give back what torch keeps of the device's memory, after it ran out."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
