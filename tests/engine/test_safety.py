"""The safety checker: loaded from the model's folder, it marks pictures and never alters them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file

from render_farm.engine.folder import check_folder, model_digest
from render_farm.engine.model import ModelSource, load_pipeline
from render_farm.engine.safety import SafetyChecker
from render_farm.errors import ModelError, RowError
from tests.models.folders import make_pickle_only, make_without, rewrite_json

CPU = torch.device("cpu")
WEIGHTS = "safety_checker/model.safetensors"


@pytest.fixture
def copy(sd15_folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return shutil.copytree(sd15_folder, tmp_path / "copy")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SafetyChecker:
    layout = check_folder(folder, safety_checker=True).layout
    return SafetyChecker.load(folder, layout, CPU, dtype)


def change(folder: Path, **tensors: torch.Tensor) -> Path:
    """Put other tensors into the checker's weights."""
    save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def pictures() -> np.ndarray:
    """Four of 64 × 48: black, white, noise and a gradient; uint8 [4, 64, 48, 3]."""
    batch = np.zeros((4, 64, 48, 3), np.uint8)
    batch[1] = 255
    batch[2] = np.random.default_rng(5).integers(0, 256, batch[2].shape)
    batch[3] = np.arange(48, dtype=np.uint8)[None, :, None] * 5
    return batch


def seeing(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Let the folder's checker mark what looks like the third of `pictures`."""
    seen: list[torch.Tensor] = []
    checker = load(folder, dtype)
    checker._checker.visual_projection.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    checker.check(pictures())
    concepts = torch.zeros(17, 32)
    concepts[4] = seen[0][2]
    return change(folder, concept_embeds=concepts, concept_embeds_weights=torch.full((17,), 0.999))


def test_the_picture_that_looks_like_a_concept_is_marked_and_no_other(copy):
    assert load(copy).check(pictures()) == [False] * 4
    assert load(seeing(copy)).check(pictures()) == [False, False, True, False]


def test_pictures_stay_as_they_are_even_if_all_are_marked(copy):
    checker = load(change(copy, concept_embeds_weights=torch.full((17,), -2.0)))
    before = pictures()
    before.flags.writeable = False
    assert checker.check(before) == [True] * 4
    assert np.array_equal(before, pictures())


def test_what_is_said_of_a_picture_does_not_depend_on_its_neighbours(copy):
    checker = load(seeing(copy))
    for lane in range(4):
        batch = np.repeat(pictures()[:1], 4, axis=0)
        batch[lane] = pictures()[2]
        assert checker.check(batch) == [index == lane for index in range(4)]


def test_the_whole_batch_is_computed_in_one_piece_and_in_inference_mode(copy):
    checker = load(copy)
    seen: list[tuple[int, bool]] = []
    checker._checker.vision_model.register_forward_pre_hook(
        lambda _module, inputs: seen.append((len(inputs[0]), torch.is_inference_mode_enabled()))
    )
    checker.check(np.repeat(pictures(), 2, axis=0))
    assert seen == [(8, True)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_the_dtype_asked_for(copy, dtype):
    checker = load(seeing(copy, dtype), dtype)
    assert checker._checker.dtype == dtype
    change(copy, concept_embeds_weights=torch.full((17,), 0.99))
    assert checker.check(pictures())[:2] == [False, False]


def test_nan_is_no_word_for_safe(copy):
    weights = load_file(copy / WEIGHTS)["visual_projection.weight"]
    checker = load(change(copy, **{"visual_projection.weight": weights * float("nan")}))
    with pytest.raises(RowError, match="nan_in_safety_checker"):
        checker.check(pictures())


def test_old_folders_and_those_with_half_precision_only_load(old_folder, fp16_folder):
    for folder in (old_folder, fp16_folder):
        assert load(folder).check(pictures()) == [False] * 4
    layout = check_folder(fp16_folder, safety_checker=True).layout
    assert "safety_checker/model.fp16.safetensors" in layout.files


def test_weights_under_their_old_names_are_the_same(copy):
    new = StableDiffusionSafetyChecker.from_pretrained(copy / "safety_checker").state_dict()
    old = {
        f"vision_model.{name}" if name.startswith("vision_model.") else name: tensor
        for name, tensor in load_file(copy / WEIGHTS).items()
    }
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(old, copy / WEIGHTS, metadata={"format": "pt"})
    found = load(copy)._checker.state_dict()
    assert found.keys() == new.keys()
    assert all(torch.equal(found[name], new[name]) for name in new)


def test_the_pipeline_never_gets_it(sd15_folder, sd15):
    loaded = load_pipeline(ModelSource(str(sd15_folder), device="cpu", safety_checker=True))
    assert loaded.pipeline.safety_checker is None
    assert loaded.pipeline.feature_extractor is None
    assert isinstance(loaded.safety, SafetyChecker)
    assert sd15.safety is None


def test_it_is_part_of_the_digest_only_where_it_is_loaded(copy, sd15_folder):
    asked = model_digest(sd15_folder, safety_checker=True)
    assert asked != model_digest(sd15_folder)
    assert asked == model_digest(copy, safety_checker=True)
    change(copy, concept_embeds=torch.zeros(17, 32))
    assert model_digest(copy) == model_digest(sd15_folder)
    assert model_digest(copy, safety_checker=True) != asked
    rewrite_json(copy / "feature_extractor" / "preprocessor_config.json", {"resample": 2})
    assert model_digest(copy) == model_digest(sd15_folder)


def test_it_does_not_decide_which_weights_make_the_picture(copy):
    (copy / WEIGHTS).unlink()
    layout = check_folder(copy, safety_checker=True).layout
    assert layout.variant is None
    assert set(check_folder(copy).layout.files) < set(layout.files)
    assert load(copy).check(pictures()) == [False] * 4


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load(folder)
    assert raised.value.problem.field == "model.safety_checker"
    assert raised.value.problem.fix
    return raised.value.problem.value


def test_a_model_without_one_is_refused_before_anything_is_loaded(
    copy, sdxl_folder, sd15_folder, tmp_path
):
    assert "safety_checker: None" in refused(sdxl_folder)
    missing = make_without(tmp_path / "missing", sd15_folder, "safety_checker")
    assert "the folder safety_checker/ is missing" in refused(missing)
    rewrite_json(copy / "model_index.json", {"feature_extractor": [None, None]})
    assert "feature_extractor: None" in refused(copy)
    rewrite_json(copy / "model_index.json", {"safety_checker": ["deepfloyd_if", "IFSafetyChecker"]})
    assert "IFSafetyChecker" in refused(copy)
    check_folder(copy)


def test_a_pickled_one_is_refused(sd15_folder, tmp_path):
    folder = make_pickle_only(tmp_path / "pickle", sd15_folder, "safety_checker")
    assert "pytorch_model.bin is a pickle" in refused(folder)


def test_what_is_broken_is_refused_when_it_is_loaded(copy):
    processor = copy / "feature_extractor" / "preprocessor_config.json"
    rewrite_json(processor, {"crop_size": 60})
    assert "makes (60, 60), safety_checker/ takes 30" in refused(copy)
    rewrite_json(processor, {"crop_size": 30})
    tensors = load_file(copy / WEIGHTS)
    del tensors["visual_projection.weight"]
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    assert "weights are missing" in refused(copy)
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-9])
    assert refused(copy)
    processor.write_text("[]")
    assert refused(copy)
