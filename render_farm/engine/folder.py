"""Looks at a local model folder without loading it and without importing torch or diffusers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from render_farm.engine.configs import (
    check_config,
    check_layers,
    check_size,
    check_tokens,
    damaged,
    read_json,
)
from render_farm.engine.layout import ALLOWED, INDEX, Layout, custom_code, read_layout
from render_farm.engine.source import LoraFile
from render_farm.engine.tree import walk_files
from render_farm.engine.weights import SUFFIX, count_tensors
from render_farm.errors import ModelError

# The pipelines' own rule: Stable Diffusion takes multiples of 8 whatever its decoder does.
LEAST_FACTOR = 8
# What transformers takes where a CLIP text encoder's configuration is silent.
CLIP_LAYERS = 12
CLIP_POSITIONS = 77
MAX_VOCABULARY_BYTES = 64 * 2**20
"""Twice the largest ``tokenizer.json`` in use."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What a model folder says about itself.

    `size_factor` divides every width and height (px). `default_width` and `default_height` (px)
    are the size the model was made for, None where the folder does not say. `tokenizer_length`
    counts tokens, the markers at both ends included. `clip_layers` counts the layers of the CLIP
    text encoder, of the shallowest where there are several; None where there is none.
    """

    path: str
    layout: Layout
    size_factor: int
    default_width: int | None
    default_height: int | None
    tokenizer_length: int | None
    clip_layers: int | None = None

    @property
    def pipeline_class(self) -> str:
        """The name of the diffusers class, such as ``StableDiffusionPipeline``."""
        return self.layout.pipeline_class

    def config(self, file: str) -> dict[str, Any]:
        """A component's configuration, such as ``unet/config.json``; empty where there is none."""
        path = Path(self.path) / file
        if not path.is_file():
            return {}
        return check_config(Path(self.path), file, read_json(path))


def check_folder(path: str | Path, *, safety_checker: bool = False) -> FolderFacts:
    """Check that a local folder can be loaded safely, and read what it says about itself.

    Takes milliseconds: reads only the small JSON files and the headers of the weights.
    `safety_checker` asks for the model's own safety checker, which is left out otherwise.

    Raises: `ModelError` naming the file and the fix.
    """
    root = Path(path)
    if not root.is_dir():
        raise ModelError(
            "model.path",
            f"{path}: " + ("not a folder" if root.exists() else "there is no such folder"),
            ALLOWED,
            "give the folder, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5",
        )
    index_path = root / INDEX
    if not index_path.is_file():
        raise ModelError("model.path", f"{path}: no {INDEX}", ALLOWED, _index_fix(root))
    files = tuple(walk_files(root))
    for file in files:
        if file.endswith(".py"):
            raise custom_code(str(path), f"it contains {file}")
    layout = read_layout(str(path), read_json(index_path), files, safety_checker=safety_checker)
    configs = _configs(root, layout)
    tensors = count_tensors(root, layout.files)
    for file, config in configs.items():
        component = file.partition("/")[0]
        if component in tensors:
            check_layers(root / file, config, tensors[component])
    _check_tokenizers(root, layout, configs)
    return _facts(str(path), layout, configs)


def read_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_digest(
    path: str | Path,
    *,
    safety_checker: bool = False,
    loras: Sequence[LoraFile] = (),
    digest_of: Callable[[Path], str] = read_digest,
) -> str:
    """SHA-256, hexadecimal, over what loading the folder and the LoRAs reads.

    It covers the relative paths and the contents of the files that are read: index,
    configurations, tokenizers and the chosen safetensors; of LoRAs the contents and the weights, in
    their order. It does not depend on where the files lie, on times, or on files that loading
    ignores, so a hub snapshot and a copy of it agree. `digest_of` a file may know what others have
    read already; by default every byte of the weights is read, in pieces.

    Raises: `ModelError` as `check_folder` does.
    """
    total = hashlib.sha256()
    for file in check_folder(path, safety_checker=safety_checker).layout.files:
        sha256 = _file_digest(Path(path) / file, digest_of)
        total.update(f"{json.dumps(file)} {sha256}\n".encode())
    for lora in loras:
        # a number where a file's line has a name: no file can be taken for a LoRA
        sha256 = _file_digest(Path(lora.path), digest_of)
        total.update(f"{float(lora.weight)!r} {sha256}\n".encode())
    return total.hexdigest()


