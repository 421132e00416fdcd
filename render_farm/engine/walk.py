"""From noise to latents: schedules, and the pictures that walk along them.

A walk counts forwards of the denoiser, not steps: Heun takes two forwards for a step and PNDM one
more than its steps.
"""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import Any

import torch

from render_farm.engine.host import to_device
from render_farm.engine.schedulers import make_scheduler

MOST_SCHEDULES = 256

ALONE = frozenset({"UniPCMultistepScheduler"})
"""Schedulers that contract over their history, so that company could change a picture's bits."""


class Schedule:
    """A scheduler with its number of steps set: the timesteps, and fresh copies of itself."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.timesteps: tuple[torch.Tensor, ...] = tuple(scheduler.timesteps)
        self.noise_sigma = scheduler.init_noise_sigma
        self.takes_company = type(scheduler).__name__ not in ALONE
        self.takes_generators = "generator" in inspect.signature(scheduler.step).parameters

    def fresh(self) -> Any:
        """A scheduler that shares the tables, which no step changes, but has no history."""
        scheduler = copy.copy(self._scheduler)
        for name, value in vars(self._scheduler).items():
            if isinstance(value, list):
                setattr(scheduler, name, list(value))
        return scheduler


class Start:
    """A picture's own generator, and the noise that it drew first, shaped as `blank`.

    Drawn on the CPU, as the stock pipelines do with a generator there.
    """

    def __init__(self, seed: int, blank: torch.Tensor) -> None:
        self.generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(blank.shape, generator=self.generator, dtype=blank.dtype)
        self.noise = to_device(noise, blank.device)


class Walk:
    """Pictures that began together on one schedule, with one scheduler object for them all.

    What a scheduler computes it computes for each number of the latents by itself, so a picture's
    way does not depend on its company. Every picture draws from its own generator.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._scheduler = schedule.fresh()
        self._position = 0
        self._generators: list[torch.Generator] = []
        self._latents: list[torch.Tensor] = []

    @property
    def timestep(self) -> float:
        """The timestep of the next forward, in the denoiser's training schedule."""
        return float(self.schedule.timesteps[self._position])

    @property
    def finished(self) -> bool:
        """Whether no forward is left."""
        return self._position == len(self.schedule.timesteps)

    @property
    def open(self) -> bool:
        """Whether another picture can join: before the first forward."""
        return self._position == 0 and (self.schedule.takes_company or not self._latents)

    def join(self, start: Start) -> None:
        """Begin a picture."""
        self._generators.append(start.generator)
        self._latents.append(start.noise * self.schedule.noise_sigma)

    def latents(self) -> torch.Tensor:
        """The latents of all pictures, [n, C, h, w], in the order in which they joined."""
        if len(self._latents) > 1:
            self._latents = [torch.cat(self._latents)]
        return self._latents[0]

    def scaled(self) -> torch.Tensor:
        """The latents as the denoiser takes them at the next forward."""
        timestep = self.schedule.timesteps[self._position]
        scaled: torch.Tensor = self._scheduler.scale_model_input(self.latents(), timestep)
        return scaled

    def step(self, predictions: torch.Tensor) -> None:
        """Go on by a forward that predicted `predictions`, [n, C, h, w]."""
        timestep = self.schedule.timesteps[self._position]
        before = self.latents()
        extra = {"generator": self._generators} if self.schedule.takes_generators else {}
        after = self._scheduler.step(predictions, timestep, before, return_dict=False, **extra)[0]
        self._latents = [after.to(before.dtype)]
        self._position += 1


class Schedules:
    """Schedules by scheduler and number of steps, each computed once."""

    def __init__(self, own_scheduler: Any) -> None:
        self._own = own_scheduler
        self._known: dict[tuple[str, int], Schedule] = {}

    def get(self, scheduler: str, steps: int) -> Schedule:
        """The schedule of a scheduler, by its name in the job, for a number of steps."""
        known = self._known.get((scheduler, steps))
        if known is None:
            known = Schedule(self._make(scheduler, steps))
            if len(self._known) == MOST_SCHEDULES:
                del self._known[next(iter(self._known))]
            self._known[scheduler, steps] = known
        return known

    def _make(self, name: str, steps: int) -> Any:
        scheduler = make_scheduler(name, self._own)
        # Tables stay on the CPU: a number read from there costs no wait for the accelerator.
        scheduler.set_timesteps(steps, device="cpu")
        if hasattr(scheduler, "set_begin_index"):
            # else it is looked up by the timestep, which fails where two of them are equal
            scheduler.set_begin_index(0)
        if hasattr(scheduler, "get_lms_coefficient"):
            # an integral of two milliseconds, the same for every picture at this position
            scheduler.get_lms_coefficient = cache(scheduler.get_lms_coefficient)
        return scheduler
