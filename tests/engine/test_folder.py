"""What a folder says about itself, and which folders are refused before anything is loaded."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from render_farm.engine.folder import check_folder, model_digest
from render_farm.engine.source import LoraFile
from render_farm.errors import ModelError
from tests.models.folders import (
    make_custom_code,
    make_lora,
    make_pickle_only,
    make_without,
    rewrite_json,
    write_json,
)


@pytest.fixture
def copy(sd15_folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return shutil.copytree(sd15_folder, tmp_path / "copy")


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        check_folder(folder)
    assert raised.value.problem.field == "model.path"
    assert raised.value.problem.fix
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    return str(raised.value)


def test_a_folder_says_its_class_its_sizes_and_the_length_of_its_prompts(sd15_folder, sdxl_folder):
    facts = check_folder(sd15_folder)
    assert facts.pipeline_class == "StableDiffusionPipeline"
    assert facts.size_factor == 8
    assert (facts.default_width, facts.default_height) == (512, 512)
    assert facts.tokenizer_length == 77
    assert check_folder(sdxl_folder).pipeline_class == "StableDiffusionXLPipeline"


def test_full_weights_are_preferred_and_the_safety_checker_is_left_out(sd15_folder):
    layout = check_folder(sd15_folder).layout
    assert layout.variant is None
    assert layout.left_out == ("feature_extractor", "safety_checker")
    assert "unet/diffusion_pytorch_model.safetensors" in layout.files
    assert not any("fp16" in file or "safety_checker" in file for file in layout.files)


def test_where_only_half_precision_weights_exist_they_are_chosen(fp16_folder):
    layout = check_folder(fp16_folder).layout
    assert layout.variant == "fp16"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in layout.files


def test_components_may_mix_full_and_half_precision_files(copy):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (copy / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    layout = check_folder(copy).layout
    assert layout.variant == "fp16"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in layout.files
    assert "vae/diffusion_pytorch_model.safetensors" in layout.files


def split_unet(folder: Path, name: Callable[[str], str] = str) -> set[str]:
    """Put the U-Net's weights into two parts and an index that calls them what `name` says."""
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    files = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {}
    for start, file in enumerate(files):
        keys = sorted(tensors)[start::2]
        save_file({key: tensors[key] for key in keys}, folder / "unet" / file)
        index |= dict.fromkeys(keys, name(file))
    index_file = f"{whole.name}.index.json"
    write_json(folder / "unet" / index_file, {"metadata": {}, "weight_map": index})
    return {f"unet/{file}" for file in (*files, index_file)}


def test_weights_in_parts_are_found_with_their_index(copy):
    parts = split_unet(copy)
    assert parts <= set(check_folder(copy).layout.files)


@pytest.mark.parametrize("name", ["../vae/{}", "{}.bin", "/{}", "config.json"])
def test_an_index_that_names_anything_but_its_parts_is_refused(copy, name):
    split_unet(copy, name.format)
    assert "which is no safetensors file beside it" in refused(copy)


def test_transformers_of_latents_double_the_size_factor(copy):
    (copy / "unet").rename(copy / "transformer")
    index = copy / "model_index.json"
    rewrite_json(
        index,
        {"unet": [None, None], "transformer": ["diffusers", "FluxTransformer2DModel"]},
    )
    rewrite_json(copy / "transformer" / "config.json", {"patch_size": 1})
    assert check_folder(copy).size_factor == 16


def test_no_folder_a_file_and_a_folder_without_an_index_are_refused(sd15_folder, tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refused(tmp_path / "file")
    assert "no model_index.json" in refused(
        make_without(tmp_path / "bare", sd15_folder, "model_index.json")
    )
    assert f"give the folder {sd15_folder.parent}" in refused(sd15_folder.parent)


def test_a_single_file_checkpoint_is_told_how_to_be_converted(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "from_single_file" in refused(tmp_path)


def test_broken_json_is_named(copy):
    (copy / "unet" / "config.json").write_text("{not json")
    assert "unet/config.json: cannot be read as JSON" in refused(copy)
    (copy / "model_index.json").write_text('{"no": "class"}')
    assert "names no pipeline class" in refused(copy)


def test_a_missing_component_is_named(sd15_folder, tmp_path):
    message = refused(make_without(tmp_path / "part", sd15_folder, "vae"))
    assert "the folder vae/ is missing" in message
    assert "AutoencoderKL" in message


def test_a_component_without_weights_is_named(copy):
    for weights in (copy / "vae").glob("*.safetensors"):
        weights.unlink()
    assert "vae/ has no weights" in refused(copy)


def test_a_missing_safety_checker_does_not_matter_since_it_is_not_loaded(sd15_folder, tmp_path):
    check_folder(make_without(tmp_path / "unchecked", sd15_folder, "safety_checker"))


def test_pickled_weights_are_refused_with_the_file_and_the_fix(sd15_folder, tmp_path):
    message = refused(make_pickle_only(tmp_path / "pickle", sd15_folder))
    assert "unet/diffusion_pytorch_model.bin is a pickle" in message
    assert "safe_serialization=True" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"unet": ["my_unet", "MyUNet"]},
        {"unet": ["os", "system"]},
        {"unet": ["..", "MyUNet"]},
        {"_class_name": ["pipeline", "MyPipeline"]},
        {"custom_pipeline": "lpw_stable_diffusion"},
    ],
)
def test_an_index_that_names_code_of_its_own_is_refused(copy, changes):
    rewrite_json(copy / "model_index.json", changes)
    assert "code from a model folder is never run" in refused(copy)


