"""Looks at the weight files of a model folder without loading them and without importing torch.

A pickle under another name, a header that lies, and parts that lie elsewhere are refused here,
before a run is made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from render_farm.engine.configs import damaged, read_json
from render_farm.engine.layout import SAVE_AGAIN, field_of
from render_farm.errors import ModelError, shown

SUFFIX = ".safetensors"
PARTS = (".safetensors.index.json", ".safetensors.index.fp16.json")


def count_tensors(root: Path, files: Collection[str]) -> Counter[str]:
    """How many tensors the weights among a folder's files hold, by component.

    Reads headers only, which takes milliseconds. An index of parts must name parts that are among
    `files`: the libraries would follow it out of the folder, and to a pickle.

    Raises: `ModelError` naming the file.
    """
    counts: Counter[str] = Counter()
    for file in files:
        component = file.partition("/")[0]
        if file.endswith(SUFFIX):
            counts[component] += _tensors(root / file)
        elif file.endswith(PARTS):
            _check_parts(root / file, {each.removeprefix(f"{component}/") for each in files})
    return counts


def _tensors(path: Path) -> int:
    try:
        # opening holds every shape, type and offset against the length of the file
        with safe_open(path, framework="numpy") as weights:
            count = len(weights.keys())
    except (OSError, SafetensorError) as error:
        raise _refused(path, f"cannot be read as safetensors: {error}") from error
    if not count:
        raise _refused(path, "holds no tensors")
    return count


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(
        field_of(path),
        f"{path}: {what}",
        "weights in whole safetensors files",
        f"copy or download the model again, whole; if it is a pickle, {SAVE_AGAIN}",
    )


def _check_parts(path: Path, beside: Collection[str]) -> None:
    index = read_json(path)
    parts = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(parts, dict):
        raise damaged(path, "has no weight_map")
    for part in parts.values():
        if not (isinstance(part, str) and part.endswith(SUFFIX) and part in beside):
            raise damaged(path, f"names {shown(part)}, which is no safetensors file beside it")
