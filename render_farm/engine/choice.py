"""Which engine renders a model: step batching where the pipeline is known inside out, else calls.

Decided from the folder's small files alone, so that `validate` and every worker agree.
"""

from __future__ import annotations

from collections.abc import Mapping

from render_farm.engine.folder import FolderFacts
from render_farm.engine.schedulers import SCHEDULERS
from render_farm.errors import ModelError

ENGINES = ("auto", "steps", "call", "rehearsal")

STEPPED_PIPELINES: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": ("text_encoder", "tokenizer", "unet", "vae", "scheduler"),
    "StableDiffusionXLPipeline": (
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "unet",
        "vae",
        "scheduler",
    ),
}
"""The pipelines that can be stepped, each with the components that it needs for it."""


VAE_LEVELS = 4
"""Each but the first halves the sides: a factor of 8 between pixels and latents."""

KNOWN_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
"""What the U-Nets of those pipelines are made of."""


def choose_engine(wanted: str, facts: FolderFacts, offload: str = "none") -> str:
    """``steps`` or ``call`` for the model in a folder; ``auto`` is ``steps`` where it can be.

    Raises: `ModelError` when the engine is not known, or cannot render this model.
    """
    if wanted not in ("auto", "steps", "call"):
        raise ModelError("model.engine", wanted, ", ".join(ENGINES), "set model.engine: auto")
    if wanted == "call":
        return "call"
    obstacle = _obstacle(facts, offload)
    if obstacle is None:
        return "steps"
    if wanted == "auto":
        return "call"
    raise ModelError(
        "model.engine",
        f"steps: {facts.path} {obstacle}",
        "steps for Stable Diffusion 1.x, 2.x and XL text-to-image models as they are published, "
        "held whole on the device",
        "set model.engine: auto, which renders this model by calls",
    )


def _obstacle(facts: FolderFacts, offload: str) -> str | None:
    """What keeps a model from being stepped; None if nothing does."""
    needed = STEPPED_PIPELINES.get(facts.pipeline_class)
    if needed is None:
        return f"is a {facts.pipeline_class}"
    missing = [name for name in needed if name not in facts.layout.components]
    if missing:
        return f"has no {missing[0]}"
    scheduler = facts.layout.components["scheduler"]
    if scheduler not in {each.class_name for each in SCHEDULERS.values()}:
        return f"has a {scheduler}"
    if offload != "none":
        return f"is to be loaded with model.offload: {offload}"
    return _vae_obstacle(facts) or _unet_obstacle(facts)


def _vae_obstacle(facts: FolderFacts) -> str | None:
    levels = len(facts.config("vae/config.json").get("block_out_channels", VAE_LEVELS * [0]))
    return None if levels == VAE_LEVELS else f"has a VAE of {levels} levels"


def _unet_obstacle(facts: FolderFacts) -> str | None:
    config = facts.config("unet/config.json")
    embeds = "text_time" if facts.pipeline_class == "StableDiffusionXLPipeline" else None
    expected = {
        "_class_name": "UNet2DConditionModel",
        "addition_embed_type": embeds,
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "cross_attention_norm": None,
        "dual_cross_attention": False,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
    }
    for key, value in expected.items():
        found = config.get(key, value)
        if found != value:
            return f"has a U-Net with {key}: {found}"
    for key, known in KNOWN_BLOCKS.items():
        kinds = config.get(key) or ()
        kinds = [kinds] if isinstance(kinds, str) else kinds
        strange = [kind for kind in kinds if kind not in known]
        if strange:
            return f"has a U-Net with a {strange[0]}"
    if config.get("in_channels") != config.get("out_channels"):
        return (
            f"has a U-Net from {config.get('in_channels')} to {config.get('out_channels')} channels"
        )
    return None
