"""Makers of tiny model folders with random weights, laid out exactly like the real ones.

The pictures mean nothing, but every file is where the real model has it, so that whatever loads
these folders loads the real ones. Weights are drawn from a fixed seed: the same call makes the same
bytes. A folder takes about a second to make, so tests make one a session.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENS = 77
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CHECKED_PX = 30
START, END = "<|startoftext|>", "<|endoftext|>"


def make_sd15(
    path: Path,
    variant_fp16: bool = True,
    safety_checker: bool = True,
    feature_extractor: bool = True,
    old_feature_extractor: bool = False,
    full_weights: bool = True,
) -> Path:
    """A folder laid out like ``runwayml/stable-diffusion-v1-5``; returns `path`.

    `variant_fp16` adds the ``*.fp16.safetensors`` files, `full_weights` off leaves only those.
    `old_feature_extractor` names the class that transformers 5 no longer has, as old folders do.
    """
    torch.manual_seed(15)
    pipeline = StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(hidden=32)),
        tokenizer=None,
        unet=unet(cross_attention=32),
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save(pipeline, path, full_weights=full_weights, variant_fp16=variant_fp16)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if feature_extractor:
        name = "CLIPFeatureExtractor" if old_feature_extractor else "CLIPImageProcessor"
        index["feature_extractor"] = ["transformers", name]
        write_json(path / "feature_extractor" / "preprocessor_config.json", preprocessor(name))
    if safety_checker:
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        checker = StableDiffusionSafetyChecker(checker_config())
        if full_weights:
            checker.save_pretrained(path / "safety_checker")
        if variant_fp16:
            checker.half().save_pretrained(path / "safety_checker", variant="fp16")
    write_json(path / "model_index.json", index)
    write_json(path / "scheduler" / "scheduler_config.json", pndm_config())
    write_tokenizer(path / "tokenizer")
    for component in ("unet", "vae"):
        rewrite_json(path / component / "config.json", {"_diffusers_version": "0.6.0"})
    for weights in (*path.glob("text_encoder/*.safetensors"), *path.glob("vae/*.safetensors")):
        rename_as_in_2022(weights)
    # transformers 5 would take the type of the last weights written for the model's own
    for config in path.glob("*/config.json"):
        if "dtype" in json.loads(config.read_text()):
            rewrite_json(config, {"dtype": "float32", "torch_dtype": "float32"})
    return path


def make_old_sd(path: Path) -> Path:
    """A Stable Diffusion 1.x folder from before transformers 4.26: names `CLIPFeatureExtractor`."""
    return make_sd15(path, variant_fp16=False, old_feature_extractor=True)


def make_sdxl(path: Path) -> Path:
    """A folder laid out like ``stabilityai/stable-diffusion-xl-base-1.0``; returns `path`."""
    torch.manual_seed(10)
    pipeline = StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(hidden=32)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(hidden=32)),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet(
            cross_attention=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    save(pipeline, path, full_weights=True, variant_fp16=False)
    rewrite_json(
        path / "model_index.json",
        {
            "_diffusers_version": "0.19.0.dev0",
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        },
    )
    write_tokenizer(path / "tokenizer")
    write_tokenizer(path / "tokenizer_2", pad="!")
    return path


def make_pickle_only(path: Path, folder: Path, component: str = "unet") -> Path:
    """A copy of `folder` at `path` in which a component's weights are a pickle."""
    shutil.copytree(folder, path)
    for weights in (path / component).glob("*.safetensors"):
        weights.unlink()
    name = "diffusion_pytorch_model.bin" if component == "unet" else "pytorch_model.bin"
    (path / component / name).write_bytes(b"\x80\x02}q\x00.")
    return path


def make_custom_code(path: Path, folder: Path) -> Path:
    """A copy of `folder` at `path` whose U-Net class comes from a module inside the folder."""
    shutil.copytree(folder, path)
    rewrite_json(path / "model_index.json", {"unet": ["my_unet", "MyUNet"]})
    (path / "unet" / "my_unet.py").write_text("raise SystemExit('this code must never run')\n")
    return path


# Layers of the tiny models that a LoRA adds to, one of each kind that real ones add to.
LORA_UNET = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.0.proj_in",
    "down_blocks.0.resnets.0.conv1",
)
LORA_TEXT = (
    "text_model.encoder.layers.0.self_attn.q_proj",
    "text_model.encoder.layers.0.self_attn.out_proj",
    "text_model.encoder.layers.1.mlp.fc1",
)


