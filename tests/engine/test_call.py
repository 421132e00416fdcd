"""What the call engine promises: one picture a request, whatever is rendered beside it."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from render_farm.engine.call import CallSampler
from render_farm.engine.device import device_model, set_threads
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.sampler import Refused, Rendered
from render_farm.errors import DeviceLost, OutOfMemory, RowError
from render_farm.job.request import RenderRequest
from tests.engine.conftest import MakeRequest


class Wrapped:
    """A pipeline that does something before or after the real one is called."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.calls: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "scheduler":
            self.pipeline.scheduler = value
        else:
            super().__setattr__(name, value)

    def __call__(
        self,
        prompt: list[str],
        negative_prompt: list[str] | None = None,
        guidance_scale: float = 7.5,
        **more: Any,
    ) -> Any:
        self.calls.append(prompt)
        self.before(prompt)
        result = self.pipeline(
            prompt=prompt, negative_prompt=negative_prompt, guidance_scale=guidance_scale, **more
        )
        self.after(prompt, result)
        return result

    def before(self, prompt: list[str]) -> None: ...

    def after(self, prompt: list[str], result: Any) -> None: ...


class FailsOn(Wrapped):
    """Raises whenever the word is among the prompts."""

    def __init__(self, pipeline: Any, word: str, error: Exception) -> None:
        super().__init__(pipeline)
        self.word, self.error = word, error

    def before(self, prompt: list[str]) -> None:
        if any(self.word in each for each in prompt):
            raise self.error


class Spoils(Wrapped):
    """Writes a value into the pictures whose prompt has the word."""

    def __init__(self, pipeline: Any, word: str, value: float) -> None:
        super().__init__(pipeline)
        self.word, self.value = word, value

    def after(self, prompt: list[str], result: Any) -> None:
        for lane, each in enumerate(prompt):
            if self.word in each:
                result.images[lane, 0, 5, 5] = self.value


def around(loaded: LoadedPipeline, pipeline: Any) -> CallSampler:
    return CallSampler(replace(loaded, pipeline=pipeline))


def pictures(answers: Iterator[Rendered | Refused]) -> dict[int, bytes]:
    done = {}
    for answer in answers:
        assert isinstance(answer, Rendered), answer
        assert answer.request.row not in done
        done[answer.request.row] = answer.pixels.tobytes()
    return done


@pytest.fixture
def eight(request_of: MakeRequest) -> list[RenderRequest]:
    return [request_of(row, prompt=f"picture number {row} " * (row % 3)) for row in range(8)]


@pytest.fixture(scope="module")
def reference() -> dict[int, dict[int, bytes]]:
    return {}


def test_a_picture_is_contiguous_uint8_of_the_size_asked_for(sampler, request_of):
    (answer,) = sampler.render([request_of(width=128, height=64)], 2)
    assert answer.pixels.dtype == np.uint8
    assert answer.pixels.shape == (64, 128, 3)
    assert answer.pixels.flags["C_CONTIGUOUS"]
    assert answer.batch_shape == "2x128x64"
    assert answer.pixels.std() > 5


def test_batch_one_equals_the_stock_pipeline(sampler, sd15, request_of):
    request = request_of(negative_prompt="blurry", steps=4)
    (answer,) = sampler.render([request], 1)
    sd15.pipeline.scheduler = type(sd15.pipeline.scheduler).from_config(
        sd15.pipeline.scheduler.config
    )
    stock = sd15.pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=7.5,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="np",
    ).images[0]
    difference = np.abs(answer.pixels.astype(int) - np.round(stock * 255).astype(int))
    assert difference.max() <= 2


def test_sdxl_without_a_negative_prompt_equals_the_stock_pipeline(sdxl, request_of):
    (answer,) = CallSampler(sdxl).render([request_of()], 1)
    sdxl.pipeline.scheduler = type(sdxl.pipeline.scheduler).from_config(
        sdxl.pipeline.scheduler.config
    )
    stock = sdxl.pipeline(
        "a red square",
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=7.5,
        generator=torch.Generator("cpu").manual_seed(1000),
        output_type="np",
    ).images[0]
    assert np.abs(answer.pixels.astype(int) - np.round(stock * 255).astype(int)).max() <= 2


@pytest.mark.parametrize(("order", "batch_size"), [(0, 4), (1, 4), (2, 4), (0, 3), (1, 3)])
def test_a_picture_is_the_same_in_any_lane_with_any_neighbours(
    sampler, eight, order, batch_size, reference
):
    if batch_size not in reference:
        reference[batch_size] = pictures(sampler.render(eight, batch_size))
    known = reference[batch_size]
    shuffled = random.Random(order).sample(eight, 8 - order)
    again = pictures(sampler.render(shuffled, batch_size))
    assert again == {row: known[row] for row in again}


@pytest.mark.parametrize("scheduler", ["euler-ancestral", "dpmpp-sde", "lcm", "ddpm"])
def test_noise_drawn_in_the_steps_is_the_requests_own(sampler, eight, scheduler):
    requests = [replace(request, scheduler=scheduler) for request in eight[:4]]
    together = pictures(sampler.render(requests, 4))
    alone = {}
    for request in requests[1:3]:
        alone |= pictures(sampler.render([request], 4))
    assert alone == {row: together[row] for row in alone}


