"""Reads the configurations of a model folder, and refuses values that nothing should be fed.

What is checked is what this package computes with, and what would make the libraries hang or take
all memory before they compare it with the weights. Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from render_farm.engine.layout import custom_code, field_of
from render_farm.errors import ModelError, shown

MAX_BYTES = 4 * 2**20
"""Three times the largest configuration in use, of a tokenizer with thousands of added tokens."""
MAX_LEVELS = 16
MAX_PATCH = 256
MAX_SAMPLE_SIZE = 2**16
MAX_TRAIN_STEPS = 100_000
LEAST_TOKENS = 3

_COUNTS = re.compile(r"(.+_)?(layers|blocks|depths?)(_.+)?")
_LISTS = re.compile(r".*(block|layer|depth).*")


def read_json(path: Path) -> Any:
    """The content of a JSON file that is no larger than configurations are.

    Raises: `ModelError` naming the file.
    """
    check_size(path, MAX_BYTES)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"cannot be read as JSON: {error}") from error


def check_size(path: Path, most: int) -> None:
    """Refuse a file of more than `most` bytes. Raises: `ModelError` naming it."""
    size = path.stat().st_size
    if size > most:
        raise damaged(path, f"has {size} bytes, more than {most}")


def damaged(path: Path, what: str) -> ModelError:
    """The refusal of a small file that is not as the libraries write it."""
    return ModelError(
        field_of(path),
        f"{path}: {what}",
        "the file as diffusers wrote it",
        "copy or download the model again, whole",
    )


def check_config(root: Path, file: str, config: object) -> dict[str, Any]:
    """A configuration, if it is a mapping, names no code and has values of the right kind.

    Raises: `ModelError` naming the file and the key.
    """
    if not isinstance(config, dict):
        raise damaged(root / file, f"holds {shown(config)} instead of a mapping")
    if any(key == "auto_map" for key, _ in _entries(config)):
        raise custom_code(str(root), f"{file} has an auto_map")
    for key, (is_right, allowed) in _RULES.get(file, {}).items():
        value = config.get(key)
        if value is not None and not is_right(value):
            raise _wrong(root / file, key, shown(value), allowed)
    return config


def check_layers(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse a configuration of more layers than its component's weights have tensors.

    The libraries build every layer, in minutes and gigabytes, before they look for its weights.

    Raises: `ModelError` naming the file and the key.
    """
    allowed = f"at most {tensors}, which is how many tensors the weights hold"
    for key, value in _entries(config):
        items = value if isinstance(value, list) else [value]
        if _LISTS.fullmatch(key) and len(items) > max(tensors, 1):
            raise _wrong(path, key, f"a list of {len(items)}", allowed)
        if _COUNTS.fullmatch(key) and any(_is_number(each) and each > tensors for each in items):
            raise _wrong(path, key, shown(value), allowed)


def check_tokens(path: Path, config: Mapping[str, Any], positions: object) -> None:
    """Refuse a CLIP tokenizer that makes prompts longer than its text encoder takes.

    Every prompt is padded to this length, so an absurd one takes all memory.

    Raises: `ModelError` naming the file.
    """
    length = config.get("model_max_length")
    if length is None or not _is_whole(positions):
        return
    if not (_is_whole(length) and LEAST_TOKENS <= length <= positions):
        allowed = f"{LEAST_TOKENS} to {positions}, the positions of the text encoder"
        raise _wrong(path, "model_max_length", shown(length), allowed)


def _entries(config: object) -> Iterator[tuple[str, Any]]:
    """The keys and values of a mapping, and of all mappings inside it."""
    waiting = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from each.items()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _wrong(path: Path, key: str, value: str, allowed: str) -> ModelError:
    fix = "copy or download the model again, or choose another one"
    return ModelError(field_of(path), f"{path}: {key}: {value}", allowed, fix)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _are_shares(value: object) -> bool:
    return isinstance(value, list) and all(_is_share(each) for each in value)


def _is_train_steps(value: object) -> bool:
    return _is_whole(value) and 0 < value <= MAX_TRAIN_STEPS


def _are_levels(value: object) -> bool:
    numbers = isinstance(value, list) and all(_is_whole(each) and each > 0 for each in value)
    return numbers and 0 < len(value) <= MAX_LEVELS  # type: ignore[arg-type]  # a list by now


def _is_sample_size(value: object) -> bool:
    sides = value if isinstance(value, list) else [value, value]
    return len(sides) == 2 and all(
        _is_whole(side) and 0 < side <= MAX_SAMPLE_SIZE for side in sides
    )


def _is_patch(value: object) -> bool:
    return isinstance(value, list) or (_is_whole(value) and 0 < value <= MAX_PATCH)


def _are_names(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) for name in names)


_Rule = tuple[Callable[[object], bool], str]
_SHARE: _Rule = (_is_share, "a number from 0 to 1")
_SIZE: _Rule = (_is_sample_size, f"one or two whole numbers from 1 to {MAX_SAMPLE_SIZE}")
_NAMES: _Rule = (_are_names, "the names of blocks")
_RULES: Mapping[str, Mapping[str, _Rule]] = {
    "scheduler/scheduler_config.json": {
        "beta_start": _SHARE,
        "beta_end": _SHARE,
        "trained_betas": (_are_shares, "a list of numbers from 0 to 1"),
        "num_train_timesteps": (_is_train_steps, f"a whole number from 1 to {MAX_TRAIN_STEPS}"),
    },
    "transformer/config.json": {
        "sample_size": _SIZE,
        "patch_size": (_is_patch, f"a whole number from 1 to {MAX_PATCH}, or a list"),
    },
    "unet/config.json": {
        "sample_size": _SIZE,
        "down_block_types": _NAMES,
        "mid_block_type": _NAMES,
        "up_block_types": _NAMES,
    },
    "vae/config.json": {
        "block_out_channels": (_are_levels, f"a list of 1 to {MAX_LEVELS} whole numbers above 0"),
    },
}
"""Where a configuration has the key and a value, the value has to be of this kind."""
