"""Which model to load and how: the part of the job file that the engine needs."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("auto", "float16", "bfloat16", "float32")
OFFLOADS = ("none", "model")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model and the way to load it.

    `path` is a local folder in the diffusers layout or a hub id, `revision` a hub revision.
    `dtype` is ``auto`` (float16 on an accelerator, float32 on a CPU), ``float16``, ``bfloat16``
    or ``float32``; `offload` is ``none`` or ``model`` (one component at a time on the
    accelerator). `device` is ``auto`` (the accelerator if there is one, else the CPU) or a torch
    device such as ``cpu`` or ``cuda``. `endpoint` and `cache_dir` replace the hub's address and
    the place of its cache; None is what huggingface_hub reads from the environment.
    """

    path: str
    revision: str | None = None
    dtype: str = "auto"
    offload: str = "none"
    device: str = "auto"
    endpoint: str | None = None
    cache_dir: str | None = None
