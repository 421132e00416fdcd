"""Models that nobody should trust: no code from data, nothing from outside, no end without a word.

Every case is a healthy tiny folder with one thing done to it, taken through the real commands in a
process of its own. What can be seen without loading is refused by `validate`; the rest by `submit`,
before any shard. Numbers that lead to no picture stop the run early instead of painting black.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.hostile.trials import OUTSIDE, Trial, Trials
from tests.making.jobs import job_document, write_prompts
from tests.models.folders import LORA_UNET, make_lora, make_sd15, rewrite_json, write_json

ROWS = 8
MOST_MEMORY_MIB = 300
"""What a trial may have in memory beyond one that renders: the rest of a header of 100 MB."""

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"
CANARY = "canary"

Change = Callable[[Path], object]
Figure = Callable[[str, object], None]


class Harmful:
    """Unpickled, it leaves a file where the trial keeps its output."""

    def __init__(self, folder: Path) -> None:
        self._canary = folder.parent / CANARY

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._canary}",)


def pickled(*names: str) -> Change:
    """Files that harm whoever unpickles them."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(pickle.dumps(Harmful(folder)))

    return change


def only_pickles(suffix: str) -> Change:
    def change(folder: Path) -> None:
        (folder / UNET).unlink()
        pickled(f"unet/diffusion_pytorch_model{suffix}")(folder)

    return change


