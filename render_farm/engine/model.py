"""Loads a diffusers text-to-image pipeline from safetensors, and from nothing else."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from render_farm.engine.device import (
    choose_device,
    choose_dtype,
    device_model,
    library_versions,
    settle_kernels,
)
from render_farm.engine.folder import FolderFacts, check_folder
from render_farm.engine.fuse import fuse_loras
from render_farm.engine.hub import is_hub_id, resolve_hub
from render_farm.engine.libraries import heard_warnings, quiet_libraries
from render_farm.engine.preflight import clip_skip_problem
from render_farm.engine.safety import SafetyChecker
from render_farm.engine.sampler import SamplerInfo
from render_farm.engine.source import OFFLOADS, ModelSource
from render_farm.errors import ModelError, ModelTooLarge

__all__ = ["LoadedPipeline", "ModelSource", "load_pipeline"]

log = logging.getLogger(__name__)

LOADABLE = "a text-to-image pipeline that diffusers 0.42 can load from safetensors"


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline in memory, on its device, ready to be called.

    `pipeline` is called as a diffusers text-to-image pipeline is. `size_factor` divides every
    width and height (px). `device_name` is the device's model for the metadata. `clip_skip` is
    for every call; `safety` says of finished pictures what it takes for unsafe.
    """

    pipeline: Any
    size_factor: int
    device: torch.device
    dtype: torch.dtype
    device_name: str
    clip_skip: int | None = None
    safety: SafetyChecker | None = None

    @property
    def dtype_name(self) -> str:
        """The dtype as it is recorded: ``float16``."""
        return str(self.dtype).removeprefix("torch.")

    def info(self, engine: str) -> SamplerInfo:
        """What a sampler of that engine on top of it is."""
        return SamplerInfo(engine, self.device_name, self.dtype_name, library_versions())


def load_pipeline(source: ModelSource) -> LoadedPipeline:
    """Load a model from a local folder, or from the hub if the path is a hub id and no folder.

    Code from the model is never run, pickles are never read, and a model of which weights are
    missing is refused rather than filled up with random ones. LoRAs are part of the weights
    afterwards. Silences the libraries' own warnings and progress bars for the whole process.

    Raises: `ModelError`.
    """
    if source.offload not in OFFLOADS:
        raise ModelError(
            "model.offload", source.offload, ", ".join(OFFLOADS), "choose one of these"
        )
    device = choose_device(source.device)
    dtype = choose_dtype(source.dtype, device)
    if source.offload != "none" and device.type == "cpu":
        raise ModelError(
            "model.offload",
            source.offload,
            "none on a machine without an accelerator",
            "remove model.offload: there is no accelerator to move components off from",
        )
    if source.offload == "balanced":
        _refuse_one_accelerator()
    facts = check_folder(local_folder(source), safety_checker=source.safety_checker)
    quiet_libraries()
    settle_kernels(device)
    pipeline = _read(facts, dtype, balanced=source.offload == "balanced")
    with fitting(source, device):
        fuse_loras(pipeline, source.loras, device, stay=source.offload == "none")
        safety = None
        if source.safety_checker:
            safety = SafetyChecker.load(facts.path, facts.layout, device, dtype)
        pipeline = _place(pipeline, source, device)
    _prepare_clip_skip(pipeline, source.clip_skip, facts)
    log.info("model loaded", extra={"model": source.path, "pipeline": facts.pipeline_class})
    return LoadedPipeline(
        pipeline=pipeline,
        size_factor=facts.size_factor,
        device=device,
        dtype=dtype,
        device_name=device_model(device),
        clip_skip=source.clip_skip,
        safety=safety,
    )


def local_folder(source: ModelSource) -> Path:
    """The model's folder on this machine, downloaded first where the path is a hub id."""
    if is_hub_id(source.path) and not Path(source.path).is_dir():
        model = resolve_hub(
            source.path,
            source.revision,
            endpoint=source.endpoint,
            cache_dir=source.cache_dir,
            safety_checker=source.safety_checker,
        )
        return Path(model.path)
    return Path(source.path)


def _refuse_one_accelerator() -> None:
    count = torch.accelerator.device_count()
    if count < 2:
        raise ModelError(
            "model.offload",
            f"balanced, in a process that sees {count} accelerator{'s' * (count != 1)}",
            "balanced where a worker has 2 or more accelerators",
            "set workers.gpus to that many, or remove model.offload",
        )


