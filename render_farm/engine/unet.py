"""A Stable Diffusion U-Net in two parts: what the picture alone decides, and what the text does.

With guidance a picture is denoised twice, for the prompt and for the negative prompt. Up to the
first block with cross-attention both do the same, so that part is computed once a picture.
"""

from __future__ import annotations

from typing import Any

import torch

Features = tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]
"""Hidden states, time embedding, and the hidden states that skip to the way up. [n, …] each."""


class SplitUNet:
    """`UNet2DConditionModel.forward` for the U-Nets of Stable Diffusion 1.x, 2.x and XL.

    Calls the model's own blocks in the order in which diffusers does.
    """

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self._shared_blocks = _shared_blocks(unet)

    def of_picture(self, latents: torch.Tensor, timesteps: torch.Tensor) -> Features:
        """The part before any text: latents [n, C, h, w], timesteps float32 [n]."""
        unet = self._unet
        embedding = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=timesteps))
        hidden = unet.conv_in(latents)
        skips: tuple[torch.Tensor, ...] = (hidden,)
        for block in unet.down_blocks[: self._shared_blocks]:
            hidden, more = block(hidden_states=hidden, temb=embedding)
            skips += more
        return hidden, embedding, skips

    def of_text(self, features: Features, context: Any, added: Any) -> torch.Tensor:
        """The prediction [n, C, h, w] from `features` and each lane's text.

        `context` is handed to the cross-attention layers; `added` is what SDXL takes besides.
        """
        unet = self._unet
        hidden, embedding, skips = features
        latents_side = skips[0].shape[-2:]
        more = unet.get_aug_embed(
            emb=embedding, encoder_hidden_states=context, added_cond_kwargs=added
        )
        embedding = embedding if more is None else embedding + more
        for block in unet.down_blocks[self._shared_blocks :]:
            hidden, passed = _call(block, context, hidden_states=hidden, temb=embedding)
            skips += passed
        if unet.mid_block is not None:
            hidden = _call(unet.mid_block, context, hidden_states=hidden, temb=embedding)
        # sizes that cannot be halved so often are made to fit on the way up
        uneven = any(side % 2**unet.num_upsamplers for side in latents_side)
        for index, block in enumerate(unet.up_blocks):
            taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            last = index == len(unet.up_blocks) - 1
            hidden = _call(
                block,
                context,
                hidden_states=hidden,
                temb=embedding,
                res_hidden_states_tuple=taken,
                upsample_size=skips[-1].shape[2:] if uneven and not last else None,
            )
        if unet.conv_norm_out is not None:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        prediction: torch.Tensor = unet.conv_out(hidden)
        return prediction


def _shared_blocks(unet: Any) -> int:
    """How many blocks on the way down see no text: the first ones without cross-attention.

    SDXL adds the text to the time embedding, which every block sees.
    """
    if unet.config.addition_embed_type is not None:
        return 0
    count = 0
    for block in unet.down_blocks:
        if _sees_text(block):
            break
        count += 1
    return count


def _sees_text(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _call(block: Any, context: Any, **arguments: Any) -> Any:
    if _sees_text(block):
        arguments["encoder_hidden_states"] = context
    return block(**arguments)