def test_two_threads_keep_lanes_alike_in_an_even_batch(sampler, eight):
    quick = [replace(request, steps=1) for request in eight[:2]]
    set_threads(2)
    try:
        there = pictures(sampler.render(quick, 2))
        and_back = pictures(sampler.render(quick[::-1], 2))
        with_two = device_model(torch.device("cpu"))
    finally:
        set_threads(1)
    assert there == and_back
    assert with_two == sampler.info.device.removesuffix(")") + ", 2 threads)"


def test_groups_that_alternate_change_no_picture(sampler, eight, request_of):
    mixed = [
        replace(request, width=128, negative_prompt="") if request.row % 2 else request
        for request in eight
    ]
    alternating = pictures(sampler.render(mixed, 2))
    sorted_ = pictures(sampler.render(sorted(mixed, key=sampler.order), 2))
    assert alternating == sorted_


def test_a_neighbours_negative_prompt_changes_no_picture(sdxl, request_of):
    # without one, Stable Diffusion XL uses zeros, and an empty one is not the same
    sampler = CallSampler(sdxl)
    requests = [request_of(row, negative_prompt="blurry" * (row % 2)) for row in range(3)]
    together = pictures(sampler.render(requests, 2))
    alone = {}
    for request in requests:
        alone |= pictures(sampler.render([request], 2))
    assert together == alone


def test_different_seeds_and_different_prompts_make_different_pictures(sampler, request_of):
    requests = [request_of(0), request_of(1), request_of(2, seed=1000, prompt="a blue circle")]
    assert len(set(pictures(sampler.render(requests, 4)).values())) == 3


def test_the_largest_seed_renders(sampler, request_of):
    request = request_of(seed=2**63 - 1)
    sampler.check(request)
    assert len(pictures(sampler.render([request], 1))) == 1


def test_every_call_has_the_full_batch(sd15, eight):
    pipeline = Wrapped(sd15.pipeline)
    answers = list(around(sd15, pipeline).render(eight[:6], 4))
    assert [len(prompts) for prompts in pipeline.calls] == [4, 4]
    assert [answer.request.row for answer in answers] == [0, 1, 2, 3, 4, 5]
    assert {answer.batch_shape for answer in answers} == {"4x64x64"}


def test_no_request_is_taken_before_its_batch_needs_it(sampler, eight):
    taken = []

    def source() -> Iterator[RenderRequest]:
        for request in eight:
            taken.append(request.row)
            yield request

    answers = sampler.render(source(), 2)
    next(answers)
    assert taken == [0, 1]
    next(answers)
    assert taken == [0, 1]
    next(answers)
    assert taken == [0, 1, 2, 3]


def test_a_batchs_time_is_shared_by_its_requests(sd15, eight):
    ticks = itertools.count(0, 6.0)
    answers = list(CallSampler(sd15, clock=lambda: next(ticks)).render(eight[:3], 4))
    assert [answer.render_s for answer in answers] == [2.0, 2.0, 2.0]


def test_only_the_request_at_fault_is_refused_and_the_others_keep_their_pictures(
    sd15, sampler, eight
):
    eight[5] = replace(eight[5], prompt="poison")
    pipeline = FailsOn(sd15.pipeline, "poison", ValueError("cannot draw this"))
    answers = list(around(sd15, pipeline).render(eight, 4))
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert refused == [Refused(eight[5], "ValueError", "cannot draw this")]
    assert {len(prompts) for prompts in pipeline.calls} == {4}
    others = pictures(answer for answer in answers if isinstance(answer, Rendered))
    clean = pictures(sampler.render([r for r in eight if r.prompt != "poison"], 4))
    assert others == clean


def test_a_failure_of_every_lane_refuses_every_request(sd15, eight):
    pipeline = FailsOn(sd15.pipeline, "", TypeError("no"))
    answers = list(around(sd15, pipeline).render(eight[:3], 4))
    assert {answer.request.row for answer in answers} == {0, 1, 2}
    assert {type(answer) for answer in answers} == {Refused}


def test_a_lane_that_is_not_a_number_is_refused_alone(sd15, sampler, eight):
    eight[1] = replace(eight[1], prompt="poison")
    answers = list(around(sd15, Spoils(sd15.pipeline, "poison", float("nan"))).render(eight[:4], 4))
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert [(answer.request.row, answer.error_type) for answer in refused] == [(1, "non_finite")]
    others = pictures(answer for answer in answers if isinstance(answer, Rendered))
    clean = pictures(sampler.render(eight[:4], 4))
    assert others == {row: clean[row] for row in (0, 2, 3)}


