"""Holds what a job asks of a model against the model's folder before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from render_farm.engine.checks import check_side
from render_farm.engine.folder import FolderFacts
from render_farm.engine.rehearsal import SIZE_FACTOR
from render_farm.engine.schedulers import NAMES, check_scheduler, step_bounds
from render_farm.errors import Problem, RowError, shown

ANY_BETAS = {"beta_schedule": "scaled_linear"}
"""A rehearsal takes every scheduler that there is."""


# What diffusers' text-to-image pipelines take, since only importing them would tell.
CLIP_SKIP_PIPELINES = frozenset(
    {
        "LatentConsistencyModelPipeline",
        "StableDiffusion3PAGPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionXLPipeline",
    }
)
LORA_PIPELINES = CLIP_SKIP_PIPELINES | {
    "AuraFlowPipeline",
    "ChromaPipeline",
    "CogView4Pipeline",
    "Flux2KleinPipeline",
    "Flux2Pipeline",
    "FluxKontextPipeline",
    "FluxPipeline",
    "IFPipeline",
    "Ideogram4Pipeline",
    "Kandinsky3Pipeline",
    "Krea2Pipeline",
    "Lumina2Pipeline",
    "PRXPipeline",
    "QwenImage21Pipeline",
    "QwenImagePipeline",
    "SanaPipeline",
    "ZImagePipeline",
}


class Parameters(Protocol):
    """The defaults of a job that a model can refuse."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def scheduler(self) -> str: ...


def check_defaults(defaults: Parameters, facts: FolderFacts | None) -> list[Problem]:
    """Every default that the model in the folder, or a rehearsal (None), can never render.

    Imports no torch.
    """
    problems = _size_problems(defaults, facts.size_factor if facts else SIZE_FACTOR)
    if facts is None:
        return problems + _scheduler_problems(defaults, ANY_BETAS, "")
    own_class = facts.layout.components.get("scheduler", "")
    return problems + _scheduler_problems(
        defaults, facts.config("scheduler/scheduler_config.json"), own_class
    )


def check_additions(loras: int, clip_skip: int | None, facts: FolderFacts) -> list[Problem]:
    """What a job adds to a model that its kind does not take: LoRAs, of which there are `loras`,
    and how many CLIP layers are left out. Imports no torch.
    """
    problems = []
    if loras and facts.pipeline_class not in LORA_PIPELINES:
        problems.append(
            Problem(
                "model.loras",
                f"{loras}, for {facts.path}, a {facts.pipeline_class}",
                "none for this kind of model: diffusers cannot add LoRAs to it",
                "remove model.loras, or choose another model",
            )
        )
    if clip_skip is not None:
        takes_it = facts.pipeline_class in CLIP_SKIP_PIPELINES
        problem = clip_skip_problem(clip_skip, facts, takes_it=takes_it)
        problems += [problem] if problem else []
    return problems


def clip_skip_problem(clip_skip: int, facts: FolderFacts, *, takes_it: bool) -> Problem | None:
    """What is wrong with leaving out that many layers of the folder's CLIP text encoders.

    `takes_it` is whether the pipeline has the parameter.
    """
    layers = facts.clip_layers
    if not takes_it or layers is None or layers < 2:
        return Problem(
            "model.clip_skip",
            f"{clip_skip}, for {facts.path}, a {facts.pipeline_class}",
            "null for this kind of model, which has no CLIP layers to leave out",
            "remove model.clip_skip",
        )
    if 1 <= clip_skip < layers:
        return None
    return Problem(
        "model.clip_skip",
        f"{clip_skip}",
        f"null, or 1 to {layers - 1}: the text encoder of {facts.path} has {layers} layers",
        "set it within this range",
    )


def _size_problems(defaults: Parameters, factor: int) -> list[Problem]:
    problems = []
    for field in ("width", "height"):
        value = getattr(defaults, field)
        try:
            check_side(field, value, factor)
        except RowError:
            nearest = max(factor, round(value / factor) * factor)
            problems.append(
                Problem(
                    f"defaults.{field}",
                    shown(value),
                    f"multiples of {factor}, the factor between the model's pixels and latents",
                    f"set it to {nearest}",
                )
            )
    return problems


def _scheduler_problems(
    defaults: Parameters, config: Mapping[str, Any], own_class: str
) -> list[Problem]:
    name, steps = defaults.scheduler, defaults.steps
    try:
        check_scheduler(name, steps, config, own_class)
    except RowError as error:
        if error.error_type == "bad_steps":
            least, most = step_bounds(name, config, own_class)
            allowed = f"{least} to {most} with {name}"
            return [Problem("defaults.steps", shown(steps), allowed, "set it within this range")]
        fits = ", ".join(NAMES) if name not in NAMES else "model"
        return [Problem("defaults.scheduler", shown(name), fits, "name one of these")]
    return []
