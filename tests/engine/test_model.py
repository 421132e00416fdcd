"""Loading: every kind of folder that we promise, and refusals that name the field."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from render_farm.engine import model
from render_farm.engine.build import build_sampler
from render_farm.engine.call import CallSampler
from render_farm.engine.device import batch_that_fits, first_batch_size
from render_farm.engine.model import ModelSource, load_pipeline
from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Rendered
from render_farm.engine.steps import StepSampler
from render_farm.errors import DeviceLost, ModelError, OutOfMemory
from tests.models.folders import make_without, rewrite_json


@pytest.mark.parametrize("kind", ["sd15_folder", "fp16_folder", "old_folder", "sdxl_folder"])
def test_every_kind_of_folder_loads_and_renders(request, request_of, kind):
    folder = request.getfixturevalue(kind)
    sampler = build_sampler("auto", ModelSource(str(folder), device="cpu"))
    asked = [request_of(row) for row in range(2)]
    answers = list(sampler.render(asked, 2))
    assert [type(answer) for answer in answers] == [Rendered, Rendered]


def test_weights_that_are_stored_in_half_precision_compute_in_the_dtype_asked_for(fp16_folder):
    loaded = load_pipeline(ModelSource(str(fp16_folder), dtype="auto", device="cpu"))
    assert loaded.dtype == torch.float32
    for component in ("unet", "vae", "text_encoder"):
        assert getattr(loaded.pipeline, component).dtype == torch.float32


def mapped_files(path: str) -> list[range]:
    """The addresses at which this process has the files below a path mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = (line.split()[0].split("-") for line in lines if path in line)
    return [range(int(start, 16), int(stop, 16)) for start, stop in spans]


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is read from /proc")
def test_weights_in_the_dtype_they_are_stored_in_stay_in_their_files_for_all_processes(
    sd15_folder, tmp_path
):
    folder = shutil.copytree(sd15_folder, tmp_path / "own")  # no other test has mapped it
    loaded = load_pipeline(ModelSource(str(folder), dtype="float32", device="cpu"))
    files = mapped_files(str(folder))
    for component in ("unet", "vae", "text_encoder"):
        for parameter in getattr(loaded.pipeline, component).parameters():
            assert any(parameter.data_ptr() in span for span in files)


def test_bfloat16_is_computed_in_and_renders_on_a_cpu(sd15_folder, request_of):
    loaded = load_pipeline(ModelSource(str(sd15_folder), dtype="bfloat16", device="cpu"))
    for component in ("unet", "vae", "text_encoder"):
        assert getattr(loaded.pipeline, component).dtype == torch.bfloat16
    sampler = CallSampler(loaded)
    (answer,) = sampler.render([request_of()], 1)
    assert isinstance(answer, Rendered), answer
    assert sampler.info.dtype == "bfloat16"


def test_the_safety_checker_is_not_loaded(sd15):
    assert sd15.pipeline.safety_checker is None
    assert sd15.pipeline.feature_extractor is None


def test_an_old_folder_whose_safety_checker_was_taken_out_loads(old_folder, tmp_path):
    folder = shutil.copytree(old_folder, tmp_path / "unchecked")
    rewrite_json(folder / "model_index.json", {"safety_checker": [None, None]})
    loaded = load_pipeline(ModelSource(str(folder), device="cpu"))
    assert loaded.pipeline.feature_extractor is None


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_missing_weights_are_refused_rather_than_filled_up_at_random(
    sd15_folder, tmp_path, component
):
    folder = shutil.copytree(sd15_folder, tmp_path / "holes")
    (weights,) = [
        path for path in (folder / component).glob("*.safetensors") if "fp16" not in path.name
    ]
    tensors = safetensors.torch.load_file(weights)
    name = next(name for name in tensors if name.endswith("norm1.weight"))
    del tensors[name]
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights are missing"):
        load_pipeline(ModelSource(str(folder), device="cpu"))


def test_weights_that_are_cut_short_are_refused(sd15_folder, tmp_path):
    folder = shutil.copytree(sd15_folder, tmp_path / "short")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError) as raised:
        load_pipeline(ModelSource(str(folder), device="cpu"))
    assert raised.value.problem.field == "model.path"


def test_a_class_that_diffusers_does_not_have_is_refused(sd15_folder, tmp_path):
    folder = shutil.copytree(sd15_folder, tmp_path / "unknown")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "NoSuchPipeline"))
    with pytest.raises(ModelError, match="NoSuchPipeline"):
        load_pipeline(ModelSource(str(folder), device="cpu"))


