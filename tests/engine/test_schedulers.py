"""Every scheduler that a job can name renders, and what cannot work is refused by name."""

from __future__ import annotations

import diffusers
import pytest
import torch

from render_farm.engine.call import CallSampler
from render_farm.engine.sampler import Rendered
from render_farm.engine.schedulers import (
    NAMES,
    SCHEDULERS,
    check_scheduler,
    make_scheduler,
    step_bounds,
)
from render_farm.errors import RowError

FLOW = {"num_train_timesteps": 1000, "shift": 3.0, "base_shift": 0.5}


def test_the_names_are_the_documented_ones():
    assert " ".join(NAMES) == (
        "ddim ddpm pndm euler euler-ancestral heun dpmpp-2m dpmpp-2m-karras dpmpp-sde unipc lms "
        "lcm model"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_every_scheduler_renders(request, request_of, model, name):
    sampler = CallSampler(request.getfixturevalue(model))
    asked = request_of(scheduler=name, steps=4)
    sampler.check(asked)
    (answer,) = sampler.render([asked], 1)
    assert isinstance(answer, Rendered), answer
    assert answer.flags == ()


def test_no_two_schedulers_draw_the_same_picture(sampler, request_of):
    requests = [request_of(seed=1, scheduler=name, steps=6) for name in SCHEDULERS]
    drawn = {answer.pixels.tobytes() for answer in sampler.render(requests, 1)}
    assert len(drawn) == len(SCHEDULERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("end", [0, 1])
def test_the_least_and_the_most_steps_work(request, model, name, end):
    own = request.getfixturevalue(model).pipeline.scheduler
    steps = step_bounds(name, own.config, type(own).__name__)[end]
    scheduler = make_scheduler(name, own)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 4, 2, 2, generator=generator) * scheduler.init_noise_sigma
    draws = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    timesteps = scheduler.timesteps
    # the multistep order of lms integrates numerically: its ends are enough
    for timestep in timesteps if len(timesteps) < 999 or name != "lms" else timesteps[:8]:
        noise = torch.tanh(scheduler.scale_model_input(sample, timestep))
        sample = scheduler.step(noise, timestep, sample, **draws, return_dict=False)[0]
    assert torch.isfinite(sample).all()


def test_a_scheduler_is_made_anew_and_the_models_own_is_left_alone(sd15):
    own = sd15.pipeline.scheduler
    before = dict(own.config)
    for name in NAMES:
        made = make_scheduler(name, own)
        assert made is not own
        assert made is not make_scheduler(name, own)
    assert dict(own.config) == before


def test_latents_are_never_clipped_to_the_range_of_pixels(sd15):
    own = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear")
    assert "clip_sample" not in own.config
    for name in ("ddim", "ddpm", "lcm"):
        assert make_scheduler(name, own).config.clip_sample is False


def test_the_stochastic_solver_is_the_one_that_obeys_our_seeds(sd15):
    made = make_scheduler("dpmpp-sde", sd15.pipeline.scheduler)
    assert type(made).__name__ == "DPMSolverMultistepScheduler"
    assert made.config.algorithm_type == "sde-dpmsolver++"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_flow_matching_model_takes_no_scheduler_but_its_own(name):
    with pytest.raises(RowError) as raised:
        check_scheduler(name, 20, FLOW, "FlowMatchEulerDiscreteScheduler")
    assert raised.value.error_type == "scheduler_incompatible"
    check_scheduler("model", 20, FLOW, "FlowMatchEulerDiscreteScheduler")


def test_a_real_flow_matching_scheduler_is_recognised():
    own = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(RowError, match="scheduler_incompatible"):
        check_scheduler("euler", 20, own.config, type(own).__name__)


def test_a_flow_model_behind_a_common_scheduler_is_recognised():
    own = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    with pytest.raises(RowError, match="scheduler_incompatible"):
        check_scheduler("euler", 20, own.config, type(own).__name__)


def test_lcm_takes_at_most_fifty_steps(sd15):
    config = sd15.pipeline.scheduler.config
    check_scheduler("lcm", 50, config, "PNDMScheduler")
    with pytest.raises(RowError, match=r"allowed with lcm: 1 to 50"):
        check_scheduler("lcm", 51, config, "PNDMScheduler")