def test_python_files_and_auto_maps_are_refused(sd15_folder, copy, tmp_path):
    assert "unet/my_unet.py" in refused(make_custom_code(tmp_path / "custom", sd15_folder))
    rewrite_json(copy / "text_encoder" / "config.json", {"auto_map": {"AutoModel": "x.Y"}})
    assert "text_encoder/config.json has an auto_map" in refused(copy)


def test_links_out_of_the_folder_are_refused(copy, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    link = copy / "tokenizer" / "extra.json"
    link.symlink_to(secret)
    assert "tokenizer/extra.json is a link" in refused(copy)
    link.unlink()
    link.symlink_to(copy / "tokenizer" / "vocab.json")
    check_folder(copy)
    (copy / "elsewhere").symlink_to(tmp_path)
    assert "elsewhere is a link" in refused(copy)


@pytest.mark.parametrize(("cache", "trusted"), [("models--maker--name", True), ("mine", False)])
def test_only_in_the_hubs_cache_a_snapshot_may_link_into_the_blobs(
    sd15_folder, tmp_path, cache, trusted
):
    snapshot = tmp_path / cache / "snapshots" / "0123"
    shutil.copytree(sd15_folder, snapshot)
    (tmp_path / cache / "blobs").mkdir()
    config = snapshot / "unet" / "config.json"
    config.rename(tmp_path / cache / "blobs" / "4567")
    config.symlink_to("../../../blobs/4567")
    if trusted:
        check_folder(snapshot)
    else:
        assert "unet/config.json is a link" in refused(snapshot)


def test_a_digest_depends_on_what_is_loaded_and_on_nothing_else(sd15_folder, copy):
    digest = model_digest(sd15_folder)
    assert digest == model_digest(copy)
    os.utime(copy / "unet" / "config.json", (0, 0))
    (copy / "README.md").write_text("read me")
    (copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert digest == model_digest(copy)


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_digest_changes_with_every_file_that_is_loaded(sd15_folder, copy, file):
    *most, last = (copy / file).read_bytes()
    # weights have one length; in what is read as text an end of a line does no harm
    end = [last ^ 1] if file.endswith(".safetensors") else [last, ord("\n")]
    (copy / file).write_bytes(bytes([*most, *end]))
    assert model_digest(copy) != model_digest(sd15_folder)


def test_a_digest_tells_a_renamed_file_from_the_same_content(sd15_folder, copy):
    (copy / "tokenizer" / "merges.txt").rename(copy / "tokenizer" / "other.txt")
    assert model_digest(copy) != model_digest(sd15_folder)


def test_a_digest_covers_the_contents_of_loras_their_weights_and_their_order(sd15_folder, tmp_path):
    files = [make_lora(tmp_path / f"{n}.safetensors", sd15_folder, seed=n) for n in range(2)]
    first, second = (LoraFile(str(file)) for file in files)
    copied = LoraFile(str(shutil.copy(files[0], tmp_path / "copy.safetensors")))
    combinations = [
        (),
        (first,),
        (second,),
        (LoraFile(first.path, 0.5),),
        (first, first),
        (first, second),
        (second, first),
    ]
    digests = [model_digest(sd15_folder, loras=loras) for loras in combinations]
    assert len(set(digests)) == len(digests)
    assert digests[0] == model_digest(sd15_folder)
    assert model_digest(sd15_folder, loras=(copied,)) == digests[1]


def test_a_model_without_loras_and_checker_keeps_the_digest_it_always_had(tmp_path):
    folder = tmp_path / "model"
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    line = f'"model_index.json" {sha256((folder / "model_index.json").read_bytes()).hexdigest()}\n'
    assert model_digest(folder) == sha256(line.encode()).hexdigest()


def test_a_folder_says_how_many_layers_its_shallowest_clip_text_encoder_has(
    sdxl_folder, copy, tmp_path
):
    assert check_folder(copy).clip_layers == 2
    deep = shutil.copytree(sdxl_folder, tmp_path / "deep")
    rewrite_json(deep / "text_encoder" / "config.json", {"num_hidden_layers": 5})
    assert check_folder(deep).clip_layers == 2
    rewrite_json(deep / "text_encoder_2" / "config.json", {"num_hidden_layers": 4})
    assert check_folder(deep).clip_layers == 4
    rewrite_json(copy / "model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]})
    assert check_folder(copy).clip_layers is None
