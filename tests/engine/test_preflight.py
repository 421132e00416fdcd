"""What a job asks of a model, held against its folder before anything is loaded."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from render_farm.engine.folder import FolderFacts, check_folder
from render_farm.engine.model import ModelSource, load_pipeline
from render_farm.engine.preflight import CLIP_SKIP_PIPELINES, LORA_PIPELINES, check_additions
from render_farm.errors import ModelError


def as_kind(facts: FolderFacts, pipeline_class: str) -> FolderFacts:
    return replace(facts, layout=replace(facts.layout, pipeline_class=pipeline_class))


def test_the_lists_of_what_pipelines_take_are_those_of_diffusers():
    # those that want a picture to go by cannot be rendered from prompts anyway
    made_from_text = {
        cls.__name__: cls
        for cls in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
        if not any(word in cls.__name__ for word in ("Control", "Omni", "Helios"))
    }
    skipping = {
        name
        for name, cls in made_from_text.items()
        if "clip_skip" in inspect.signature(cls.__call__).parameters
    }
    assert skipping == CLIP_SKIP_PIPELINES
    taking = {name for name, cls in made_from_text.items() if hasattr(cls, "load_lora_weights")}
    assert taking == LORA_PIPELINES


@pytest.mark.parametrize("kind", ["sd15_folder", "sdxl_folder"])
def test_clip_layers_are_left_out_up_to_all_but_one(request, kind):
    facts = check_folder(request.getfixturevalue(kind))
    assert check_additions(0, None, facts) == []
    assert check_additions(3, 1, facts) == []
    (problem,) = check_additions(0, 2, facts)
    assert problem.field == "model.clip_skip"
    assert "1 to 1" in problem.allowed
    assert "has 2 layers" in problem.allowed


def test_kinds_that_take_neither_are_refused_by_name(sd15_folder):
    facts = check_folder(sd15_folder)
    problems = check_additions(2, 1, as_kind(facts, "PixArtAlphaPipeline"))
    assert [problem.field for problem in problems] == ["model.loras", "model.clip_skip"]
    assert all("PixArtAlphaPipeline" in problem.value for problem in problems)
    (problem,) = check_additions(2, 1, as_kind(facts, "FluxPipeline"))
    assert problem.field == "model.clip_skip"
    assert check_additions(0, None, as_kind(facts, "PixArtAlphaPipeline")) == []


def test_loading_refuses_too_many_layers_and_keeps_a_right_number(sd15_folder: Path):
    with pytest.raises(ModelError) as raised:
        load_pipeline(ModelSource(str(sd15_folder), device="cpu", clip_skip=2))
    assert raised.value.problem.field == "model.clip_skip"
    loaded = load_pipeline(ModelSource(str(sd15_folder), device="cpu", clip_skip=1))
    assert loaded.clip_skip == 1


@pytest.mark.parametrize("kind", ["sd15_folder", "sdxl_folder"])
def test_the_pipelines_render_with_the_most_layers_left_out(request, kind):
    folder = request.getfixturevalue(kind)
    loaded = load_pipeline(ModelSource(str(folder), device="cpu", clip_skip=1))
    size = {"width": 64, "height": 64, "num_inference_steps": 1, "output_type": "np"}
    pictures = [
        loaded.pipeline(
            "x", clip_skip=skip, generator=torch.Generator().manual_seed(1), **size
        ).images
        for skip in (loaded.clip_skip, None)
    ]
    assert pictures[0].shape == (1, 64, 64, 3)
    assert not np.array_equal(*pictures)
    loaded.pipeline.text_encoder.state_dict()