def test_a_missing_component_is_named_before_loading(sd15_folder, tmp_path):
    folder = make_without(tmp_path / "part", sd15_folder, "text_encoder")
    with pytest.raises(ModelError, match="text_encoder/ is missing"):
        load_pipeline(ModelSource(str(folder), device="cpu"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"offload": "model", "device": "cpu"}, "model.offload"),
        ({"offload": "balanced", "device": "cpu"}, "model.offload"),
        ({"offload": "disk"}, "model.offload"),
        ({"dtype": "int8"}, "model.dtype"),
        ({"device": "cuda:99"}, "device"),
        ({"device": "toaster"}, "device"),
        ({"path": "no/such/folder"}, "model.path"),
    ],
)
def test_settings_that_cannot_work_name_their_field(sd15_folder, changes, field):
    with pytest.raises(ModelError) as raised:
        load_pipeline(ModelSource(**{"path": str(sd15_folder), **changes}))
    assert raised.value.problem.field == field


def test_the_engine_is_the_one_that_the_job_asks_for(sd15_folder):
    source = ModelSource(str(sd15_folder), device="cpu")
    assert isinstance(build_sampler("auto", source), StepSampler)
    assert isinstance(build_sampler("steps", source), StepSampler)
    assert isinstance(build_sampler("call", source), CallSampler)
    assert isinstance(build_sampler("rehearsal", source), RehearsalSampler)
    with pytest.raises(ModelError, match="auto, steps, call, rehearsal"):
        build_sampler("magic", source)


def test_the_errors_of_the_engine_survive_pickling():
    for error in (
        ModelError("model.path", "value", "allowed", "fix"),
        OutOfMemory(8, "no memory"),
        DeviceLost("CUDA error"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


@pytest.mark.parametrize("pixels", [8 * 8, 64 * 64, 512 * 512, 8192 * 8192])
def test_the_first_batch_size_is_a_power_of_two_and_at_least_one(pixels):
    size = first_batch_size(torch.device("cpu"), torch.float32, pixels, 1)
    assert size in {1, 2, 4, 8}


@pytest.mark.parametrize(
    ("free_gib", "itemsize", "side", "expected"),
    [(76, 2, 512, 32), (22, 2, 512, 8), (76, 2, 1024, 8), (76, 4, 1024, 4), (2, 2, 1024, 1)],
)
def test_the_first_batch_on_an_accelerator_follows_its_memory(free_gib, itemsize, side, expected):
    assert batch_that_fits(free_gib * 2**30, itemsize, side, side) == expected


LOAD = """
import sys
from render_farm.engine import model
from render_farm.engine.build import build_sampler
from render_farm.engine.source import ModelSource
build_sampler("call", ModelSource(sys.argv[1], device="cpu"))
"""


def test_loading_says_nothing_on_the_terminal(sd15_folder: Path):
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(sd15_folder)], capture_output=True, timeout=120, check=True
    )
    assert (result.stdout, result.stderr) == (b"", b"")


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the loader believe that it sees so many."""

    def see(count: int) -> None:
        monkeypatch.setattr(model, "choose_device", lambda wanted: torch.device("cuda"))
        monkeypatch.setattr(model, "device_model", lambda device: "a GPU")
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return see


def test_a_balanced_model_is_spread_by_diffusers_and_not_moved_afterwards(
    sd15_folder, accelerators, monkeypatch
):
    accelerators(2)
    read, asked = model._from_folder, []

    def from_folder(path: str, options: dict[str, Any]) -> Any:
        asked.append(options["device_map"])
        return read(path, options)  # with no accelerator in sight, diffusers spreads over the CPU

    monkeypatch.setattr(model, "_from_folder", from_folder)
    loaded = load_pipeline(ModelSource(str(sd15_folder), offload="balanced", dtype="float32"))
    assert asked == ["balanced"]
    assert loaded.pipeline.device.type == "cpu"


def test_a_model_cannot_be_spread_over_one_accelerator(sd15_folder, accelerators):
    accelerators(1)
    with pytest.raises(ModelError, match="sees 1 accelerator ") as raised:
        load_pipeline(ModelSource(str(sd15_folder), offload="balanced"))
    assert raised.value.problem.field == "model.offload"
