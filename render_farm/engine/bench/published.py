"""The published configurations of Stable Diffusion 1.5 and SDXL, as the hub's folders have them.

Sources: ``stable-diffusion-v1-5/stable-diffusion-v1-5`` and
``stabilityai/stable-diffusion-xl-base-1.0``: ``*/config.json``, ``scheduler_config.json`` and
``model_index.json``. Keys that only say a default of diffusers 0.42 or transformers 5 are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

_VAE: Config = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}

# OpenAI's CLIP ViT-L/14. The hub says eos_token_id 2 and means the highest id of a prompt, which is
# what transformers does with it.
_CLIP_L: Config = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}


@dataclass(frozen=True, slots=True)
class Published:
    """A model by its configurations.

    `unet`, `vae`, `scheduler` and `texts`, one a text encoder, are keyword arguments of the
    classes; `pads` are the tokens that the tokenizers pad with; `init` is what the pipeline takes
    beside its components. `side_px` and `steps` are what the model is usually measured at.
    """

    pipeline_class: str
    unet: Config
    vae: Config
    texts: tuple[Config, ...]
    pads: tuple[str, ...]
    scheduler_class: str
    scheduler: Config
    init: Config
    side_px: int
    steps: int


SD15 = Published(
    pipeline_class="StableDiffusionPipeline",
    unet={
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    vae={**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    texts=(_CLIP_L,),
    pads=("<|endoftext|>",),
    scheduler_class="PNDMScheduler",
    scheduler={
        **_BETAS,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    init={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    side_px=512,
    steps=50,
)

SDXL = Published(
    pipeline_class="StableDiffusionXLPipeline",
    unet={
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
    vae={**_VAE, "force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025},
    texts=(
        _CLIP_L,
        {
            **_CLIP_L,
            "hidden_act": "gelu",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "projection_dim": 1280,
        },
    ),
    pads=("<|endoftext|>", "!"),
    scheduler_class="EulerDiscreteScheduler",
    scheduler={
        **_BETAS,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    init={"force_zeros_for_empty_prompt": True, "add_watermarker": False},
    side_px=1024,
    steps=20,
)

PUBLISHED: Mapping[str, Published] = {"sd15": SD15, "sdxl": SDXL}