def _file_digest(path: Path, digest_of: Callable[[Path], str]) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise damaged(path, f"cannot be read: {error}") from error


def _index_fix(root: Path) -> str:
    inner = sorted(root.glob(f"*/{INDEX}"))
    if inner:
        return f"give the folder {inner[0].parent}"
    if any(root.glob("*.safetensors")) or any(root.glob("*.ckpt")):
        return (
            "a single-file checkpoint has to be converted: load it in diffusers with "
            "`from_single_file` and write it with `save_pretrained`"
        )
    return "choose the folder that `save_pretrained` of a pipeline wrote"


def _configs(root: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    """The configurations that loading reads, checked, by their names."""
    configs = {}
    for file in layout.files:
        if file.endswith("config.json"):
            configs[file] = check_config(root, file, read_json(root / file))
        elif not file.endswith(SUFFIX):
            check_size(root / file, MAX_VOCABULARY_BYTES)
    return configs


def _check_tokenizers(root: Path, layout: Layout, configs: Mapping[str, Mapping[str, Any]]) -> None:
    for name, cls in layout.components.items():
        encoder = name.replace("tokenizer", "text_encoder", 1)
        if not cls.startswith("CLIPTokenizer"):
            continue
        if layout.components.get(encoder, "").startswith("CLIPTextModel"):
            file = f"{name}/tokenizer_config.json"
            encoding = configs.get(f"{encoder}/config.json", {})
            positions = encoding.get("max_position_embeddings", CLIP_POSITIONS)
            check_tokens(root / file, configs.get(file, {}), positions)


def _facts(path: str, layout: Layout, configs: Mapping[str, Mapping[str, Any]]) -> FolderFacts:
    vae = configs.get("vae/config.json", {})
    transformer = configs.get("transformer/config.json", {})
    levels = vae.get("block_out_channels")
    scale = 2 ** (len(levels) - 1) if levels else None
    unet = configs.get("unet/config.json", {})
    width, height = _default_size({**transformer, **unet}, scale)
    length = configs.get("tokenizer/tokenizer_config.json", {}).get("model_max_length")
    return FolderFacts(
        path=path,
        layout=layout,
        size_factor=math.lcm(LEAST_FACTOR, (scale or 1) * _patch(transformer)),
        default_width=width,
        default_height=height,
        # tokenizers without a limit of their own write 1e30
        tokenizer_length=length if isinstance(length, int) and length < 10**6 else None,
        clip_layers=_clip_layers(layout, configs),
    )


def _clip_layers(layout: Layout, configs: Mapping[str, Mapping[str, Any]]) -> int | None:
    layers = [
        configs.get(f"{name}/config.json", {}).get("num_hidden_layers", CLIP_LAYERS)
        for name, cls in layout.components.items()
        if cls.startswith("CLIPTextModel")
    ]
    return min((count for count in layers if isinstance(count, int)), default=None)


def _patch(transformer: Mapping[str, Any]) -> int:
    """Latents a side that a transformer takes as one token; 1 without a transformer.

    Where the configuration says 1, as Flux's does, the pipeline packs 2 × 2 before it.
    """
    if not transformer:
        return 1
    patch = transformer.get("patch_size")
    return patch if isinstance(patch, int) and patch > 1 else 2


def _default_size(denoiser: Mapping[str, Any], scale: int | None) -> tuple[int | None, int | None]:
    """Width and height (px) from the denoiser's `sample_size`: latents, one number or [h, w]."""
    size = denoiser.get("sample_size")
    if scale is None or size is None:
        return None, None
    height, width = size if isinstance(size, list) else (size, size)
    return width * scale, height * scale
