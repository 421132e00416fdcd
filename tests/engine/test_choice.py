"""Models that are known inside out are stepped and all others called; small files decide it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from render_farm.engine.choice import choose_engine
from render_farm.engine.folder import FolderFacts, check_folder
from render_farm.errors import ModelError
from tests.engine.conftest import DEMO_MODEL
from tests.models.folders import rewrite_json

ODD_UNETS = [
    {"addition_embed_type": "text"},
    {"attention_type": "gated"},
    {"center_input_sample": True},
    {"class_embed_type": "timestep"},
    {"cross_attention_norm": "layer_norm"},
    {"encoder_hid_dim_type": "text_proj"},
    {"only_cross_attention": True},
    {"time_cond_proj_dim": 256},
    {"in_channels": 9},
    {"out_channels": 8},
    {"_class_name": "UNet2DModel"},
    {"dual_cross_attention": True},
    {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]},
    {"time_embedding_act_fn": "silu"},
    {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
]


@pytest.fixture
def copy(sd15_folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may change."""
    return shutil.copytree(sd15_folder, tmp_path / "copy")


@pytest.fixture
def sd15_facts(sd15_folder: Path) -> FolderFacts:
    return check_folder(sd15_folder)


def refusal(facts: FolderFacts, offload: str = "none") -> str:
    """What `steps` says of a model that `auto` calls."""
    assert choose_engine("auto", facts, offload) == "call"
    assert choose_engine("call", facts, offload) == "call"
    with pytest.raises(ModelError) as raised:
        choose_engine("steps", facts, offload)
    assert raised.value.problem.field == "model.engine"
    assert "auto" in raised.value.problem.fix
    return raised.value.problem.value


@pytest.mark.parametrize("engine", ["auto", "steps"])
def test_stable_diffusion_is_stepped(sd15_folder, sdxl_folder, fp16_folder, old_folder, engine):
    for folder in (sd15_folder, sdxl_folder, fp16_folder, old_folder, DEMO_MODEL):
        assert choose_engine(engine, check_folder(folder)) == "steps"


def test_call_is_call_whatever_the_model(sd15_facts):
    assert choose_engine("call", sd15_facts) == "call"


@pytest.mark.parametrize("engine", ["", "step", "Steps", "rehearsal"])
def test_an_engine_that_does_not_exist_is_refused(sd15_facts, engine):
    with pytest.raises(ModelError, match=r"model\.engine"):
        choose_engine(engine, sd15_facts)


@pytest.mark.parametrize(
    "pipeline",
    ["StableDiffusion3Pipeline", "FluxPipeline", "LatentConsistencyModelPipeline", "OwnPipeline"],
)
def test_another_pipeline_is_called(sd15_facts, pipeline):
    facts = replace(sd15_facts, layout=replace(sd15_facts.layout, pipeline_class=pipeline))
    assert pipeline in refusal(facts)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "unet", "vae", "scheduler"])
def test_a_model_without_a_part_is_called(sd15_facts, part):
    components = dict(sd15_facts.layout.components)
    del components[part]
    facts = replace(sd15_facts, layout=replace(sd15_facts.layout, components=components))
    assert f"has no {part}" in refusal(facts)


def test_sdxl_without_its_second_encoder_is_called(sdxl_folder):
    facts = check_folder(sdxl_folder)
    components = {k: v for k, v in facts.layout.components.items() if k != "text_encoder_2"}
    facts = replace(facts, layout=replace(facts.layout, components=components))
    assert "has no text_encoder_2" in refusal(facts)


def test_a_model_that_is_offloaded_is_called(sd15_facts):
    assert "model.offload: model" in refusal(sd15_facts, "model")


def test_a_model_with_a_scheduler_of_another_kind_is_called(copy):
    rewrite_json(copy / "model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]})
    assert "EDMEulerScheduler" in refusal(check_folder(copy))


@pytest.mark.parametrize("changes", ODD_UNETS, ids=str)
def test_a_model_with_an_unusual_unet_is_called(copy, changes):
    rewrite_json(copy / "unet" / "config.json", changes)
    assert "has a U-Net" in refusal(check_folder(copy))


def test_a_model_with_a_vae_of_another_factor_is_called(copy):
    rewrite_json(copy / "vae" / "config.json", {"block_out_channels": [8, 8, 16]})
    assert "VAE of 3 levels" in refusal(check_folder(copy))


def test_a_unet_that_says_nothing_unusual_is_stepped(copy):
    # the configurations of 2022 lack most of today's keys
    rewrite_json(
        copy / "unet" / "config.json",
        {"class_embed_type": None, "upcast_attention": True, "use_linear_projection": True},
    )
    assert choose_engine("steps", check_folder(copy)) == "steps"


def test_an_sdxl_unet_in_another_pipeline_is_called(copy, sdxl_folder):
    shutil.copy(sdxl_folder / "unet" / "config.json", copy / "unet" / "config.json")
    assert "addition_embed_type" in refusal(check_folder(copy))
