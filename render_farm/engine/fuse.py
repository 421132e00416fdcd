"""Adds LoRAs to the weights of a loaded pipeline, for good: afterwards its modules are plain.

Fused, a LoRA costs nothing a step, and whatever renders needs to know nothing of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from render_farm.engine.libraries import heard_warnings
from render_farm.engine.loras import FIELD, check_lora, second_matrix_of
from render_farm.engine.source import LoraFile
from render_farm.errors import ModelError

FITTING = "a LoRA that was made for this kind of model"

_FOREIGN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    SafetensorError,
)


def fuse_loras(
    pipeline: Any, loras: Sequence[LoraFile], device: torch.device, *, stay: bool
) -> None:
    """Add `loras` to the weights of a pipeline, each times its weight, in their order.

    The sums are made on `device`, whatever the pipeline is on, so that they are the same on every
    machine with such a device; components that got any are left there if `stay`, and go back to
    the CPU otherwise.

    Raises: `ModelError` when the pipeline takes no LoRAs, or one is not for it: then the pipeline
    is spoilt. Device failures are torch's own.
    """
    if not loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelError(
            FIELD,
            f"{len(loras)}, for a {type(pipeline).__name__}",
            "none for this kind of model: diffusers cannot add LoRAs to it",
            "remove model.loras, or choose another model",
        )
    names = [f"job_{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        _attach(pipeline, name, lora)
    with torch.no_grad():
        _fuse(pipeline, names, loras, device, stay)


def _attach(pipeline: Any, name: str, lora: LoraFile) -> None:
    path = Path(lora.path)
    layers = check_lora(path)
    try:
        tensors = _tensors(path, layers)
        with heard_warnings() as heard, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.load_lora_weights(tensors, adapter_name=name)
    except torch.OutOfMemoryError:
        raise
    except _FOREIGN as error:
        raise _misfit(path, pipeline, f"{type(error).__name__}: {error}") from error
    for message in heard:
        if "unexpected keys" in message or "missing keys" in message:
            raise _misfit(path, pipeline, message)
    # The libraries pass over what they find no place for, in silence.
    attached: list[Any] = [
        layer.lora_B[name]
        for _, part in _parts(pipeline)
        for layer in part.modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_B
    ]
    if len(attached) < len(layers):
        raise _misfit(path, pipeline, f"{len(attached)} of its {len(layers)} layers found a place")
    # In a smaller type small numbers become zero: that is no misfit.
    dtype = next(_parts(pipeline))[1].dtype
    filled = sum(
        bool(tensor.to(dtype).any()) for key, tensor in tensors.items() if second_matrix_of(key)
    )
    arrived = sum(bool(matrix.weight.any()) for matrix in attached)
    if arrived < filled:
        raise _misfit(path, pipeline, f"{arrived} of its {filled} layers were taken over")


def _tensors(path: Path, layers: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """The file's tensors, with the factor of the file's settings in the second matrix of a layer.

    So the settings never reach peft, which would do more with them than that.
    """
    tensors = load_file(path)
    for key, tensor in tensors.items():
        factor = layers.get(second_matrix_of(key) or "", 1.0)
        if factor != 1.0:
            tensors[key] = tensor.float() * factor
    return tensors


def _fuse(
    pipeline: Any,
    names: Sequence[str],
    loras: Sequence[LoraFile],
    device: torch.device,
    stay: bool,
) -> None:
    try:
        pipeline.set_adapters(list(names), adapter_weights=[lora.weight for lora in loras])
        for component, part in _parts(pipeline):
            if any(isinstance(module, LoraLayer) for module in part.modules()):
                part.to(device)
                pipeline.fuse_lora(components=[component], safe_fusing=True)
                if not stay:
                    part.to("cpu")
        pipeline.unload_lora_weights()
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:  # what safe fusing raises of NaN
        raise _misfit(", ".join(lora.path for lora in loras), pipeline, str(error)) from error


def _parts(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """The components that can take a LoRA, by name: the denoiser first."""
    for component in pipeline._lora_loadable_modules:  # noqa: SLF001 - diffusers names it nowhere else
        part = getattr(pipeline, component, None)
        if part is not None:
            yield component, part


def _misfit(path: Path | str, pipeline: Any, what: str) -> ModelError:
    return ModelError(
        FIELD,
        f"{path}: not for this {type(pipeline).__name__}: {' '.join(what.split())[:500]}",
        FITTING,
        "choose a LoRA that was trained on this model, or on one that it comes from",
    )
