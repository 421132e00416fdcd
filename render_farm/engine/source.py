"""Which model to load and how: the part of the job file that the engine needs."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("auto", "float16", "bfloat16", "float32")
OFFLOADS = ("none", "model", "balanced")


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA on this machine: the `.safetensors` file at `path`, and how strongly it is added."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model and the way to load it.

    `path` is a local folder in the diffusers layout or a hub id, `revision` a hub revision.
    `dtype` is ``auto`` (float16 on an accelerator, float32 on a CPU), ``float16``, ``bfloat16``
    or ``float32``; `offload` is ``none``, ``model`` (one component at a time on the accelerator) or
    ``balanced`` (components spread over all accelerators that this process sees). `device` is
    ``auto`` (the accelerator if there is one, else the CPU) or a torch device such as ``cpu`` or
    ``cuda``. `endpoint` and `cache_dir` replace the hub's address and the place of its cache; None
    is what huggingface_hub reads from the environment.

    `loras` are added to the weights in this order. `clip_skip` is how many of the last layers of
    the CLIP text encoders are left out. `safety_checker` loads the model's own. `compile` is
    ``auto``, True or False; `planned_images` is how many the whole run makes, None if nobody
    knows, and `compile_cache` a folder for what compiling makes.
    """

    path: str
    revision: str | None = None
    dtype: str = "auto"
    offload: str = "none"
    device: str = "auto"
    endpoint: str | None = None
    cache_dir: str | None = None
    loras: tuple[LoraFile, ...] = ()
    clip_skip: int | None = None
    safety_checker: bool = False
    compile: str | bool = "auto"
    planned_images: int | None = None
    compile_cache: str | None = None
