"""Pictures walk along their schedules in company as they would alone. No model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch

from render_farm.engine.schedulers import NAMES, make_scheduler
from render_farm.engine.walk import MOST_SCHEDULES, Schedule, Schedules, Start, Walk
from tests.models.folders import BETAS

BLANK = torch.zeros(1, 4, 5, 7)

OWN = {
    "pndm": diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
    "euler": diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    "ddim-v": diffusers.DDIMScheduler(
        **BETAS, prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True
    ),
}

STOCHASTIC = {"ddpm", "euler-ancestral", "dpmpp-sde", "lcm"}


def predicted(scaled: torch.Tensor, timestep: float) -> torch.Tensor:
    """What a denoiser might say: of each number by itself, and different at every timestep."""
    return torch.tanh(scaled * 1.3 + timestep / 1000) * 0.9


def begin(schedule: Schedule, seeds: Sequence[int]) -> list[Walk]:
    """Walks for pictures that begin together: as few as the schedule allows."""
    walks: list[Walk] = []
    for seed in seeds:
        if not walks or not walks[-1].open:
            walks.append(Walk(schedule))
        walks[-1].join(Start(seed, BLANK))
    return walks


def go_on(walk: Walk) -> None:
    walk.step(predicted(walk.scaled(), walk.timestep))


def ends(walks: Sequence[Walk]) -> list[torch.Tensor]:
    """Where the pictures arrive, one forward of every walk after the other."""
    while not all(walk.finished for walk in walks):
        for walk in walks:
            go_on(walk)
    return [latents for walk in walks for latents in walk.latents()]


@pytest.fixture(params=OWN)
def schedules(request: pytest.FixtureRequest) -> Schedules:
    return Schedules(OWN[request.param])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_walk_is_the_schedulers_own_loop(name, steps):
    own = OWN["pndm"]
    (arrived,) = ends(begin(Schedules(own).get(name, steps), [5]))
    scheduler = make_scheduler(name, own)
    scheduler.set_timesteps(steps)
    generator = torch.Generator("cpu").manual_seed(5)
    latents = torch.randn(BLANK.shape, generator=generator) * scheduler.init_noise_sigma
    more: dict[str, Any] = {"generator": generator} if name in STOCHASTIC else {}
    for timestep in scheduler.timesteps:
        prediction = predicted(scheduler.scale_model_input(latents, timestep), float(timestep))
        latents = scheduler.step(prediction, timestep, latents, **more, return_dict=False)[0]
    assert torch.equal(arrived, latents[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [2, 6])
def test_company_changes_no_bit_of_a_picture(schedules, name, steps):
    schedule = schedules.get(name, steps)
    together = ends(begin(schedule, range(5)))
    assert len(together) == 5
    for seed in (4, 0, 2):
        (alone,) = ends(begin(schedule, [seed]))
        assert torch.equal(alone, together[seed])
        assert torch.isfinite(alone).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_walk_that_begins_later_disturbs_nothing_and_is_not_disturbed(schedules, name):
    schedule = schedules.get(name, 6)
    first, second = begin(schedule, [0, 1])[0], begin(schedule, [2])[0]
    for _ in range(3):
        go_on(first)
    one = ends([first])[0]
    third = begin(schedule, [0, 1])[0]
    while not second.finished:
        go_on(second)
        if not third.finished:
            go_on(third)
    assert torch.equal(second.latents()[0], ends(begin(schedule, [2]))[0])
    assert torch.equal(one, ends([third])[0])


@pytest.mark.parametrize("name", NAMES)
def test_forwards_are_counted_not_steps(name):
    expected = {"heun": 2 * 8 - 1, "pndm": 8 + 1}
    schedule = Schedules(OWN["euler"]).get(name, 8)
    (walk,) = begin(schedule, [1])
    forwards = 0
    while not walk.finished:
        go_on(walk)
        forwards += 1
    assert forwards == len(schedule.timesteps) == expected.get(name, 8)


@pytest.mark.parametrize("name", NAMES)
def test_noise_comes_from_the_pictures_own_generator_and_none_other(schedules, name):
    schedule = schedules.get(name, 6)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = ends(begin(schedule, [3, 4, 3]))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0], one[2])
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_stochastic_schedulers_draw_noise_on_their_way(name):
    schedule = Schedules(OWN["pndm"]).get(name, 4)
    (walk,) = begin(schedule, [3])
    (twin,) = begin(schedule, [4])
    twin._latents = [walk.latents().clone()]
    assert not torch.equal(ends([walk])[0], ends([twin])[0])


def test_nobody_joins_a_walk_that_has_begun(schedules):
    (walk,) = begin(schedules.get("ddim", 2), [1, 2])
    assert walk.open
    go_on(walk)
    assert not walk.open
    go_on(walk)
    assert walk.finished
    assert not walk.open


def test_a_scheduler_that_contracts_over_its_history_takes_no_company():
    assert len(begin(Schedules(OWN["pndm"]).get("unipc", 2), [1, 2, 3])) == 3
    own = diffusers.UniPCMultistepScheduler(**BETAS)
    assert len(begin(Schedules(own).get("model", 2), [1, 2, 3])) == 3


def test_the_timestep_of_a_walk_is_that_of_its_next_forward():
    schedule = Schedules(OWN["pndm"]).get("ddim", 4)
    (walk,) = begin(schedule, [1])
    seen = []
    while not walk.finished:
        seen.append(walk.timestep)
        go_on(walk)
    assert seen == [751, 501, 251, 1]


def test_a_schedule_is_computed_once():
    schedules = Schedules(OWN["pndm"])
    first = schedules.get("lms", 9)
    assert schedules.get("lms", 9) is first
    assert schedules.get("lms", 8) is not first
    assert schedules.get("euler", 9) is not first


def test_schedules_that_were_forgotten_are_computed_again_and_are_the_same():
    schedules = Schedules(OWN["pndm"])
    first = schedules.get("ddim", 3)
    before = ends(begin(first, [1]))
    for steps in range(10, 10 + MOST_SCHEDULES):
        schedules.get("ddim", steps)
    again = schedules.get("ddim", 3)
    assert again is not first
    assert torch.equal(ends(begin(again, [1]))[0], before[0])


def test_the_models_own_scheduler_is_left_as_it_was():
    own = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    own.set_timesteps(5)
    before = dict(own.config), own.timesteps.clone()
    schedules = Schedules(own)
    for name in NAMES:
        ends(begin(schedules.get(name, 3), [1]))
    assert dict(own.config) == before[0]
    assert torch.equal(own.timesteps, before[1])


def test_pictures_in_half_precision_stay_there():
    walk = Walk(Schedules(OWN["pndm"]).get("euler", 3))
    walk.join(Start(1, BLANK.half()))
    (end,) = ends([walk])
    assert end.dtype == torch.float16
    assert walk.latents().dtype == torch.float16