def make_lora(
    path: Path,
    folder: Path,
    *,
    kohya: bool = False,
    alpha: float | None = None,
    seed: int = 1,
    unet: tuple[str, ...] = LORA_UNET,
    text: tuple[str, ...] = LORA_TEXT,
    size: float = 0.1,
) -> Path:
    """A LoRA of rank 2 for the model in `folder`, at `path`, a .safetensors file; returns `path`.

    `kohya` names its layers as kohya's scripts do, instead of as peft and diffusers do. `alpha`
    over the rank is its own strength: kohya writes one a layer, peft one for all. `unet` and `text`
    are the layers that it adds to, `text` in every text encoder. `size` is that of its numbers.
    """
    chance = torch.Generator().manual_seed(seed)
    tensors = {}
    encoders = sorted(found.name for found in folder.glob("text_encoder*"))
    for part, layers in {"unet": unet, **dict.fromkeys(encoders, text)}.items():
        for layer in layers:
            out, inside, *kernel = lora_target(folder, part, layer).shape
            down = torch.randn(2, inside, *kernel, generator=chance) * size
            up = torch.randn(out, 2, *(1 for _ in kernel), generator=chance) * size
            if not kohya:
                tensors[f"{part}.{layer}.lora_A.weight"] = down
                tensors[f"{part}.{layer}.lora_B.weight"] = up
                continue
            name = f"{kohya_prefix(part, encoders)}_{layer.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.lora_up.weight"] = up
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha)
    metadata = {"format": "pt"}
    if alpha is not None and not kohya:
        settings = {"r": 2, "lora_alpha": alpha, "peft_type": "LORA", "megatron_core": "megatron"}
        parts = {"unet": unet, **dict.fromkeys(encoders, text)}
        packed = {
            f"{part}.{key}": value
            for part, layers in parts.items()
            for key, value in {**settings, "target_modules": list(layers)}.items()
        }
        metadata["lora_adapter_metadata"] = json.dumps(packed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


def lora_target(folder: Path, part: str, layer: str) -> torch.Tensor:
    """The weight that a LoRA's layer adds to, from the full weights of a folder's component."""
    (weights,) = (
        found for found in (folder / part).glob("*.safetensors") if "fp16" not in found.name
    )
    tensors = load_file(weights)
    names = (f"{layer}.weight", f"{layer.removeprefix('text_model.')}.weight")
    return next(tensors[name] for name in names if name in tensors)


def kohya_prefix(part: str, encoders: list[str]) -> str:
    """What kohya's names of a component's layers begin with."""
    if part == "unet":
        return "lora_unet"
    return "lora_te" if len(encoders) == 1 else f"lora_te{encoders.index(part) + 1}"


def make_without(path: Path, folder: Path, missing: str) -> Path:
    """A copy of `folder` at `path` without the file or component folder `missing`."""
    shutil.copytree(folder, path)
    target = path / missing
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    return path


def save(pipeline: Any, path: Path, *, full_weights: bool, variant_fp16: bool) -> None:
    """Write the weights of a pipeline, full, as the fp16 variant, or both."""
    if full_weights:
        pipeline.save_pretrained(path)
    if variant_fp16:
        pipeline.to(dtype=torch.float16).save_pretrained(path, variant="fp16")


def rename_as_in_2022(weights: Path) -> None:
    """Give a text encoder's or a VAE's tensors the names they have in the old files."""
    names = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = {}
    for name, tensor in load_file(weights).items():
        old_name = name
        if weights.parent.name == "text_encoder":
            old_name = f"text_model.{name.removeprefix('text_model.')}"
        elif ".attentions." in name:
            for new, old in names.items():
                old_name = old_name.replace(new, old)
        tensors[old_name] = tensor
    if weights.parent.name == "text_encoder":
        tensors["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    save_file(tensors, weights, metadata={"format": "pt"})


def unet(cross_attention: int, **extra: Any) -> UNet2DConditionModel:
    """A denoiser of two levels. Its sample size is the real one: 64, pictures of 512 px."""
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=cross_attention,
        norm_num_groups=8,
        **extra,
    )


def vae() -> AutoencoderKL:
    """A decoder of four levels, hence the real factor of 8 between pixels and latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=512,
    )


def text_config(hidden: int) -> CLIPTextConfig:
    """A text encoder of two layers over the tiny vocabulary."""
    return CLIPTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=hidden,
        intermediate_size=64,  # fills vector registers, as real ones do; see `set_threads`
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=TOKENS,
        projection_dim=32,
        bos_token_id=vocabulary()[START],
        eos_token_id=vocabulary()[END],
        pad_token_id=1,
    )


def checker_config() -> CLIPConfig:
    """The safety checker's vision model, tiny."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "image_size": CHECKED_PX,
        "patch_size": 15,
    }
    return CLIPConfig(vision_config=vision, projection_dim=32)


def pndm_config() -> dict[str, Any]:
    """``scheduler_config.json`` of Stable Diffusion 1.5, as it is on the hub."""
    return {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **BETAS,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }


def preprocessor(name: str) -> dict[str, Any]:
    """``preprocessor_config.json`` of the feature extractor class `name`, as in the old folders."""
    return {
        "crop_size": CHECKED_PX,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": name,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": CHECKED_PX,
    }


def vocabulary() -> dict[str, int]:
    """Tokens to ids: single characters, each also at the end of a word, and the two markers.

    Without merges every character is a token, so a prompt of n letters has n + 2 tokens.
    """
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *(f"{character}</w>" for character in characters), START, END]
    return {token: number for number, token in enumerate(tokens)}


def write_tokenizer(folder: Path, pad: str = END) -> None:
    """The four files of an old CLIP tokenizer: no ``tokenizer.json``."""
    write_json(folder / "vocab.json", vocabulary())
    (folder / "merges.txt").write_text("#version: 0.2\n")
    marker = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    markers = {
        "bos_token": {"content": START, **marker},
        "eos_token": {"content": END, **marker},
        "unk_token": {"content": END, **marker},
    }
    write_json(folder / "special_tokens_map.json", {**markers, "pad_token": pad})
    typed = {name: {"__type": "AddedToken", **value} for name, value in markers.items()}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            **typed,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": TOKENS,
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": pad,
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
        },
    )


def write_json(path: Path, content: Any) -> None:
    """Write JSON as the hub's folders have it: indented, sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def rewrite_json(path: Path, changes: dict[str, Any]) -> None:
    """Change some keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)
