"""Looks at LoRA files without loading them and without importing torch.

What can be seen of a file by itself is refused here: pickles, files that hold no LoRA, kinds that
diffusers would apply in part, and settings of the file's own that would do more than add weights.
Whether its layers are the model's shows when it is loaded: `render_farm.engine.fuse`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from render_farm.engine.layout import PICKLES
from render_farm.errors import ModelError, shown

FIELD = "model.loras"
SUFFIX = ".safetensors"
ALLOWED = (
    "a .safetensors file that holds a LoRA, a folder or s3:// prefix with exactly one, or a hub id"
)

MAX_ALPHA = 1e6

_MATRIX = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.lora_(?:(?P<A>A)|(?P<B>B)|(?P<down>down)|(?P<up>up))"
    r"|[._]lora(?:_linear_layer)?\.(?:(?P<old_down>down)|(?P<old_up>up)))\.weight"
)
# what peft takes for an expression, of which some never come to an end
_NAME = re.compile(r"\^?[\w.-]+\$?")
_ALPHA = re.compile(r"(?P<module>.+)\.alpha")
_DOWN = frozenset({"A", "down", "old_down"})

# The settings that training with peft leaves in the file. peft would act on all of them, and some
# import modules or rewrite the model's weights: it never gets them. The strength is taken from them
# here, a few more say nothing of the picture, and any other has to be empty.
_METADATA = "lora_adapter_metadata"
_COMPONENT = re.compile(r"(?P<part>unet|transformer(?:_\d)?|text_encoder(?:_\d)?)\.(?P<rest>.+)")
_STRENGTH = frozenset({"alpha_pattern", "lora_alpha", "use_rslora"})
_HARMLESS = frozenset(
    {
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
    }
)
_HARMLESS_VALUES: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian"),
    "peft_type": ("LORA",),
}


def choose_lora(where: str, names: Iterable[str], fix: str = "name the file itself") -> str:
    """The one LoRA among the names of a folder's files, not of its subfolders.

    `fix` is what to do where there are several.

    Raises: `ModelError` when there is none, or are several.
    """
    top = sorted(name for name in names if "/" not in name)
    found = [name for name in top if name.endswith(SUFFIX)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(
            FIELD,
            f"{where}: holds {', '.join(found[:5])}",
            ALLOWED,
            fix,
        )
    pickles = [name for name in top if name.endswith(PICKLES)]
    if pickles:
        raise pickled(f"{where}: {pickles[0]}")
    raise ModelError(FIELD, f"{where}: no .safetensors file", ALLOWED, "give the LoRA's file")


def pickled(what: str) -> ModelError:
    """The refusal of weights that can run code when they are loaded."""
    return ModelError(
        FIELD,
        f"{what} is no .safetensors file",
        f"{ALLOWED}; a pickle can run any code when it is loaded",
        "download the LoRA as .safetensors, or convert it on a machine where you trust it",
    )


def check_lora(path: str | Path) -> dict[str, float]:
    """Check what a LoRA file shows without loading it.

    Returns the layers that it adds to, under the names that they have in the file, each with the
    factor that the file's own settings give it: 1 where there are none. Reads the file's header
    only. Layers may be named as peft and diffusers name them (``unet.….lora_A.weight``,
    ``….lora.down.weight``) or as kohya does (``lora_unet_….lora_down.weight``, whose ``….alpha`` is
    diffusers' to apply).

    Raises: `ModelError` naming the file and what is wrong with it.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _refused(path, f"cannot be read as safetensors: {error}") from error
    ranks = _ranks(path, shapes)
    settings = _settings(path, metadata)
    return {layer: _factor(path, layer, rank, settings) for layer, rank in ranks.items()}


def second_matrix_of(key: str) -> str | None:
    """The layer of which a tensor is the second matrix, the one that makes its output."""
    matrix = _MATRIX.fullmatch(key)
    return matrix["module"] if matrix and matrix.lastgroup not in _DOWN else None


def _ranks(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    downs: dict[str, tuple[int, ...]] = {}
    ups: dict[str, tuple[int, ...]] = {}
    alphas: set[str] = set()
    unknown = []
    for key, shape in shapes.items():
        if matrix := _MATRIX.fullmatch(key):
            (downs if matrix.lastgroup in _DOWN else ups)[matrix["module"]] = shape
        elif (alpha := _ALPHA.fullmatch(key)) and shape in {(), (1,)}:
            alphas.add(alpha["module"])
        else:
            unknown.append(key)
    if not downs and not ups:
        raise _refused(path, f"has no LoRA layers, but {shown(sorted(shapes)[:3])}")
    if unknown:
        raise _refused(path, f"has more than LoRA layers: {shown(sorted(unknown)[:3])}")
    if halves := sorted((downs.keys() ^ ups.keys()) | (alphas - downs.keys())):
        raise _refused(path, f"has only a part of the layer {halves[0]}")
    for module, down in downs.items():
        up = ups[module]
        if len(down) not in {2, 4} or len(up) != len(down) or down[0] != up[1] or 0 in down + up:
            raise _refused(path, f"has the shapes {down} and {up} at {module}, which do not fit")
    return {module: down[0] for module, down in downs.items()}


def _settings(path: str | Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The settings that decide the strength, by component; ``""`` is for all of them."""
    if not metadata.get(_METADATA):
        return {}
    try:
        found = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"has {_METADATA} that is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _refused(path, f"has {_METADATA} that is no mapping")
    settings: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        match = _COMPONENT.fullmatch(key)
        part, name = (match["part"], match["rest"]) if match else ("", key)
        if name in _STRENGTH:
            settings.setdefault(part, {})[name] = value
        elif value and name not in _HARMLESS and value not in _HARMLESS_VALUES.get(name, ()):
            raise ModelError(
                FIELD,
                f"{path}: its {_METADATA} says {key}: {shown(value)}",
                "a LoRA whose settings are its rank, its alpha and its layers",
                "save it again as a plain LoRA, or choose another one",
            )
    return settings


def _factor(
    path: str | Path, layer: str, rank: int, settings: Mapping[str, Mapping[str, Any]]
) -> float:
    """Alpha over the rank, or over its root, as peft has it."""
    if not settings:
        return 1.0
    match = _COMPONENT.fullmatch(layer)
    if match is None:
        raise _refused(path, f"has {_METADATA}, which does not say anything of {layer}")
    own = {**settings.get("", {}), **settings.get(match["part"], {})}
    alpha = own.get("lora_alpha", rank)
    patterns = own.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise _refused(path, f"has {_METADATA} with alpha_pattern: {shown(patterns)}")
    for pattern, value in patterns.items():
        if not _NAME.fullmatch(pattern):
            raise _refused(path, f"has {_METADATA} with the alpha_pattern {shown(pattern)}")
        if re.match(rf"(.*\.)?({pattern})$", match["rest"]):  # as peft matches them
            alpha = value
            break
    if not isinstance(alpha, int | float) or not abs(alpha) <= MAX_ALPHA:
        raise _refused(path, f"has {_METADATA} with an alpha of {shown(alpha)}")
    return float(alpha) / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _refused(path: str | Path, what: str) -> ModelError:
    return ModelError(
        FIELD,
        f"{path}: {what}",
        ALLOWED,
        "choose a LoRA file for this model: plain LoRA, neither DoRA nor LoHa, LoKr or a whole "
        "checkpoint",
    )