def _read(facts: FolderFacts, dtype: torch.dtype, *, balanced: bool) -> Any:
    options: dict[str, Any] = {
        "dtype": dtype,
        "variant": facts.layout.variant,
        "use_safetensors": True,
        "trust_remote_code": False,
        "low_cpu_mem_usage": True,
        "local_files_only": True,
    }
    if balanced:
        options["device_map"] = "balanced"
    if facts.layout.left_out:
        options |= dict.fromkeys(facts.layout.left_out)
        options["requires_safety_checker"] = False
    try:
        with heard_warnings() as heard:
            pipeline = _from_folder(facts.path, options)
    except torch.OutOfMemoryError:
        raise
    # tokenizers raise bare Exceptions, and what else a wrong value leads to is anybody's guess
    except Exception as error:
        raise ModelError(
            "model.path",
            f"{facts.path}: {type(error).__name__}: {error}",
            LOADABLE,
            "copy or download the model again, or choose one of a supported kind",
        ) from error
    _refuse_random_weights(facts.path, heard)
    _refuse_unknown_tokens(facts.path, pipeline)
    if "height" not in inspect.signature(pipeline.__call__).parameters:
        raise ModelError(
            "model.path",
            f"{facts.path}: a {type(pipeline).__name__} takes no height",
            LOADABLE,
            "choose a text-to-image model",
        )
    return pipeline


def _from_folder(path: str, options: dict[str, Any]) -> Any:
    # looked up here, because the import behind it warns of what the machine lacks
    by_task: Any = diffusers.AutoPipelineForText2Image
    by_name: Any = diffusers.DiffusionPipeline
    try:
        return by_task.from_pretrained(path, **options)
    except ValueError as error:
        if "AutoPipeline can't find a pipeline" not in str(error):
            raise
    return by_name.from_pretrained(path, **options)


def _refuse_random_weights(path: str, heard: list[str]) -> None:
    """Both libraries fill up missing weights at random and only warn of it."""
    for message in heard:
        if "newly initialized" in message:
            raise ModelError(
                "model.path",
                f"{path}: weights are missing: {' '.join(message.split())}",
                "a model with all its weights",
                "copy or download the model again, whole",
            )


def _refuse_unknown_tokens(path: str, pipeline: Any) -> None:
    """A number of a token that a CLIP encoder has no row for would end the process on a GPU."""
    for name, encoder in pipeline.components.items():
        tokenizer = pipeline.components.get(name.replace("text_encoder", "tokenizer", 1))
        if not type(encoder).__name__.startswith("CLIPTextModel") or tokenizer is None:
            continue
        numbers = tokenizer.get_vocab().values()
        rows = encoder.get_input_embeddings().num_embeddings
        if not 0 <= min(numbers, default=-1) <= max(numbers) < rows:
            raise ModelError(
                "model.path",
                f"{path}: a tokenizer with {len(numbers)} tokens, up to number "
                f"{max(numbers, default=None)}, beside a {name} that knows {rows}",
                f"tokens from 0 to {rows - 1}",
                "copy or download the model again, whole",
            )


def _prepare_clip_skip(pipeline: Any, clip_skip: int | None, facts: FolderFacts) -> None:
    if clip_skip is None:
        return
    takes_it = "clip_skip" in inspect.signature(pipeline.__call__).parameters
    problem = clip_skip_problem(clip_skip, facts, takes_it=takes_it)
    if problem is not None:
        raise ModelError(problem.field, problem.value, problem.allowed, problem.fix)
    encoder = getattr(pipeline, "text_encoder", None)
    if encoder is not None and not hasattr(encoder, "text_model"):
        # Where layers are left out, Stable Diffusion's pipeline asks the encoder for an inner
        # model that it no longer has in transformers 5. Past torch's bookkeeping of submodules,
        # which would walk in circles.
        object.__setattr__(encoder, "text_model", encoder)


def _place(pipeline: Any, source: ModelSource, device: torch.device) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    if source.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    if source.offload == "balanced":  # every component was loaded to its place
        return pipeline
    return pipeline.to(device)


@contextmanager
def fitting(source: ModelSource, device: torch.device) -> Iterator[None]:
    """What does not fit the device is the job's to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelTooLarge(
            "model.path",
            f"{source.path}: does not fit {device_model(device)}: {error}",
            "a model that fits the device's memory",
            "set model.offload: model, or a smaller model.dtype",
        ) from error
