"""What a diffusers model folder consists of: pure functions over its index and its file names.

The same rules choose what is downloaded from the hub, what a digest covers and what loading reads,
so the three cannot disagree. Nothing here touches a disk or imports torch.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from render_farm.errors import ModelError, shown

INDEX = "model_index.json"
ALLOWED = "a folder in the diffusers layout: model_index.json and a folder for each component"
SAVE_AGAIN = (
    "load the original in diffusers on a machine where you trust it and write it with "
    "`save_pretrained(folder, safe_serialization=True)`"
)

_STEM = r"(?:diffusion_pytorch_model|model)"
_FULL = re.compile(rf"{_STEM}(?:-\d+-of-\d+)?\.safetensors|{_STEM}\.safetensors\.index\.json")
_FP16 = re.compile(
    rf"{_STEM}\.fp16(?:-\d+-of-\d+)?\.safetensors"
    rf"|{_STEM}-\d+-of-\d+\.fp16\.safetensors"
    rf"|{_STEM}\.safetensors\.index\.fp16\.json"
)
ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_SMALL = (".json", ".txt", ".model", ".spm", ".jinja")
_WEIGHTLESS = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor")
_LIBRARIES = ("diffusers", "transformers")

CHECKER_CLASS = "StableDiffusionSafetyChecker"
CHECKER_PARTS = ("feature_extractor", "safety_checker")
"""What the index names beside the components that make a picture."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What loading reads: `components` maps names to classes, `files` are relative, sorted.

    `left_out` are the components that the index names and that the pipeline gets as None: the
    safety checker and the feature extractor that only it uses. Where the checker is asked for,
    `files` holds theirs as well. `variant` is ``fp16`` where a component has no other weights.
    """

    pipeline_class: str
    components: Mapping[str, str]
    left_out: tuple[str, ...]
    variant: str | None
    files: tuple[str, ...]


def read_layout(
    where: str, index: object, paths: Collection[str], *, safety_checker: bool = False
) -> Layout:
    """Decide what to load of a model from its parsed index and the names of its files.

    `where` is the model as the user named it; `paths` are relative, with forward slashes.
    `safety_checker` asks for the model's own safety checker.

    Raises: `ModelError` when a component is missing, has only pickled weights, or needs code
    that is not part of diffusers or transformers, and when there is no safety checker to load.
    """
    if not isinstance(index, dict) or "_class_name" not in index:
        raise ModelError(
            "model.path",
            f"{where}: {INDEX} names no pipeline class",
            ALLOWED,
            "choose the folder that `save_pretrained` of a pipeline wrote",
        )
    pipeline_class = index["_class_name"]
    if not isinstance(pipeline_class, str):
        raise custom_code(where, f"{INDEX} names the pipeline {shown(pipeline_class)}")
    if index.get("custom_pipeline"):
        raise custom_code(where, f"{INDEX} names custom_pipeline")
    named = _components(where, index)
    left_out = _left_out(index, named)
    components = {name: named[name] for name in sorted(named) if name not in left_out}
    weights = {name: _weights(where, name, cls, paths) for name, cls in components.items()}
    variant = "fp16" if any(fp16 and not full for full, fp16 in weights.values()) else None
    files = {INDEX}
    for name, (full, fp16) in weights.items():
        files |= fp16 if variant and fp16 else full
        files |= _small_files(name, paths)
    if safety_checker:
        for name, (full, fp16) in _checker_weights(where, named, paths).items():
            files |= full or fp16
            files |= _small_files(name, paths)
    return Layout(pipeline_class, components, left_out, variant, tuple(sorted(files)))


def field_of(path: Path) -> str:
    """The key of the job file that a model's file is read for."""
    return "model.safety_checker" if path.parent.name in CHECKER_PARTS else "model.path"


def custom_code(where: str, what: str) -> ModelError:
    """The refusal of a model that brings its own Python code."""
    return ModelError(
        "model.path",
        f"{where}: {what}",
        "models whose classes are all part of diffusers or transformers; code from a model "
        "folder is never run",
        "choose a model without custom code",
    )


