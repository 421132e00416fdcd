"""What step batching renders is what the stock pipeline renders, called for one row alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from render_farm.engine.model import LoadedPipeline
from render_farm.engine.sampler import Rendered
from render_farm.engine.schedulers import NAMES
from render_farm.engine.steps import StepSampler
from render_farm.job.request import RenderRequest
from tests.engine.conftest import REQUEST, LoadModel

MOST_APART = 2
"""In 8-bit values, in any pixel."""

MODELS = ("sd15", "sdxl", "demo")

MULTISTEP = {"use_karras_sigmas": False, "solver_order": 2}
STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp-2m": ("DPMSolverMultistepScheduler", {**MULTISTEP, "algorithm_type": "dpmsolver++"}),
    "dpmpp-2m-karras": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpmpp-sde": (
        "DPMSolverMultistepScheduler",
        {**MULTISTEP, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def rows_of(scheduler: str) -> list[RenderRequest]:
    """Rows with one scheduler that differ in all else."""
    number = NAMES.index(scheduler)
    row = replace(REQUEST, scheduler=scheduler, prompt=f"a picture by {scheduler}")
    rows = [
        replace(row, steps=5, guidance_scale=7.5, negative_prompt="blurry, grey"),
        replace(row, steps=4, guidance_scale=2.0, prompt="a cube"),
        replace(row, steps=3, guidance_scale=float(number % 2)),
        # 9 × 13 latents: a U-Net halves and doubles them to something uneven
        replace(row, steps=3, width=104, height=72),
    ]
    return [
        replace(each, row=10 * number + n, seed=2**62 + 10 * number + n)
        for n, each in enumerate(rows)
    ]


EVERY_ROW = [row for name in NAMES for row in rows_of(name)]
ROWS = random.Random(3).sample(EVERY_ROW, len(EVERY_ROW))


class Stock:
    """The diffusers pipeline as a user calls it: one prompt, its own seed, no batch."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self.pipeline = loaded.pipeline
        self.clip_skip = loaded.clip_skip
        self.own = loaded.pipeline.scheduler
        self.known: dict[RenderRequest, np.ndarray] = {}

    def picture(self, request: RenderRequest) -> np.ndarray:
        """Whole numbers from 0 to 255, [H, W, 3]."""
        if request not in self.known:
            self.known[request] = self.called(request)
        return self.known[request]

    def called(self, request: RenderRequest) -> np.ndarray:
        self.pipeline.scheduler = self.scheduler(request.scheduler)
        images = self.pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            clip_skip=self.clip_skip,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="np",
        ).images
        return np.round(images[0] * 255).astype(int)

    def scheduler(self, name: str) -> Any:
        if name == "model":
            return type(self.own).from_config(self.own.config)
        class_name, changes = STOCK[name]
        config = {"clip_sample": False, **self.own.config}
        return getattr(diffusers, class_name).from_config(config, **changes)


@pytest.fixture(scope="module")
def stocks(load_model: LoadModel) -> dict[str, Stock]:
    return {model: Stock(load_model(model)) for model in MODELS}


@pytest.fixture(scope="module")
def mixed(load_model: LoadModel) -> dict[str, dict[int, Rendered]]:
    """All rows of each model, rendered three at a time, whatever they are."""
    return {model: rendered(load_model(model), ROWS, 3) for model in MODELS}


def rendered(
    loaded: LoadedPipeline, requests: list[RenderRequest], batch_size: int
) -> dict[int, Rendered]:
    answers = list(StepSampler(loaded).render(requests, batch_size))
    assert {type(answer) for answer in answers} == {Rendered}
    assert len(answers) == len(requests)
    return {answer.request.row: answer for answer in answers}


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("scheduler", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_a_row_among_others_is_the_picture_that_the_stock_pipeline_makes_of_it_alone(
    stocks, mixed, model, scheduler
):
    for request in rows_of(scheduler):
        picture = mixed[model][request.row].pixels
        assert picture.shape == (request.height, request.width, 3)
        assert picture.std() > 5
        assert apart(picture, stocks[model].picture(request)) <= MOST_APART, request


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "another"},
        {"negative_prompt": ""},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"steps": 6},
        {"seed": 1},
        {"scheduler": "euler-ancestral"},
    ],
    ids=str,
)
def test_the_models_would_show_a_wrong_input_by_more_than_that(stocks, model, changes):
    request = rows_of("ddim")[0]
    right = stocks[model].picture(request)
    assert apart(right, stocks[model].picture(replace(request, **changes))) > MOST_APART


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_skipped_layers_are_those_that_the_stock_pipeline_skips(load_model, model):
    stock = Stock(load_model(model, clip_skip=1))
    requests = [*rows_of("ddim"), *rows_of("euler")]
    for row, answer in rendered(load_model(model, clip_skip=1), requests, 2).items():
        request = next(each for each in requests if each.row == row)
        assert apart(answer.pixels, stock.picture(request)) <= MOST_APART, request
    unskipped = rendered(load_model(model), requests[:1], 2)[requests[0].row]
    assert apart(unskipped.pixels, stock.picture(requests[0])) > MOST_APART


def test_a_negative_prompt_that_is_there_is_not_the_zeros_of_one_that_is_not(load_model, stocks):
    rows = [replace(r, row=n, negative_prompt="a" * n) for n, r in enumerate(rows_of("euler")[:2])]
    rows.append(replace(rows[0], row=2, negative_prompt=" "))
    pictures = rendered(load_model("sdxl"), rows, 2)
    for request in rows:
        apart_ = apart(pictures[request.row].pixels, stocks["sdxl"].picture(request))
        assert apart_ <= MOST_APART
    assert apart(pictures[0].pixels, pictures[2].pixels) > MOST_APART
