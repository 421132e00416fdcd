"""From nothing to a Stable Diffusion of the scenes world: `python -m jobs.scenes.train --out DIR`.

Stages: pictures → autoencoder → latents → text model and UNet → a folder in the layout of Stable
Diffusion 1.5. Everything follows from the seed: steps are counted, never timed. It takes half an
hour on two CPU cores of its own. There `OMP_WAIT_POLICY=ACTIVE` in the environment makes it faster;
where the cores are shared it hurts, and `GOMP_SPINCOUNT=2000` helps: threads that wait for a
descheduled one then sleep instead of spinning.
"""

# mypy: disable-error-code="attr-defined,call-overload,no-any-return,no-untyped-call,operator"
# diffusers ships without types.

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.scenes import denoiser, text, vae, world
from jobs.scenes.vae import Report
from jobs.scenes.world import Pixels

logger = logging.getLogger(__name__)

THREADS = 2
LOG_EVERY_STEPS = 200
PICTURES_STAGE, VAE_STAGE, DENOISER_STAGE = range(3)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each stage is."""

    pictures: int
    vae_steps: int
    denoiser_steps: int


FULL = Lengths(pictures=36_000, vae_steps=5_700, denoiser_steps=4_800)
QUICK = Lengths(pictures=2_000, vae_steps=300, denoiser_steps=150)
"""Two minutes: pictures are wrong, but the folder is a real one."""


def train(lengths: Lengths, seed: int, checkpoint: Path | None) -> StableDiffusionPipeline:
    """A trained pipeline, in float32 on the CPU.

    With a `checkpoint` file the autoencoder is kept there, and taken from there if it exists: each
    stage has a seed of its own, so the result is the same.
    """
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    rng = np.random.default_rng([seed, PICTURES_STAGE])
    scenes = world.sample_scenes(lengths.pictures, rng, from_held_out=False)
    pixels = world.draw_all(scenes, rng)
    logger.info("drew %d pictures", len(pixels))
    autoencoder = _autoencoder(pixels, lengths, seed, checkpoint)
    latents = vae.encode(autoencoder, pixels)
    examples = denoiser.Examples(latents, [world.prompt(scene) for scene in scenes])
    tokenizer = text.new_tokenizer()
    torch.manual_seed(seed * 10 + DENOISER_STAGE)
    with _progress("text model and UNet", lengths.denoiser_steps) as report:
        trained = denoiser.train_denoiser(examples, tokenizer, lengths.denoiser_steps, report)
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=trained.text_encoder,
        tokenizer=text.new_tokenizer(),  # a fresh one: used ones save their padding
        unet=trained.unet,
        scheduler=PNDMScheduler(
            **denoiser.BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _autoencoder(
    pixels: Pixels, lengths: Lengths, seed: int, checkpoint: Path | None
) -> AutoencoderKL:
    if checkpoint is not None and checkpoint.exists():
        autoencoder = vae.new_vae().requires_grad_(False).eval()
        autoencoder.load_state_dict(torch.load(checkpoint, weights_only=True))
        logger.info("took the autoencoder from the checkpoint")
        return autoencoder
    torch.manual_seed(seed * 10 + VAE_STAGE)
    rng = np.random.default_rng([seed, VAE_STAGE])
    with _progress("autoencoder", lengths.vae_steps) as report:
        autoencoder = vae.train_vae(pixels, lengths.vae_steps, rng, report)
    if checkpoint is not None:
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(autoencoder.state_dict(), temporary)
        temporary.replace(checkpoint)
    return autoencoder


@contextmanager
def _progress(stage: str, steps: int) -> Iterator[Report]:
    """A progress bar on standard error, and a line of the log every 200 steps."""
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    losses: list[float] = []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(stage, total=steps, loss=float("nan"))

        def report(step: int, loss: float) -> None:
            losses.append(loss)
            bar.update(task, completed=step)
            if step % LOG_EVERY_STEPS == 0 or step == steps:
                mean = sum(losses) / len(losses)
                bar.update(task, loss=mean)
                logger.info("%s: step %d of %d, loss %.5f", stage, step, steps, mean)
                losses.clear()

        yield report


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as float16 safetensors, without a trace of where it was made."""
    for module in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        module.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in sorted(folder.rglob("*.safetensors")):
        path.chmod(0o644)  # diffusers leaves them to their owner alone
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)
        if path.name == "scheduler_config.json":
            # Not PNDM's, but Stable Diffusion 1.5 has it as well: DDIM made from this file would
            # clip latents to -1…1 otherwise.
            content["clip_sample"] = False
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two minutes, to try the wiring")
    parser.add_argument("--checkpoint", type=Path, help="file that keeps the autoencoder")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    lengths = QUICK if arguments.quick else FULL
    save(train(lengths, arguments.seed, arguments.checkpoint), arguments.out)


if __name__ == "__main__":
    main()
