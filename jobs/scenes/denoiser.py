"""The denoiser: a UNet of 1.1M weights on 8×8 latents, trained together with its text model.

Predicts the noise (Ho et al. 2020) under Stable Diffusion's own schedule, weighted by min-SNR-5
(Hang et al. 2023, https://arxiv.org/abs/2303.09556). A tenth of the prompts is emptied, for
classifier-free guidance (Ho and Salimans 2022).
"""

# mypy: disable-error-code="attr-defined,call-overload,no-any-return,no-untyped-call,operator"
# diffusers ships without types.

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from jobs.scenes.optim import Average, Optimizer, cut_linear
from jobs.scenes.text import new_text_encoder, tokenize
from jobs.scenes.vae import LATENT_CHANNELS, Report

BATCH = 64
EMPTY_PROMPTS = 0.1
MAX_SNR = 5.0
EMA_DECAY = 0.998

# Stable Diffusion 1.5's noise schedule.
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


class Denoiser(nn.Module):
    """The text model and the UNet as one module, so that one optimizer trains both."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """The noise in float32 [B, 4, 8, 8], given timesteps [B] and token ids [B, 16]."""
        states = self.text_encoder(token_ids).last_hidden_state  # (B, 16, 64)
        predicted: Tensor = self.unet(noisy, timesteps, states).sample
        return predicted


@dataclass(frozen=True, slots=True)
class Examples:
    """What a denoiser learns from: latents float32 [N, 4, 8, 8] and their prompts, N of them."""

    latents: Tensor
    prompts: list[str]


def new_unet() -> UNet2DConditionModel:
    """A fresh UNet: 8×8 without and 4×4 with cross-attention, four heads."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(40, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,  # diffusers' old name: this is the number of heads
        norm_num_groups=8,
    )


def train_denoiser(
    examples: Examples, tokenizer: CLIPTokenizer, steps: int, report: Report
) -> Denoiser:
    """A denoiser trained on the examples; the moving average of the run.

    Randomness is torch's global one: seed it first.
    """
    model = Denoiser(new_text_encoder(tokenizer), new_unet())
    model = model.to(memory_format=torch.channels_last)
    optimizer = Optimizer(model.named_parameters(), steps, cut_linear)
    average = Average(model, EMA_DECAY)
    token_ids = tokenize(tokenizer, examples.prompts)
    empty = tokenize(tokenizer, [""])
    scheduler = DDPMScheduler(**BETAS)
    alphas = scheduler.alphas_cumprod
    weights = (MAX_SNR * (1 - alphas) / alphas).clamp(max=1.0)  # min(SNR, 5) / SNR
    for step in range(steps):
        chosen = torch.randint(len(examples.latents), (BATCH,))
        clean = examples.latents[chosen].contiguous(memory_format=torch.channels_last)
        ids = torch.where(torch.rand(BATCH, 1) < EMPTY_PROMPTS, empty, token_ids[chosen])
        noise = torch.randn_like(clean)
        timesteps = torch.randint(len(alphas), (BATCH,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        error = model(noisy, timesteps, ids) - noise
        loss = (weights[timesteps] * error.square().mean(dim=(1, 2, 3))).mean()
        loss.backward()
        optimizer.step()
        average.update(model)
        report(step + 1, loss.item())
    trained: Denoiser = average.module.to(memory_format=torch.contiguous_format)
    return trained