def put(name: str, content: bytes | str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def say(file: str, **values: object) -> Change:
    return lambda folder: rewrite_json(folder / file, values)


def index(**values: object) -> Change:
    return say("model_index.json", **values)


def code(name: str) -> Change:
    """A module that leaves the canary when it is imported."""
    return lambda folder: (folder / name).write_text(
        f"open({str(folder.parent / CANARY)!r}, 'w').close()\n"
    )


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def link(name: str, target: str) -> Change:
    """A link in place of a file or folder; its target is kept outside."""

    def change(folder: Path) -> None:
        path = folder / name
        outside = folder.parent / OUTSIDE
        outside.mkdir(exist_ok=True)
        if path.exists():
            path.rename(outside / path.name)
        path.symlink_to(target.format(outside=outside))

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def split(weights: str, part: str) -> Change:
    """Weights as one part of one, and an index that calls it something else."""

    def change(folder: Path) -> None:
        path = folder / weights
        keys = list(load_file(path))
        path.rename(path.with_name(path.name.replace(".", "-00001-of-00001.")))
        content = {"metadata": {}, "weight_map": dict.fromkeys(keys, part)}
        write_json(path.with_name(f"{path.name}.index.json"), content)

    return change


def elsewhere(weights: str) -> Change:
    """The same, where the part named lies outside."""

    def change(folder: Path) -> None:
        outside = folder.parent / OUTSIDE / "x.safetensors"
        outside.parent.mkdir()
        shutil.copy(folder / weights, outside)
        split(weights, f"../../{OUTSIDE}/x.safetensors")(folder)

    return change


def header(content: bytes, length: int | None = None) -> Change:
    """Weights of nothing but a header, of a length that may be a lie."""
    size = struct.pack("<Q", len(content) if length is None else length)
    return put(UNET, size + content)


def first_tensor(**values: object) -> Change:
    """Change what a header says of its first tensor, and leave the data as they are."""

    def change(folder: Path) -> None:
        raw = (folder / UNET).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        entries = json.loads(raw[8 : 8 + length])
        entries[min(entries.keys() - {"__metadata__"})] |= values
        said = json.dumps(entries).encode()
        (folder / UNET).write_bytes(struct.pack("<Q", len(said)) + said + raw[8 + length :])

    return change


def weights(file: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        edit(tensors)
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return change


def fill(file: str, value: float, name: str = "") -> Change:
    """A number in every place of the tensors whose names contain `name`."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        chosen = [key for key in tensors if name in key and tensors[key].is_floating_point()]
        assert chosen
        for key in chosen:
            tensors[key].fill_(value)

    return weights(file, edit)


def flatten(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= {key: tensor.flatten() for key, tensor in tensors.items()}


def add_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["mid_block.evil.weight"] = torch.full((1 << 16,), float("nan"))


def drop_tensor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["conv_out.bias"]


def adapter(folder: Path) -> None:
    """What transformers takes for an adapter of another model, with modules to import."""
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(folder.parent / OUTSIDE),
        "auto_mapping": {"base_model_class": "X", "parent_library": "antigravity"},
    }
    write_json(folder / "text_encoder" / "adapter_config.json", settings)
    pickled("text_encoder/adapter_model.bin")(folder)


SCHEDULER = "scheduler/scheduler_config.json"
TOKENIZER = "tokenizer/tokenizer_config.json"

VALIDATE: Mapping[str, tuple[Change, str]] = {
    # code
    "weights .bin": (only_pickles(".bin"), "is a pickle"),
    "weights .pt": (only_pickles(".pt"), "is a pickle"),
    "weights .ckpt": (only_pickles(".ckpt"), "is a pickle"),
    "pickle named safetensors": (pickled(UNET), "cannot be read as safetensors"),
    "class of os": (index(unet=["os", "system"]), "takes unet from"),
    "class of subprocess": (index(more=["subprocess", "Popen"]), "takes more from"),
    "class of torch": (index(unet=["torch", "load"]), "takes unet from"),
    "class behind a dot": (index(unet=["diffusers.utils", "x"]), "takes unet from"),
    "class twice, the last wins": (
        lambda folder: (folder / "model_index.json").write_text(
            (folder / "model_index.json").read_text().rstrip("\n}") + ', "vae": ["os", "system"]}'
        ),
        "takes vae from",
    ),
    "component outside": (index(**{"../outside": ["diffusers", "X"]}), "names a component"),
    "custom pipeline": (index(custom_pipeline="pipeline"), "names custom_pipeline"),
    "pipeline module": (
        all_of(index(_class_name=["pipeline", "P"]), code("pipeline.py")),
        "contains pipeline.py",
    ),
    "module beside": (code("unet/unet.py"), "contains unet/unet.py"),
    "auto_map": (say(TOKENIZER, auto_map={"AutoTokenizer": ["x.Y", None]}), "has an auto_map"),
    "auto_map inside": (
        say("text_encoder/config.json", text_config={"auto_map": {"AutoModel": "x.Y"}}),
        "has an auto_map",
    ),
    "adapter": (adapter, "adapter_config.json makes the component an adapter"),
    # places
    "link, absolute": (link(UNET, "{outside}/diffusion_pytorch_model.safetensors"), "is a link"),
    "link, relative": (link("unet/config.json", "../../outside/config.json"), "is a link"),
    "link, folder": (link("vae", "{outside}/vae"), "is a link"),
    "link, chain": (all_of(link("a", "b"), link("b", "{outside}")), "is a link"),
    "link, loop": (link(UNET, "diffusion_pytorch_model.safetensors"), "leads to no file"),
    "link, nowhere": (link("vae/config.json", "nothing.json"), "leads to no file"),
    "link, device": (link("tokenizer/merges.txt", "/dev/zero"), "is a link"),
    "pipe as weights": (pipe(UNET), "leads to no file"),
    "pipe as configuration": (pipe("unet/config.json"), "leads to no file"),
    "part outside": (elsewhere(ENCODER), "which is no safetensors file beside it"),
    "part that is a pickle": (
        all_of(split(ENCODER, "x.bin"), pickled("text_encoder/x.bin")),
        "which is no safetensors file beside it",
    ),
    "parts of nothing": (
        all_of(split(UNET, "x"), put(f"{UNET}.index.json", "[1]")),
        "has no weight_map",
    ),
    # weights
    "header of 2^63": (header(b"{}", 2**63), "cannot be read as safetensors"),
    "header beyond the file": (header(b"{}", 2**20), "cannot be read as safetensors"),
    "header of spaces": (header(b"{" + b" " * (10**8 - 2) + b"}"), "holds no tensors"),
    "header too deep": (header(b"[" * 10**6), "cannot be read as safetensors"),
    "no header": (put(UNET, b""), "cannot be read as safetensors"),
    "shape of 2^40": (first_tensor(shape=[2**40]), "cannot be read as safetensors"),
    "shape that overflows": (first_tensor(shape=[2**40, 2**40]), "cannot be read as safetensors"),
    "shape below 0": (first_tensor(shape=[-1]), "cannot be read as safetensors"),
    "data beyond the file": (
        first_tensor(data_offsets=[0, 2**62]),
        "cannot be read as safetensors",
    ),
    "data that overlap": (first_tensor(data_offsets=[4, 132]), "cannot be read as safetensors"),
    "type unknown": (first_tensor(dtype="F128"), "cannot be read as safetensors"),
    # configurations
    "layers of the encoder": (
        say("text_encoder/config.json", num_hidden_layers=10**6),
        "num_hidden_layers: 1000000",
    ),
    "layers of a block": (say("unet/config.json", layers_per_block=10**6), "layers_per_block"),
    "layers by block": (
        say("unet/config.json", transformer_layers_per_block=[1, 10**6]),
        "transformer_layers_per_block",
    ),
    "blocks": (say("unet/config.json", down_block_types=["DownBlock2D"] * 10**5), "a list of"),
    "blocks that are a number": (say("unet/config.json", down_block_types=5), "down_block_types"),
    "levels": (say("vae/config.json", block_out_channels=[8] * 10**5), "300000 characters"),
    "levels, none": (say("vae/config.json", block_out_channels=[]), "block_out_channels"),
    "levels, a number": (say("vae/config.json", block_out_channels=4), "block_out_channels"),
    "sample size": (say("unet/config.json", sample_size=[1, 2, 3]), "sample_size"),
    "sample size, text": (say("unet/config.json", sample_size="64"), "sample_size"),
    "tokens a prompt": (say(TOKENIZER, model_max_length=10**9), "model_max_length"),
    "tokens a prompt, below 0": (say(TOKENIZER, model_max_length=-7), "model_max_length"),
    "training steps": (say(SCHEDULER, num_train_timesteps=10**12), "num_train_timesteps"),
    "training steps, text": (say(SCHEDULER, num_train_timesteps="1000"), "num_train_timesteps"),
    "training steps, 0": (say(SCHEDULER, num_train_timesteps=0), "num_train_timesteps"),
    "betas, NaN": (say(SCHEDULER, beta_start=float("nan")), "beta_start"),
    "betas, large": (say(SCHEDULER, trained_betas=[10.0] * 1000), "trained_betas"),
    # JSON
    "list": (put("unet/config.json", "[1, 2]"), "instead of a mapping"),
    "index is a list": (put("model_index.json", "[1]"), "names no pipeline class"),
    "nested": (put("unet/config.json", '{"a":' * 10**5 + "1" + "}" * 10**5), "recursion"),
    "nested index": (put("model_index.json", "[" * 10**5), "recursion"),
    "100 MB": (put("unet/config.json", b"[" + b"[]," * 33_000_000 + b"1]"), "bytes, more than"),
    "100 MB of tokens": (put("tokenizer/vocab.json", b" " * 10**8), "bytes, more than"),
    "number of 10,000 digits": (put("unet/config.json", '{"a":' + "1" * 10**4 + "}"), "digits"),
    "UTF-16": (put("unet/config.json", "{}".encode("utf-16")), "cannot be read as JSON"),
}
"""What is done to the folder, and what `validate` then says of it."""

LOAD: Mapping[str, tuple[Change, str]] = {
    "class that is a function": (index(text_encoder=["transformers", "pipeline"]), ""),
    "pipeline that is a module": (index(_class_name="utils"), ""),
    "three parts of a class": (index(unet=["diffusers", "UNet2DConditionModel", "x"]), ""),
    "activation that is code": (
        say("text_encoder/config.json", hidden_act="__import__('os').system('true')"),
        "__import__",
    ),
    "tensor missing": (weights(UNET, drop_tensor), "weights are missing"),
    "shapes of another model": (weights(UNET, flatten), "shape"),
    "hidden size": (say("text_encoder/config.json", hidden_size=10**9), ""),
    "channels": (say("unet/config.json", cross_attention_dim=10**9), ""),
    "heads, none": (say("text_encoder/config.json", num_attention_heads=0), "ZeroDivision"),
    "hidden size, text": (say("text_encoder/config.json", hidden_size="32"), "hidden_size"),
    "token below 0": (say("tokenizer/vocab.json", **{"a</w>": -5}), ""),
    "tokens that the encoder lacks": (say("tokenizer/vocab.json", **{"a</w>": 99_999}), "99999"),
    "merges of noise": (put("tokenizer/merges.txt", bytes(range(256)) * 10), ""),
}
"""What is done to the folder, and what `submit` says of it when it loads the model."""

STOP: Mapping[str, Change] = {
    "NaN everywhere": fill(UNET, float("nan")),
    "infinity": fill(UNET, float("inf")),
    "weights that overflow": fill(UNET, 3e38),
    "one NaN in the decoder": fill(VAE, float("nan"), "decoder.conv_out.bias"),
    "one NaN in the text encoder": fill(ENCODER, float("nan"), "final_layer_norm.weight"),
    "a scale of 0": say("vae/config.json", scaling_factor=0),
    "an epsilon of NaN": say("text_encoder/config.json", layer_norm_eps=float("nan")),
}

HARMLESS: Mapping[str, Change] = {
    "nothing": lambda folder: None,
    "pickles beside": pickled(
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.ckpt",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.pt",
        "scheduler.pkl",
    ),
    "values that nothing asks for": all_of(
        weights(UNET, add_tensor),
        fill(VAE, float("nan"), "encoder.conv_in.bias"),
        say(TOKENIZER, tokenizer_class="Evil", vocab_file="../outside/vocab.json"),
        say(TOKENIZER, tokenizer_file="/dev/zero", name_or_path="http://127.0.0.1:9/x"),
        index(_diffusers_version={"a": [1]}, _name_or_path="../outside"),
    ),
}
"""What is done to a folder that loads nevertheless, for none of it is used."""

LoraChange = Callable[[Path, dict[str, torch.Tensor]], Mapping[str, str] | None]


def settings(**values: object) -> LoraChange:
    """What training with peft leaves in the file, and peft would act on."""
    return lambda _file, _tensors: {"lora_adapter_metadata": json.dumps(values)}


def nested_settings(_file: Path, _tensors: object) -> dict[str, str]:
    return {"lora_adapter_metadata": "[" * 10**5}


def no_numbers(_file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A rank of 2^30 that takes no room in the file, and 128 GiB in the layer that peft makes."""
    tensors[f"{LAYER}.lora_A.weight"] = torch.zeros(2**30, 0)
    tensors[f"{LAYER}.lora_B.weight"] = torch.zeros(0, 2**30)


def nan_in_a_layer(_file: Path, tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{LAYER}.lora_B.weight"].fill_(float("nan"))


LAYER = f"unet.{LORA_UNET[0]}"

LORAS: Mapping[str, tuple[str, LoraChange, str]] = {
    "rank without numbers": ("validate", no_numbers, "which do not fit"),
    "expression without end": (
        "validate",
        settings(**{"unet.alpha_pattern": {"(([a-z0-9_.])+)+!": 1}}),
        "alpha_pattern",
    ),
    "expression that is none": (
        "validate",
        settings(**{"unet.alpha_pattern": {"(": 1}}),
        "alpha_pattern",
    ),
    "alpha of 400 digits": ("validate", settings(lora_alpha=10**400), "an alpha of"),
    "alpha, NaN": ("validate", settings(lora_alpha=float("nan")), "an alpha of"),
    "modules to import": (
        "validate",
        settings(**{"unet.megatron_config": {"a": 1}, "unet.megatron_core": "antigravity"}),
        "megatron_config",
    ),
    "nested settings": ("validate", nested_settings, "that is no JSON"),
    "NaN": ("submit", nan_in_a_layer, "NaN"),
}
"""The command that refuses a LoRA, what is done to the file, and what is said of it."""

LORA_FILES: Mapping[str, tuple[str, Change, str]] = {
    "pickle": ("x.pt", pickled("x.pt"), "is no .safetensors file"),
    "pickle in a folder": (".", pickled("x.bin"), "is no .safetensors file"),
    "pickle by another name": (
        "x.safetensors",
        pickled("x.safetensors"),
        "cannot be read as safetensors",
    ),
    "header of 2^63": (
        "x.safetensors",
        put("x.safetensors", struct.pack("<Q", 2**63)),
        "cannot be read as safetensors",
    ),
    "pipe": ("x.safetensors", pipe("x.safetensors"), "no such file"),
    "link, loop": ("x.safetensors", link("x.safetensors", "x.safetensors"), "no such file"),
}
"""The path of a LoRA below a folder, how it is made there, and what `validate` says of it."""


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    with Trials() as running:
        yield running


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = {"variant_fp16": False, "safety_checker": False, "feature_extractor": False}
    return make_sd15(tmp_path_factory.mktemp("healthy") / "model", **plain)


@pytest.fixture
def model(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "model")


@pytest.fixture(scope="module")
def ended() -> Counter[str]:
    """How many cases ended how, printed when all have."""
    return Counter()


Run = Callable[..., Trial]


@pytest.fixture
def farm(trials: Trials, tmp_path: Path, model: Path, ended: Counter[str]) -> Run:
    """`farm("submit", how)`: the command on a job with the model, which must do no harm."""
    prompts = write_prompts(tmp_path / "prompts.parquet", ROWS)

    def run(command: str, how: str, **additions: object) -> Trial:
        settings = {"path": str(model), "engine": "auto", **additions}
        work = {"shards": {"rows": ROWS}, "workers": {"count": 1, "batch_size": 4}}
        job = job_document(prompts, tmp_path / "run", model=settings, defaults={"steps": 2}, **work)
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        local = ["--local"] if command == "submit" else []
        trial = trials.run(tmp_path, command, tmp_path / "job.yaml", *local, "--json")
        assert not (tmp_path / CANARY).exists()
        assert not trial.misdeeds
        ended[how] += 1
        ended["MiB at most"] = max(ended["MiB at most"], trial.peak_mib)
        return trial

    return run


def refused(trial: Trial, field: str = "model.path") -> str:
    """What is said of the value that a command refuses, with a fix."""
    assert trial.code == 2, trial
    (error,) = trial.json["errors"]
    assert error["field"] == field
    assert error["allowed"]
    assert error["fix"]
    value: str = error["value"]
    return value


@pytest.mark.parametrize("case", VALIDATE)
def test_what_shows_without_loading_is_refused_before_anything_is_written(
    farm, model, tmp_path, case
):
    change, message = VALIDATE[case]
    change(model)
    assert message in refused(farm("validate", "refused by validate"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", LOAD)
def test_what_shows_when_it_is_loaded_is_refused_before_any_shard(farm, model, tmp_path, case):
    change, message = LOAD[case]
    change(model)
    assert message in refused(farm("submit", "refused by loading"))
    assert not list((tmp_path / "run").glob("receipts/*"))


@pytest.mark.parametrize("case", STOP)
def test_numbers_that_lead_to_no_picture_stop_the_run_instead_of_painting_black(
    farm, model, tmp_path, case
):
    STOP[case](model)
    trial = farm("submit", "stopped early")
    assert trial.code == 4, trial
    assert "the commonest error is non_finite (8 rows)" in trial.json["reason"]
    assert not list((tmp_path / "run").glob("receipts/*"))
    assert not list((tmp_path / "run").glob("data/*"))


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_not_used_is_not_looked_at_and_the_model_renders(farm, model, case):
    HARMLESS[case](model)
    trial = farm("submit", "rendered")
    assert trial.code == 0, trial
    assert trial.json["rows"]["done"] == ROWS


@pytest.mark.parametrize("case", LORAS)
def test_what_a_lora_asks_for_beside_its_layers_is_refused(farm, model, tmp_path, case):
    command, change, message = LORAS[case]
    file = make_lora(tmp_path / "x.safetensors", model)
    tensors = load_file(file)
    metadata = change(file, tensors) or {}
    save_file(tensors, file, metadata={"format": "pt", **metadata})
    trial = farm(command, "LoRA refused", loras=[{"path": str(file)}])
    assert message in refused(trial, "model.loras")


@pytest.mark.parametrize("case", LORA_FILES)
def test_a_lora_that_is_no_safetensors_file_is_refused(farm, tmp_path, case):
    name, change, message = LORA_FILES[case]
    (tmp_path / "loras").mkdir()
    change(tmp_path / "loras")
    trial = farm("validate", "LoRA refused", loras=[{"path": str(tmp_path / "loras" / name)}])
    assert message in refused(trial, "model.loras")


def test_no_trial_takes_much_more_memory_than_one_that_renders(farm, ended, figure: Figure):
    hostile = dict(ended)
    most = hostile.pop("MiB at most", 0)
    healthy = farm("submit", "healthy").peak_mib
    assert most <= healthy + MOST_MEMORY_MIB
    figure("hostile models: cases", sum(hostile.values()))
    for how, count in hostile.items():
        figure(f"hostile models: {how}", count)
    figure("hostile models: most memory, and that of a healthy model (MiB)", f"{most}, {healthy}")
