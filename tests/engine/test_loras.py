"""LoRAs: what is taken from a file, what it does to the weights, and which files are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from render_farm.engine.build import build_sampler
from render_farm.engine.fuse import fuse_loras
from render_farm.engine.loras import check_lora, choose_lora
from render_farm.engine.model import LoadedPipeline, ModelSource, load_pipeline
from render_farm.engine.sampler import Rendered
from render_farm.engine.source import LoraFile
from render_farm.errors import ModelError
from tests.models.folders import LORA_TEXT, LORA_UNET, kohya_prefix, make_lora

Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture(scope="module")
def lora(models: Path, sd15_folder: Path) -> Path:
    return make_lora(models / "lora.safetensors", sd15_folder)


@pytest.fixture(scope="module")
def kohya(models: Path, sd15_folder: Path) -> Path:
    return make_lora(models / "kohya.safetensors", sd15_folder, kohya=True, alpha=1.0, seed=2)


def loaded(folder: Path, *loras: LoraFile) -> LoadedPipeline:
    return load_pipeline(ModelSource(str(folder), device="cpu", loras=loras))


def parts(pipeline: Any) -> dict[str, Any]:
    names = ("unet", "text_encoder", "text_encoder_2")
    return {name: getattr(pipeline, name) for name in names if hasattr(pipeline, name)}


def expected(file: Path, part: str, layer: str, encoders: list[str]) -> torch.Tensor:
    """What a file of `make_lora` adds to a layer at weight 1, without its alpha."""
    tensors = load_file(file)
    kohyas = f"{kohya_prefix(part, encoders)}_{layer.replace('.', '_')}"
    for down, up in (
        (f"{part}.{layer}.lora_A.weight", f"{part}.{layer}.lora_B.weight"),
        (f"{kohyas}.lora_down.weight", f"{kohyas}.lora_up.weight"),
    ):
        if down in tensors:
            return tensors[up].flatten(1) @ tensors[down].flatten(1)
    raise AssertionError(layer)


@pytest.mark.parametrize("alpha", [None, 1.0, 8.0])
@pytest.mark.parametrize("kohya_names", [False, True])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_lora_adds_its_product_times_alpha_over_rank_times_the_weight(
    request, tmp_path, kind, kohya_names, alpha
):
    folder = request.getfixturevalue(f"{kind}_folder")
    before = parts(request.getfixturevalue(kind).pipeline)
    file = make_lora(tmp_path / "x.safetensors", folder, kohya=kohya_names, alpha=alpha)
    after = parts(loaded(folder, LoraFile(str(file), -0.5)).pipeline)
    encoders = [name for name in before if name != "unet"]
    assert len(encoders) == (2 if kind == "sdxl" else 1)
    for part, module in before.items():
        old, new = module.state_dict(), after[part].state_dict()
        assert old.keys() == new.keys()
        layers = LORA_UNET if part == "unet" else LORA_TEXT
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        assert len(changed) == len(layers)
        for layer in layers:
            (name,) = (
                name
                for name in changed
                if f"text_model.{name}".endswith(f".{layer.removeprefix('text_model.')}.weight")
            )
            added = (new[name] - old[name]).flatten(1)
            wanted = -0.5 * (alpha or 2) / 2 * expected(file, part, layer, encoders)
            torch.testing.assert_close(added, wanted, atol=1e-6, rtol=1e-4)


def picture(folder: Path, request_of: Any, *loras: LoraFile) -> np.ndarray:
    source = ModelSource(str(folder), device="cpu", loras=loras)
    (answer,) = build_sampler("call", source).render([request_of()], 1)
    assert isinstance(answer, Rendered), answer
    return answer.pixels


def test_a_lora_changes_the_picture_and_at_weight_0_it_does_not(
    sd15_folder, request_of, lora, kohya
):
    plain = picture(sd15_folder, request_of)
    both = [LoraFile(str(lora), 0.0), LoraFile(str(kohya), 0.0)]
    assert np.array_equal(picture(sd15_folder, request_of, *both), plain)
    one = picture(sd15_folder, request_of, LoraFile(str(lora)))
    assert not np.array_equal(one, plain)
    assert not np.array_equal(picture(sd15_folder, request_of, LoraFile(str(lora), 2.0)), one)
    for part in ({"text": ()}, {"unet": ()}):
        only = make_lora(lora.with_name("only.safetensors"), sd15_folder, **part)
        assert not np.array_equal(picture(sd15_folder, request_of, LoraFile(str(only))), plain)


def test_two_loras_add_up_and_one_twice_is_one_of_twice_the_weight(sd15, sd15_folder, lora, kohya):
    plain = parts(sd15.pipeline)
    first = parts(loaded(sd15_folder, LoraFile(str(lora), 0.5)).pipeline)
    second = parts(loaded(sd15_folder, LoraFile(str(kohya), 2.0)).pipeline)
    both = parts(loaded(sd15_folder, LoraFile(str(lora), 0.5), LoraFile(str(kohya), 2.0)).pipeline)
    twice = parts(loaded(sd15_folder, *[LoraFile(str(lora), 0.25)] * 2).pipeline)
    for part, module in plain.items():
        states = (part_of[part].state_dict() for part_of in (first, second, both, twice))
        one, other, sums, doubled = states
        for name, weight in module.state_dict().items():
            if weight.is_floating_point():
                wanted = one[name] + other[name] - weight
                torch.testing.assert_close(sums[name], wanted, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(doubled[name], one[name], atol=1e-5, rtol=1e-4)


def test_afterwards_the_modules_are_plain(sd15, sd15_folder, lora, kohya):
    files = [LoraFile(str(lora)), LoraFile(str(kohya))]
    after = parts(loaded(sd15_folder, *files).pipeline)
    for part, module in parts(sd15.pipeline).items():
        kinds = {name: type(inner) for name, inner in module.named_modules()}
        assert {name: type(inner) for name, inner in after[part].named_modules()} == kinds
        assert not any(isinstance(inner, BaseTunerLayer) for inner in after[part].modules())
        assert not after[part].training


def test_a_pipeline_that_is_to_be_offloaded_gets_the_same_weights(sd15_folder, lora):
    files = [LoraFile(str(lora))]
    pipeline = loaded(sd15_folder).pipeline
    fuse_loras(pipeline, files, torch.device("cpu"), stay=False)
    for part, module in parts(loaded(sd15_folder, *files).pipeline).items():
        found = getattr(pipeline, part).state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in module.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lora_takes_the_models_dtype(sd15_folder, lora, dtype):
    source = ModelSource(str(sd15_folder), dtype=dtype, device="cpu", loras=(LoraFile(str(lora)),))
    for module in parts(load_pipeline(source).pipeline).values():
        assert {weight.dtype for weight in module.parameters()} == {getattr(torch, dtype)}


def spoilt(file: Path, target: Path, change: Change, **metadata: str) -> Path:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, target, metadata={"format": "pt", **metadata})
    return target


def refused(check: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as raised:
        check()
    assert raised.value.problem.field == "model.loras"
    assert raised.value.problem.fix
    return raised.value.problem.value


FIRST = f"unet.{LORA_UNET[0]}"


def drop_half(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{FIRST}.lora_B.weight"]


def shrink_half(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{FIRST}.lora_B.weight"] = tensors[f"{FIRST}.lora_B.weight"][:, :1].clone()


def add_dora(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{FIRST}.dora_scale"] = torch.ones(32, 1)


def add_lone_alpha(tensors: dict[str, torch.Tensor]) -> None:
    tensors["unet.elsewhere.alpha"] = torch.tensor(1.0)


def replace_by_a_checkpoint(tensors: dict[str, torch.Tensor]) -> None:
    tensors.clear()
    tensors["model.diffusion_model.out.2.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_half, "only a part of the layer"),
        (shrink_half, "do not fit"),
        (add_dora, "more than LoRA layers"),
        (add_lone_alpha, "only a part of the layer"),
        (replace_by_a_checkpoint, "no LoRA layers"),
    ],
)
def test_what_is_no_plain_lora_is_refused_from_its_header(tmp_path, lora, change, message):
    file = spoilt(lora, tmp_path / "x.safetensors", change)
    assert message in refused(lambda: check_lora(file))


def test_what_is_no_safetensors_file_is_refused(tmp_path, lora):
    for content in (b"", b"\x80\x02}q\x00.", lora.read_bytes()[:-10]):
        file = tmp_path / "x.safetensors"
        file.write_bytes(content)
        assert "cannot be read as safetensors" in refused(partial(check_lora, file))
    assert "cannot be read" in refused(lambda: check_lora(tmp_path / "none.safetensors"))


@pytest.mark.parametrize(
    "settings",
    [
        {"unet.megatron_config": {"a": 1}, "unet.megatron_core": "antigravity"},
        {"unet.use_dora": True},
        {"unet.init_lora_weights": "pissa"},
        {"text_encoder.bias": "all"},
        {"unet.peft_type": "LOKR"},
        {"modules_to_save": ["conv_in"]},
        {"unet.lora_alpha": "8"},
        {"unet.alpha_pattern": ["to_q"]},
        [1],
    ],
)
def test_settings_in_the_file_that_would_do_more_than_scale_are_refused(tmp_path, lora, settings):
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    file = spoilt(lora, tmp_path / "x.safetensors", lambda _: None, **metadata)
    assert "lora_adapter_metadata" in refused(lambda: check_lora(file))


def test_the_settings_of_a_file_decide_the_strength_of_each_layer(tmp_path, lora):
    settings = {
        "unet.lora_alpha": 6,
        "unet.alpha_pattern": {"attn1.to_q": 1},
        "text_encoder.lora_alpha": 4,
        "text_encoder.use_rslora": True,
        "unet.target_modules": ["to_q"],
    }
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    file = spoilt(lora, tmp_path / "x.safetensors", lambda _: None, **metadata)
    factors = check_lora(file)
    assert factors[f"unet.{LORA_UNET[0]}"] == 0.5
    assert factors[f"unet.{LORA_UNET[1]}"] == 3
    assert factors[f"text_encoder.{LORA_TEXT[0]}"] == pytest.approx(4 / 2**0.5)
    assert set(check_lora(lora).values()) == {1.0}


def test_a_lora_of_another_model_is_refused_when_it_is_loaded(sd15, sdxl_folder, sd15_folder, lora):
    xl = make_lora(lora.with_name("xl.safetensors"), sdxl_folder)
    assert "not for this StableDiffusionPipeline" in refused(
        lambda: loaded(sd15_folder, LoraFile(str(xl)))
    )
    assert "not for this StableDiffusionXLPipeline" in refused(
        lambda: loaded(sdxl_folder, LoraFile(str(lora)))
    )


def rename_first(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("lora_A", "lora_B"):
        tensors[f"{FIRST[:-4]}to_x.{name}.weight"] = tensors.pop(f"{FIRST}.{name}.weight")


def forget_component(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("lora_A", "lora_B"):
        tensors[f"base_model.{FIRST}.{name}.weight"] = tensors.pop(f"{FIRST}.{name}.weight")


def fill_with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{FIRST}.lora_B.weight"].fill_(float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_first, "to_x"),
        (forget_component, "8 of its 9 layers found a place"),
        (fill_with_nan, "NaN"),
    ],
)
def test_layers_that_the_model_lacks_and_nan_are_refused_and_never_left_out(
    tmp_path, sd15_folder, lora, change, message
):
    file = spoilt(lora, tmp_path / "x.safetensors", change)
    assert message in refused(lambda: loaded(sd15_folder, LoraFile(str(file))))


def test_a_pipeline_that_takes_no_loras_is_refused(lora):
    cpu = torch.device("cpu")
    message = refused(lambda: fuse_loras(object(), [LoraFile(str(lora))], cpu, stay=True))
    assert "for a object" in message
    fuse_loras(object(), [], cpu, stay=True)


def test_a_folder_holds_exactly_one_lora():
    assert (
        choose_lora("folder", ["a.safetensors", "b.txt", "deep/c.safetensors"]) == "a.safetensors"
    )
    assert "a.safetensors, b.safetensors" in refused(
        lambda: choose_lora("folder", ["b.safetensors", "a.safetensors"])
    )
    assert "folder: x.bin is no" in refused(lambda: choose_lora("folder", ["x.bin"]))
    assert "no .safetensors file" in refused(lambda: choose_lora("folder", ["deep/c.safetensors"]))


def test_old_names_of_diffusers_are_known(tmp_path, lora):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            old = name.replace(".to_q.lora_A", ".processor.to_q_lora.down")
            old = old.replace(".to_q.lora_B", ".processor.to_q_lora.up")
            old = old.replace(".lora_A", ".lora.down").replace(".lora_B", ".lora.up")
            tensors[old] = tensors.pop(name)

    assert len(check_lora(spoilt(lora, tmp_path / "x.safetensors", rename))) == 9


def test_a_lora_is_found_by_its_content_wherever_it_lies(tmp_path, sd15_folder, request_of, lora):
    copy = shutil.copy(lora, tmp_path / "other name.safetensors")
    one = picture(sd15_folder, request_of, LoraFile(str(lora)))
    assert np.array_equal(picture(sd15_folder, request_of, LoraFile(str(copy))), one)
