"""The schedulers a job can name, and making one for a batch.

Names and bounds can be read without torch; diffusers is imported when one is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from render_farm.errors import RowError, shown

MODEL = "model"


@dataclass(frozen=True, slots=True)
class NamedScheduler:
    """A scheduler by its diffusers class and what is changed in the model's own configuration.

    `least_steps` and `most_steps` bound the steps at 1000 training timesteps. They were found by
    trying with the configurations of Stable Diffusion 1.5 and XL: above them diffusers 0.42
    indexes past its tables, or divides by zero and returns NaN.
    """

    class_name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    least_steps: int = 1
    most_steps: int = 999


_DPM = {"solver_order": 2, "use_karras_sigmas": False}

SCHEDULERS: Mapping[str, NamedScheduler] = {
    "ddim": NamedScheduler("DDIMScheduler"),
    "ddpm": NamedScheduler("DDPMScheduler"),
    # the first steps by Runge-Kutta are for models of pixels; latent models skip them
    "pndm": NamedScheduler("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": NamedScheduler("EulerDiscreteScheduler"),
    "euler-ancestral": NamedScheduler("EulerAncestralDiscreteScheduler"),
    "heun": NamedScheduler("HeunDiscreteScheduler"),
    "dpmpp-2m": NamedScheduler(
        "DPMSolverMultistepScheduler", {**_DPM, "algorithm_type": "dpmsolver++"}, most_steps=500
    ),
    "dpmpp-2m-karras": NamedScheduler(
        "DPMSolverMultistepScheduler",
        {**_DPM, "algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        most_steps=500,
    ),
    # DPMSolverSDEScheduler draws from a generator of its own, which no seed of ours reaches
    "dpmpp-sde": NamedScheduler(
        "DPMSolverMultistepScheduler",
        {**_DPM, "algorithm_type": "sde-dpmsolver++"},
        most_steps=500,
    ),
    "unipc": NamedScheduler("UniPCMultistepScheduler", most_steps=500),
    "lms": NamedScheduler("LMSDiscreteScheduler"),
    "lcm": NamedScheduler("LCMScheduler", most_steps=50),
}

NAMES = (*SCHEDULERS, MODEL)


def check_scheduler(name: str, steps: int, config: Mapping[str, Any], own_class: str) -> None:
    """Refuse a scheduler that the model cannot use, or steps outside its bounds.

    `config` and `own_class` are the configuration and the class name of the model's own one.

    Raises: `RowError` ``unknown_scheduler``, ``scheduler_incompatible`` or ``bad_steps``.
    """
    if name not in NAMES:
        raise RowError("unknown_scheduler", f"scheduler: {shown(name)} (allowed: {_listed()})")
    if name != MODEL and not has_betas(config):
        raise RowError(
            "scheduler_incompatible",
            f"scheduler: {name} needs a noise schedule of betas, and the model was trained for "
            f"{own_class} (allowed: {MODEL})",
        )
    least, most = step_bounds(name, config, own_class)
    if isinstance(steps, bool) or not isinstance(steps, int) or not least <= steps <= most:
        raise RowError(
            "bad_steps", f"steps: {shown(steps)} (allowed with {name}: {least} to {most})"
        )


def has_betas(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is of the family that the named ones belong to.

    Flow matching and EDM models have no betas, or say that they predict a flow.
    """
    return (
        "beta_schedule" in config
        and not config.get("use_flow_sigmas")
        and config.get("prediction_type") != "flow_prediction"
    )


def step_bounds(name: str, config: Mapping[str, Any], own_class: str) -> tuple[int, int]:
    """The least and the most steps of a scheduler on a model, both allowed."""
    train = config.get("num_train_timesteps", 1000)
    if name != MODEL:
        chosen = SCHEDULERS[name]
        return chosen.least_steps, min(chosen.most_steps, train - 1)
    alike = [each for each in SCHEDULERS.values() if each.class_name == own_class]
    if not alike:
        return 1, train
    least = max(each.least_steps for each in alike)
    return least, min(*(each.most_steps for each in alike), train - 1)


def make_scheduler(name: str, own: Any) -> Any:
    """A fresh diffusers scheduler from the configuration of the model's own one.

    A new one each time, because schedulers keep state between their steps.
    """
    if name == MODEL:
        return type(own).from_config(own.config)
    import diffusers  # noqa: PLC0415  names and bounds must be readable without torch

    chosen = SCHEDULERS[name]
    cls = getattr(diffusers, chosen.class_name)
    config = dict(own.config)
    # diffusers clips to [-1, 1] unless told otherwise, which is right for pixels only
    config.setdefault("clip_sample", False)
    return cls.from_config(config, **chosen.changes)


def _listed() -> str:
    return ", ".join(NAMES)
