"""Attention whose cross layers take keys and values that were computed before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from render_farm.errors import ModelError

Context = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Keys and values of every cross-attention layer, each [heads, tokens, channels a head]."""


def take_over_attention(unet: Any) -> list[LaneAttention]:
    """Put our own in the place of every attention layer; returns the cross-attention layers.

    A U-Net that was taken over before has them already.
    """
    count = 0
    for processor in unet.attn_processors:
        name = processor.removesuffix(".processor")
        attn = unet.get_submodule(name)
        _refuse_unusual(name, attn)
        unet.set_submodule(name, LaneAttention(attn, count if attn.is_cross_attention else None))
        count += attn.is_cross_attention
    ours = (module for module in unet.modules() if isinstance(module, LaneAttention))
    return [attn for attn in ours if attn.layer is not None]


class LaneAttention(torch.nn.Module):
    """Attention whose cross layers find their keys and values among the lanes' contexts.

    As diffusers' `Attention` with `AttnProcessor2_0`, for the layers that Stable Diffusion U-Nets
    have, and with their weights. It stands in the place of the whole layer: diffusers looks up
    the signature of a processor at every call, which took 3 % of a picture's time on a CPU.
    `layer` counts the cross-attention layers; None is self-attention.
    """

    def __init__(self, attn: Any, layer: int | None) -> None:
        super().__init__()
        self.heads: int = attn.heads
        self.to_q, self.to_k, self.to_v = attn.to_q, attn.to_k, attn.to_v
        self.to_out = attn.to_out[0]
        self.layer = layer

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, N, C] to [B, N, C]; `encoder_hidden_states` are the lanes' contexts."""
        del attention_mask
        query = self._heads(self.to_q(hidden_states))
        if self.layer is None:
            key, value = self.keys_and_values(hidden_states)
        else:
            key, value = encoder_hidden_states[self.layer]
        attended = scaled_dot_product_attention(query, key, value)  # (B, heads, N, channels)
        output: torch.Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return output

    def keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of [B, N, C], each [B, heads, N, channels a head]."""
        return self._heads(self.to_k(states)), self._heads(self.to_v(states))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """[B, N, C] to [B, heads, N, C / heads]."""
        batch, tokens, channels = states.shape
        return states.view(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)


def _refuse_unusual(name: str, attn: Any) -> None:
    """What `LaneAttention` leaves out must not be there. Raises: `ModelError`."""
    unusual = (
        attn.group_norm is not None
        or attn.spatial_norm is not None
        or attn.norm_q is not None
        or attn.norm_k is not None
        or attn.norm_cross
        or attn.residual_connection
        or attn.rescale_output_factor != 1
    )
    if unusual:
        raise ModelError(
            "model.engine",
            f"steps: {name} is not as in the U-Net of a Stable Diffusion",
            "steps for the U-Nets of Stable Diffusion 1.x, 2.x and XL",
            "set model.engine: call",
        )