def _components(where: str, index: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
            continue
        library, cls = value
        if library is None or cls is None:
            continue
        if not (isinstance(library, str) and isinstance(cls, str) and _is_known(library)):
            raise custom_code(where, f"{INDEX} takes {name} from {shown(value)}")
        if not re.fullmatch(r"\w+", name):
            raise custom_code(where, f"{INDEX} names a component {shown(name)}")
        named[name] = cls
    return named


@cache
def _pipelines_folder() -> Path:
    """Where diffusers keeps its pipeline modules, found without importing it."""
    spec = importlib.util.find_spec("diffusers")
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise ModelError("model.path", "diffusers is not installed", "diffusers", "install it")
    return Path(locations[0]) / "pipelines"


def _is_known(library: str) -> bool:
    """Whether diffusers itself provides the module: the libraries, or one of its pipelines."""
    if library in _LIBRARIES:
        return True
    return re.fullmatch(r"\w+", library) is not None and (
        (_pipelines_folder() / library / "__init__.py").is_file()
        or (_pipelines_folder() / f"{library}.py").is_file()
    )


def _left_out(index: Mapping[str, Any], named: Mapping[str, str]) -> tuple[str, ...]:
    # Folders of which somebody took the safety checker out keep the key, with null, and the
    # feature extractor, whose class may be one that transformers 5 no longer has.
    if "safety_checker" not in index:
        return ()
    return tuple(name for name in CHECKER_PARTS if name in named)


def _checker_weights(
    where: str, named: Mapping[str, str], paths: Collection[str]
) -> dict[str, tuple[set[str], set[str]]]:
    """The weight files of the safety checker and of its feature extractor, which has none."""
    found = {name: named.get(name) for name in CHECKER_PARTS}
    if found["safety_checker"] != CHECKER_CLASS or found["feature_extractor"] is None:
        raise ModelError(
            "model.safety_checker",
            f"true: {where} has "
            + ", ".join(f"{name}: {shown(cls)}" for name, cls in found.items()),
            f"true for a model whose {INDEX} names a {CHECKER_CLASS} and its feature_extractor",
            "set model.safety_checker: false, or choose a model that has one",
        )
    try:
        return {name: _weights(where, name, str(cls), paths) for name, cls in found.items()}
    except ModelError as error:
        problem = error.problem
        raise ModelError(
            "model.safety_checker", problem.value, problem.allowed, problem.fix
        ) from error


def _weights(where: str, name: str, cls: str, paths: Collection[str]) -> tuple[set[str], set[str]]:
    """The full and the fp16 weight files of a component; none for those that need none."""
    inside = {path for path in paths if path.startswith(f"{name}/")}
    if f"{name}/{ADAPTER}" in inside:
        raise ModelError(
            "model.path",
            f"{where}: {name}/{ADAPTER} makes the component an adapter of some other model",
            "components that are whole; an adapter names models to load and modules to import",
            "merge the adapter into the weights with peft's `merge_and_unload` and save again, or "
            "remove it and name it in model.loras",
        )
    if not inside:
        raise ModelError(
            "model.path",
            f"{where}: the folder {name}/ is missing, which {INDEX} names ({cls})",
            ALLOWED,
            "copy or download the model again, whole",
        )
    full = {path for path in inside if _FULL.fullmatch(path.removeprefix(f"{name}/"))}
    fp16 = {path for path in inside if _FP16.fullmatch(path.removeprefix(f"{name}/"))}
    if full or fp16 or cls.endswith(_WEIGHTLESS) or f"{name}/config.json" not in inside:
        return full, fp16
    pickles = sorted(path for path in inside if path.endswith(PICKLES))
    if pickles:
        raise ModelError(
            "model.path",
            f"{where}: {pickles[0]} is a pickle, and {name}/ has no .safetensors file",
            "weights in safetensors files; a pickle can run any code when it is loaded",
            SAVE_AGAIN,
        )
    raise ModelError(
        "model.path",
        f"{where}: {name}/ has no weights",
        "a file diffusion_pytorch_model.safetensors or model.safetensors, whole or in parts",
        "copy or download the model again, whole",
    )


def _small_files(name: str, paths: Collection[str]) -> set[str]:
    """Configurations and tokenizer files of a component, without the indexes of its weights."""
    return {
        path
        for path in paths
        if path.startswith(f"{name}/")
        and path.endswith(_SMALL)
        and not path.endswith((".index.json", ".index.fp16.json"))
    }
