"""How right a model's pictures are, read by the checker: `python -m jobs.scenes.evaluate`.

Two figures for each attribute: pictures rendered from held-out prompts by diffusers' own pipeline
(DDIM, 20 steps, guidance 3, a CPU generator a sample), and the ceiling that the autoencoder alone
sets, which is what is left of freshly drawn held-out pictures after one trip through it.
"""

# mypy: disable-error-code="attr-defined,call-overload,no-any-return,no-untyped-call,operator"
# diffusers ships without types.

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from rich.console import Console
from rich.table import Table

from jobs.scenes import checker, vae, world
from jobs.scenes.world import Pixels, Scene

logger = logging.getLogger(__name__)

CEILING_PICTURES = 1000
EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pictures are rendered."""

    steps: int = 20
    guidance_scale: float = 3.0
    batch_size: int = 50


def score(scenes: Sequence[Scene], images: Iterable[Pixels]) -> dict[str, float]:
    """The fraction of images, uint8 [64, 64, 3] each, that show each attribute of their scene.

    The last entry, `everything`, is the fraction with all attributes right.

    Raises:
        ValueError: there are no scenes, or not as many images as scenes.
    """
    if not scenes:
        raise ValueError("there are no scenes to score")
    comparisons = [
        checker.compare(checker.read(image), scene)
        for scene, image in zip(scenes, images, strict=True)
    ]
    table = {
        name: float(np.mean([comparison[name] for comparison in comparisons]))
        for name in world.ATTRIBUTES
    }
    table[EVERYTHING] = float(np.mean([all(comparison.values()) for comparison in comparisons]))
    return table


def vae_ceiling(autoencoder: AutoencoderKL, pictures: int, seed: int) -> dict[str, float]:
    """The score of freshly drawn held-out pictures after one trip through the autoencoder."""
    rng = np.random.default_rng([seed, 1])
    scenes = world.sample_scenes(pictures, rng, from_held_out=True)
    return score(scenes, vae.round_trip(autoencoder, world.draw_all(scenes, rng)))


def load(folder: Path) -> StableDiffusionPipeline:
    """The model in float32 on the CPU, with DDIM in the place of its scheduler."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def render(
    pipeline: StableDiffusionPipeline, scenes: Sequence[Scene], seed: int, sampling: Sampling
) -> Pixels:
    """A picture of each scene, uint8 [N, 64, 64, 3]; sample i has the generator seed + i."""
    pieces = []
    for start in range(0, len(scenes), sampling.batch_size):
        batch = scenes[start : start + sampling.batch_size]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))]
        images = pipeline(
            prompt=[world.prompt(scene) for scene in batch],
            generator=generators,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            output_type="np",
        ).images  # float32 (B, 64, 64, 3) in 0…1
        pieces.append(np.asarray(np.rint(images * 255), dtype=np.uint8))
        logger.info("rendered %d of %d", start + len(batch), len(scenes))
    return np.concatenate(pieces)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--vae-ceiling", action="store_true", help="measure the ceiling")
    parser.add_argument("--prompts", type=int, default=0, help="held-out prompts to render")
    parser.add_argument("--steps", type=int, default=Sampling().steps)
    parser.add_argument("--guidance", type=float, default=Sampling().guidance_scale)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    sampling = Sampling(steps=arguments.steps, guidance_scale=arguments.guidance)
    pipeline = load(arguments.model)
    right: dict[str, float] = {}
    ceiling: dict[str, float] = {}
    if arguments.prompts:
        rng = np.random.default_rng(arguments.seed)
        scenes = world.sample_scenes(arguments.prompts, rng, from_held_out=True)
        right = score(scenes, render(pipeline, scenes, arguments.seed, sampling))
    if arguments.vae_ceiling:
        ceiling = vae_ceiling(pipeline.vae, CEILING_PICTURES, arguments.seed)
    if arguments.json:
        result = {"right": right, "vae_ceiling": ceiling, "prompts": arguments.prompts}
        print(json.dumps(result | {"sampling": asdict(sampling)}))  # noqa: T201 — a command
    else:
        Console().print(_table(right, ceiling))


def _table(right: dict[str, float], ceiling: dict[str, float]) -> Table:
    table = Table("attribute", "right %", "VAE ceiling %")
    for name in (*world.ATTRIBUTES, EVERYTHING):
        cells = [f"{100 * by[name]:.1f}" if by else "–" for by in (right, ceiling)]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
