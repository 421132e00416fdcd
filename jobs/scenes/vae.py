"""The autoencoder: 64×64 pictures to 8×8×4 latents and back, 0.7M weights.

Its sharpness is the ceiling of everything after it: a star that it blurs is read as a circle. What
makes it train in minutes is the start: every residual block begins as the identity, down-sampling
as averaging and up-sampling as a copy, so that the first step already sees a blurred picture.
"""

# mypy: disable-error-code="attr-defined,call-overload,no-any-return,no-untyped-call"
# mypy: disable-error-code="operator,union-attr"
# diffusers ships without types.

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from jobs.scenes.optim import Average, Optimizer, cut_cosine
from jobs.scenes.world import Pixels

LATENT_CHANNELS = 4
BATCH = 16
L1_WEIGHT = 0.2
KL_WEIGHT = 1e-4
EMA_DECAY = 0.998

Report = Callable[[int, float], None]
"""Called with (step, loss) after every step."""


def new_vae() -> AutoencoderKL:
    """A fresh autoencoder, started as a blur."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.0,
    )
    vae.apply(_start_simple)
    return vae


@torch.no_grad()
def _start_simple(module: Any) -> None:
    if isinstance(module, ResnetBlock2D):
        module.conv2.weight.zero_()
        module.conv2.bias.zero_()
        if module.conv_shortcut is not None:
            nn.init.orthogonal_(module.conv_shortcut.weight)
            module.conv_shortcut.bias.zero_()
    elif isinstance(module, Downsample2D):
        _set_diagonal(module.conv, rows=slice(0, 2), columns=slice(0, 2), value=0.25)
    elif isinstance(module, Upsample2D):
        _set_diagonal(module.conv, rows=slice(1, 2), columns=slice(1, 2), value=1.0)
    elif isinstance(module, Attention):
        module.to_out[0].weight.zero_()
        module.to_out[0].bias.zero_()


def _set_diagonal(conv: Any, rows: slice, columns: slice, value: float) -> None:
    conv.weight.zero_()
    conv.bias.zero_()
    channels = torch.arange(conv.weight.shape[0])
    kernel = torch.zeros(conv.kernel_size)
    kernel[rows, columns] = value
    conv.weight[channels, channels] = kernel


def to_tensor(pixels: Pixels) -> Tensor:
    """Pictures as a model takes them: uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in -1…1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> Pixels:
    """The inverse of `to_tensor`, clipped and rounded."""
    scaled = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def train_vae(
    pixels: Pixels, steps: int, rng: np.random.Generator, report: Report
) -> AutoencoderKL:
    """An autoencoder trained on pictures, uint8 [N, 64, 64, 3], and whitened.

    The loss is squared error + 0.2·absolute error + 1e-4·KL divergence of the latents. Randomness
    is the generator's and torch's global one.
    """
    vae = new_vae().to(memory_format=torch.channels_last)
    optimizer = Optimizer(vae.named_parameters(), steps, cut_cosine)
    average = Average(vae, EMA_DECAY)
    for step in range(steps):
        batch = pixels[rng.integers(len(pixels), size=BATCH)]
        images = to_tensor(batch).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        error = vae.decode(posterior.sample()).sample - images
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error.square().mean() + L1_WEIGHT * error.abs().mean() + KL_WEIGHT * kl
        loss.backward()
        optimizer.step()
        average.update(vae)
        report(step + 1, loss.item())
    trained = average.module.to(memory_format=torch.contiguous_format)
    whiten(trained, encode(trained, pixels[:4096]))
    return trained


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Pixels) -> Tensor:
    """The latents' means, float32 [N, 4, 8, 8]."""
    return torch.cat(
        [
            vae.encode(to_tensor(pixels[start : start + 64])).latent_dist.mean
            for start in range(0, len(pixels), 64)
        ]
    )


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pixels: Pixels) -> Pixels:
    """Pictures through the autoencoder and back, uint8 [N, 64, 64, 3]."""
    pieces: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(pixels), 64):
        latents = encode(vae, pixels[start : start + 64])
        pieces.append(to_pixels(vae.decode(latents).sample))
    return np.concatenate(pieces)


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold the map that whitens `latents`, float32 [N, 4, 8, 8], into the autoencoder.

    Afterwards channels have mean 0, variance 1 and no correlation, so `scaling_factor` is 1, and
    pictures come out as before. The variances of the posterior, which a map with off-diagonal terms
    cannot carry over exactly, keep their diagonal.
    """
    flat = latents.permute(1, 0, 2, 3).flatten(1).double()  # (4, N·64)
    mean = flat.mean(dim=1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    forward = values.rsqrt()[:, None] * vectors.T  # white = forward @ (latent - mean)
    backward = vectors * values.sqrt()
    quant, post = vae.quant_conv, vae.post_quant_conv
    c = LATENT_CHANNELS
    weight, bias = quant.weight[:, :, 0, 0].double(), quant.bias.double()
    quant.weight[:c, :, 0, 0] = (forward @ weight[:c]).float()
    quant.bias[:c] = (forward @ (bias[:c] - mean)).float()
    quant.bias[c:] += forward.square().sum(dim=1).log().float()
    weight, bias = post.weight[:, :, 0, 0].double(), post.bias.double()
    post.weight[:, :, 0, 0] = (weight @ backward).float()
    post.bias.copy_((weight @ mean + bias).float())