class InfiniteLatents(Wrapped):
    """Makes the last latents of lane 1 infinite behind a picture that looks sound."""

    def __call__(self, prompt: list[str], callback_on_step_end: Any = None, **more: Any) -> Any:
        result = self.pipeline(prompt=prompt, **more)
        latents = torch.zeros(len(prompt), 4, 8, 8)
        latents[1] = float("inf")
        callback_on_step_end(self, 0, 0, {"latents": latents})
        return result


def test_infinite_latents_behind_a_sound_looking_picture_are_refused(sd15, eight):
    answers = list(around(sd15, InfiniteLatents(sd15.pipeline)).render(eight[:3], 4))
    assert [type(answer) for answer in answers] == [Rendered, Refused, Rendered]


@pytest.mark.parametrize("batch_size", [4, 1])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_out_of_memory_is_the_batchs_and_what_is_open_can_be_tried_again(
    sd15, eight, error, batch_size
):
    failing = around(sd15, FailsOn(sd15.pipeline, "", error))
    with pytest.raises(OutOfMemory) as raised:
        list(failing.render(eight[:4], batch_size))
    assert raised.value.batch_size == batch_size
    # a traceback would keep the tensors of the failed batch alive
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_any_other_error_of_the_device_ends_the_sampler(sd15, eight, error):
    with pytest.raises(DeviceLost, match=r"CUDA|cuDNN"):
        list(around(sd15, FailsOn(sd15.pipeline, "", error)).render(eight[:2], 2))


def test_a_picture_of_another_size_is_refused(sd15, request_of):
    class Smaller(Wrapped):
        def after(self, prompt: list[str], result: Any) -> None:
            result.images = result.images[:, :, :32]

    (answer,) = around(sd15, Smaller(sd15.pipeline)).render([request_of()], 1)
    assert answer.error_type == "wrong_size"


def test_cut_tokens_counts_what_the_model_never_saw(sampler, request_of):
    # every letter is a token of the tiny tokenizer, and two markers are added
    (fits, cut) = sampler.render(
        [request_of(0, prompt="a" * 75), request_of(1, prompt="a" * 80)], 2
    )
    assert (fits.cut_tokens, cut.cut_tokens) == (0, 5)


def test_long_prompts_are_not_warned_about(sampler, request_of, caplog, capfd):
    list(sampler.render([request_of(prompt="many letters " * 20)], 1))
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_the_device_the_dtype_and_the_versions_are_named(sampler):
    assert sampler.info.engine == "call"
    vectors = torch.backends.cpu.get_cpu_capability()
    assert re.fullmatch(rf"cpu: \S.* \({vectors}\)", sampler.info.device)
    assert sampler.info.dtype == "float32"
    assert set(sampler.info.versions) >= {"torch", "diffusers", "transformers"}


def test_batches_are_smaller_for_larger_pictures(sampler):
    sizes = [sampler.default_batch_size(side, side) for side in (64, 512, 1024)]
    assert sizes == [8, 2, 1]


@pytest.mark.parametrize(
    ("changes", "error_type"),
    [
        ({"width": 100}, "bad_size"),
        ({"height": 0}, "bad_size"),
        ({"height": 8200}, "bad_size"),
        ({"width": 64.0}, "bad_size"),
        ({"guidance_scale": -0.5}, "bad_guidance_scale"),
        ({"guidance_scale": float("nan")}, "bad_guidance_scale"),
        ({"guidance_scale": float("inf")}, "bad_guidance_scale"),
        ({"guidance_scale": 100.5}, "bad_guidance_scale"),
        ({"seed": -1}, "bad_seed"),
        ({"seed": 2**63}, "bad_seed"),
        ({"steps": 0}, "bad_steps"),
        ({"steps": 1000}, "bad_steps"),
        ({"scheduler": "lcm", "steps": 51}, "bad_steps"),
        ({"scheduler": "magic"}, "unknown_scheduler"),
        ({"prompt": None}, "bad_prompt"),
    ],
)
def test_what_can_never_be_rendered_is_refused_before_any_work(
    sampler, request_of, changes, error_type
):
    with pytest.raises(RowError) as raised:
        sampler.check(request_of(**changes))
    assert raised.value.error_type == error_type
    assert "allowed" in raised.value.message


@pytest.mark.parametrize("changes", [{"prompt": ""}, {"guidance_scale": 0}, {"steps": 1}])
def test_unusual_but_legitimate_requests_are_rendered(sampler, request_of, changes):
    request = request_of(**changes)
    sampler.check(request)
    assert len(pictures(sampler.render([request], 1))) == 1


def test_a_negative_prompt_is_refused_where_the_pipeline_would_ignore_it(sd15, request_of):
    class Distilled(Wrapped):
        def __call__(
            self, prompt: list[str], negative_prompt: Any = None, true_cfg_scale: float = 1.0
        ) -> Any: ...

    class Without(Wrapped):
        def __call__(self, prompt: list[str]) -> Any: ...

    for pipeline in (Distilled(sd15.pipeline), Without(sd15.pipeline)):
        sampler = around(sd15, pipeline)
        sampler.check(request_of())
        with pytest.raises(RowError, match="negative_prompt_unsupported"):
            sampler.check(request_of(negative_prompt="blurry"))
