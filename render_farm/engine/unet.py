"""A Stable Diffusion U-Net in two parts: what the picture alone decides, and what the text does.

With guidance a picture is denoised twice, for the prompt and for the negative prompt. Up to the
first cross-attention both do the same, so that part is computed once a picture.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Features(NamedTuple):
    """What the first part hands to the second; everything is [n, …].

    `hidden` are the hidden states, or the tokens where the first part ends inside a transformer,
    which then adds `residual` to what comes of them. `embedding` is the time's, and `skips` are the
    hidden states that skip to the way up.
    """

    hidden: torch.Tensor
    embedding: torch.Tensor
    skips: tuple[torch.Tensor, ...]
    residual: torch.Tensor | None


class SplitUNet:
    """`UNet2DConditionModel.forward` for the U-Nets of Stable Diffusion 1.x, 2.x and XL.

    Calls the model's own layers in the order in which diffusers does.
    """

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        down = list(unet.down_blocks)
        # SDXL adds the text to the time embedding, which every block sees.
        shared = 0 if unet.config.addition_embed_type is not None else _blind(down)
        self._before, self._after = down[:shared], down[shared:]
        self._parted: Any = None
        if unet.config.addition_embed_type is None and self._after:
            self._parted, *self._after = self._after

    def of_picture(self, latents: torch.Tensor, timesteps: torch.Tensor) -> Features:
        """The part before any text: latents [n, C, h, w], timesteps float32 [n]."""
        unet = self._unet
        embedding = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=timesteps))
        hidden = unet.conv_in(latents)
        skips: tuple[torch.Tensor, ...] = (hidden,)
        for block in self._before:
            hidden, more = block(hidden_states=hidden, temb=embedding)
            skips += more
        if self._parted is None:
            return Features(hidden, embedding, skips, None)
        residual = self._parted.resnets[0](hidden, embedding)
        return Features(_to_cross(self._parted.attentions[0], residual), embedding, skips, residual)

    def of_text(self, features: Features, context: Any, added: Any) -> torch.Tensor:
        """The prediction [n, C, h, w] from `features` and each lane's text.

        `context` is handed to the cross-attention layers; `added` is what SDXL takes besides.
        """
        unet = self._unet
        hidden, embedding, skips, residual = features
        latents_side = skips[0].shape[-2:]
        more = unet.get_aug_embed(
            emb=embedding, encoder_hidden_states=context, added_cond_kwargs=added
        )
        embedding = embedding if more is None else embedding + more
        if residual is not None:
            hidden, passed = _rest_of_block(self._parted, hidden, residual, embedding, context)
            skips += passed
        for block in self._after:
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


def _blind(blocks: list[Any]) -> int:
    """How many blocks come before the first with cross-attention."""
    return next((index for index, block in enumerate(blocks) if _sees_text(block)), len(blocks))


def _sees_text(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _call(block: Any, context: Any, **arguments: Any) -> Any:
    if _sees_text(block):
        arguments["encoder_hidden_states"] = context
    return block(**arguments)


def _to_cross(transformer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A transformer on [n, C, h, w] up to its first cross-attention: tokens [n, h × w, C]."""
    tokens, _ = transformer._operate_on_continuous_inputs(hidden)  # noqa: SLF001
    first = transformer.transformer_blocks[0]
    attended: torch.Tensor = first.attn1(first.norm1(tokens)) + tokens
    return attended


def _from_cross(
    transformer: Any, tokens: torch.Tensor, residual: torch.Tensor, context: Any
) -> torch.Tensor:
    """The rest of the transformer: back to [n, C, h, w]."""
    first, *others = transformer.transformer_blocks
    tokens = first.attn2(first.norm2(tokens), encoder_hidden_states=context) + tokens
    tokens = first.ff(first.norm3(tokens)) + tokens
    for block in others:
        tokens = block(tokens, encoder_hidden_states=context)
    batch, _, height, width = residual.shape
    hidden: torch.Tensor = transformer._get_output_for_continuous_inputs(  # noqa: SLF001
        tokens, residual, batch, height, width, tokens.shape[-1]
    )
    return hidden


def _rest_of_block(
    block: Any,
    tokens: torch.Tensor,
    residual: torch.Tensor,
    embedding: torch.Tensor,
    context: Any,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """A `CrossAttnDownBlock2D` from its first cross-attention on: hidden states and skips."""
    hidden = _from_cross(block.attentions[0], tokens, residual, context)
    passed: tuple[torch.Tensor, ...] = (hidden,)
    for resnet, transformer in zip(block.resnets[1:], block.attentions[1:], strict=True):
        hidden = resnet(hidden, embedding)
        hidden = transformer(hidden, encoder_hidden_states=context, return_dict=False)[0]
        passed += (hidden,)
    for downsampler in block.downsamplers or ():
        hidden = downsampler(hidden)
        passed += (hidden,)
    return hidden, passed
