"""The stock pipeline, as the plain scripts call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from tests.bench.rivals.case import Case


class Pipeline:
    """A diffusers pipeline with one generator a row, so that its pictures depend on their seeds."""

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(case.threads)
        self._case = case
        self._pipeline = DiffusionPipeline.from_pretrained(
            case.model, torch_dtype=torch.float32, use_safetensors=True
        )
        self._pipeline.scheduler = DDIMScheduler.from_config(self._pipeline.scheduler.config)
        self._pipeline.set_progress_bar_config(disable=True)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        case = self._case
        images = self._pipeline(
            prompt=[row[case.prompt_column] for row in rows],
            generator=[torch.Generator().manual_seed(row["seed"]) for row in rows],
            width=case.width,
            height=case.height,
            num_inference_steps=case.steps,
            guidance_scale=case.guidance_scale,
        ).images
        return [np.asarray(image) for image in images]
