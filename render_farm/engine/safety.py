"""A model's own safety checker: says which finished pictures it takes for unsafe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from safetensors import SafetensorError

from render_farm.engine.layout import Layout
from render_farm.engine.libraries import heard_warnings
from render_farm.errors import ModelError, RowError

FIELD = "model.safety_checker"


class SafetyChecker:
    """Stable Diffusion's safety checker, which the pipeline itself never gets.

    Pipelines paint what it marks black; here a picture is marked and stays as it is.
    """

    def __init__(self, checker: Any, processor: Any) -> None:
        self._checker = checker
        self._processor = processor

    @classmethod
    def load(
        cls, folder: str | Path, layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> SafetyChecker:
        """Load the checker of a model folder, from safetensors, onto a device.

        `layout` is the folder's, read with the checker.

        Raises: `ModelError` naming ``model.safety_checker``. Device failures are torch's own.
        """
        try:
            with heard_warnings() as heard:
                checker = _checker(folder, layout, dtype)
                processor = _processor(folder)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise _broken(folder, f"{type(error).__name__}: {error}") from error
        if any("newly initialized" in message for message in heard):
            raise _broken(folder, "weights are missing")
        sees = checker.config.vision_config.image_size
        gets = (processor.crop_size["height"], processor.crop_size["width"])
        if gets != (sees, sees):
            raise _broken(folder, f"feature_extractor/ makes {gets}, safety_checker/ takes {sees}")
        return cls(checker.to(device).eval(), processor)

    @torch.inference_mode()
    def check(self, pixels: NDArray[np.uint8]) -> list[bool]:
        """Which pictures the checker takes for unsafe; `pixels`, uint8 [B, H, W, 3], stay as is.

        Always computes the whole batch that it is given: the caller pads it to its fixed shape, so
        that what is said of a picture does not depend on how many others there are.

        Raises: `RowError` ``nan_in_safety_checker`` when it comes to no number for a picture.
        """
        seen = self._processor(
            images=list(pixels), input_data_format="channels_last", return_tensors="pt"
        ).pixel_values  # [B, 3, S, S]
        embeddings: list[torch.Tensor] = []
        listening = self._checker.visual_projection.register_forward_hook(
            lambda _module, _inputs, output: embeddings.append(output)
        )
        try:
            # it paints over what it is given as pictures, so it is given none
            empty = [np.zeros(0)] * len(pixels)
            _, marked = self._checker(
                clip_input=seen.to(self._checker.device, self._checker.dtype), images=empty
            )
        finally:
            listening.remove()
        # every comparison with NaN is false, which it would take for safe
        if not torch.isfinite(embeddings[0]).all():
            raise RowError(
                "nan_in_safety_checker",
                f"the safety checker came to NaN or infinity in {self._checker.dtype}; bfloat16 "
                "or float32 may do",
            )
        return [bool(mark) for mark in marked]


def _checker(folder: str | Path, layout: Layout, dtype: torch.dtype) -> Any:
    fp16 = any(file.startswith("safety_checker/") and ".fp16" in file for file in layout.files)
    return StableDiffusionSafetyChecker.from_pretrained(
        str(Path(folder) / "safety_checker"),
        dtype=dtype,
        variant="fp16" if fp16 else None,
        use_safetensors=True,
        local_files_only=True,
    )


def _processor(folder: str | Path) -> Any:
    # The class that old folders name is gone, and the one of today needs torchvision and resizes
    # a little differently with it; this one reads the same file and makes the same everywhere.
    from transformers import CLIPImageProcessorPil  # noqa: PLC0415 - read only where it is needed

    return CLIPImageProcessorPil.from_pretrained(
        str(Path(folder) / "feature_extractor"), local_files_only=True
    )


def _broken(folder: str | Path, what: str) -> ModelError:
    return ModelError(
        FIELD,
        f"true: {folder}: {' '.join(what.split())[:500]}",
        "true for a model with a whole safety checker",
        "copy or download the model again, whole, or set model.safety_checker: false",
    )
