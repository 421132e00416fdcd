"""One bad row costs one row in the step engine too; what fails the device fails the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from render_farm.engine.model import LoadedPipeline
from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.steps import StepSampler
from render_farm.errors import DeviceLost, OutOfMemory
from render_farm.job.request import RenderRequest
from tests.engine.conftest import REQUEST, pixels_of

ODD_STEPS = 7
"""The steps of the one request at fault: they lead to timesteps that no other one has."""

ODD_TIMESTEP = 3 * (1000 // ODD_STEPS) + 1
"""One in the midst of its way, with ``ddim``."""

PLACES = [
    "text_encoder",
    "unet.time_proj",
    "unet.conv_out",
    "vae.post_quant_conv",
]


class Spoils:
    """A pipeline whose encoder says NaN, or something worse, of a prompt with the word."""

    def __init__(self, pipeline: Any, word: str, value: float) -> None:
        self._pipeline, self._word, self._value = pipeline, word, value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(self) -> None: ...

    def encode_prompt(self, prompt: list[str], **more: Any) -> Any:
        hidden, *others = self._pipeline.encode_prompt(prompt=prompt, **more)
        for lane, text in enumerate(prompt):
            if self._word in text:
                hidden[lane] = self._value
        return hidden, *others


@contextmanager
def watched(loaded: LoadedPipeline, name: str, hook: Callable[[torch.Tensor], None]) -> Iterator:
    """Show what a module of the pipeline is given, its first input, before it is called."""
    module = loaded.pipeline
    for part in name.split("."):
        module = getattr(module, part)

    def before(_module: Any, inputs: Sequence[Any], more: Any) -> None:
        hook(next(each for each in [*inputs, *more.values()] if torch.is_tensor(each)))

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def raising(error: Exception) -> Callable[[torch.Tensor], None]:
    def hook(_given: torch.Tensor) -> None:
        raise error

    return hook


def refused(answers: Sequence[Rendered | Refused]) -> list[Refused]:
    return [answer for answer in answers if isinstance(answer, Refused)]


def rendered(answers: Sequence[Rendered | Refused]) -> dict[int, bytes]:
    return pixels_of(answer for answer in answers if isinstance(answer, Rendered))


@pytest.fixture
def rows() -> list[RenderRequest]:
    """Nine at different steps with different guidance."""
    return [
        replace(
            REQUEST,
            row=row,
            seed=row,
            width=32,
            height=32,
            scheduler="ddim",
            steps=(2, 5, 4)[row % 3],
            guidance_scale=(7.5, 1.0)[row % 2],
            prompt=f"picture {row}",
        )
        for row in range(9)
    ]


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_text_that_no_tokenizer_takes_refuses_its_row_alone(
    stepped, stepper, rows, field, batch_size
):
    clean = pixels_of(stepper.render(rows, batch_size))
    rows[4] = replace(rows[4], **{field: "half \ud800", "guidance_scale": 7.5})
    answers = list(StepSampler(stepped).render(rows, batch_size))
    assert [answer.request for answer in refused(answers)] == [rows[4]]
    assert refused(answers)[0].error_type
    assert refused(answers)[0].error
    assert rendered(answers) == {row: clean[row] for row in clean if row != 4}


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_request_that_fails_half_way_is_refused_alone_and_the_others_keep_their_pictures(
    stepped, stepper, rows, batch_size
):
    rows[3] = replace(rows[3], steps=ODD_STEPS)
    clean = pixels_of(stepper.render(rows, batch_size))
    seen = []

    def fail(timesteps: torch.Tensor) -> None:
        seen.append(len(timesteps))
        if (timesteps == ODD_TIMESTEP).any():
            raise ValueError("cannot draw this")

    with watched(stepped, "unet.time_proj", fail):
        answers = list(stepper.render(rows, batch_size))
    assert refused(answers) == [Refused(rows[3], "ValueError", "cannot draw this")]
    assert rendered(answers) == {row: clean[row] for row in clean if row != 3}
    assert len(answers) == len(rows)
    # the search for it is made in full batches; what sees no text takes them by halves
    assert set(seen) == {batch_size if batch_size % 2 else batch_size // 2}


def test_a_failure_of_every_forward_refuses_every_request(stepped, stepper, rows):
    with watched(stepped, "unet.conv_out", raising(TypeError("no"))):
        answers = list(stepper.render(rows, 4))
    assert sorted(answer.request.row for answer in answers) == list(range(9))
    assert {(answer.error_type, answer.error) for answer in answers} == {("TypeError", "no")}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prompt_that_is_not_a_number_is_refused_alone(stepped, stepper, rows, value):
    clean = pixels_of(stepper.render(rows, 3))
    rows[2] = replace(rows[2], prompt="poison")
    sampler = StepSampler(replace(stepped, pipeline=Spoils(stepped.pipeline, "poison", value)))
    answers = list(sampler.render(rows, 3))
    assert [(each.request.row, each.error_type) for each in refused(answers)] == [(2, "non_finite")]
    assert "float32" in refused(answers)[0].error
    assert rendered(answers) == {row: clean[row] for row in clean if row != 2}


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_latents_that_cannot_be_decoded_are_refused_alone(stepped, stepper, rows, batch_size):
    clean = pixels_of(stepper.render(rows, batch_size))
    latents: list[torch.Tensor] = []
    with watched(stepped, "vae.post_quant_conv", latents.append):
        pixels_of(stepper.render([rows[5]], batch_size))
    poison = latents[0][0]
    lanes = []

    def fail(batch: torch.Tensor) -> None:
        lanes.append(len(batch))
        if any(torch.equal(lane, poison) for lane in batch):
            raise ValueError("cannot decode this")

    with watched(stepped, "vae.post_quant_conv", fail):
        answers = list(stepper.render(rows, batch_size))
    assert refused(answers) == [Refused(rows[5], "ValueError", "cannot decode this")]
    assert rendered(answers) == {row: clean[row] for row in clean if row != 5}
    assert set(lanes) == {batch_size}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_the_batchs_wherever_it_happens(stepped, stepper, rows, place, error):
    with (
        watched(stepped, place, raising(error)),
        pytest.raises(OutOfMemory) as raised,
    ):
        list(stepper.render(rows, 4))
    assert raised.value.batch_size == 4
    # a traceback would keep the tensors of the failed batch alive
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_what_did_not_fit_is_rendered_in_half_the_batch(stepped, stepper, rows):
    halved = pixels_of(stepper.render(rows, 2))

    def fail(lanes: torch.Tensor) -> None:
        if len(lanes) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with watched(stepped, "unet.conv_out", fail):
        with pytest.raises(OutOfMemory):
            list(stepper.render(rows, 4))
        assert pixels_of(stepper.render(rows, 2)) == halved


def test_what_was_answered_before_memory_ran_out_was_answered_well(stepped, stepper, rows):
    clean = pixels_of(stepper.render(rows, 2))
    left = [6]

    def fail(_timesteps: torch.Tensor) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError

    answers = []
    with watched(stepped, "unet.time_proj", fail), pytest.raises(OutOfMemory):
        answers.extend(stepper.render(rows, 2))
    assert answers
    answers += stepper.render([r for r in rows if r.row not in rendered(answers)], 2)
    assert rendered(answers) == clean


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_other_error_of_the_device_ends_the_sampler(stepped, stepper, rows, place, error):
    with watched(stepped, place, raising(error)), pytest.raises(DeviceLost, match=r"CUDA|cuDNN"):
        list(stepper.render(rows, 2))


def test_the_device_is_not_lost_in_silence_behind_a_search(stepped, stepper, rows):
    # the second failure, met while the batch is being halved
    errors = iter([ValueError("some row"), RuntimeError("CUDA error: device-side assert")])

    def fail(_timesteps: torch.Tensor) -> None:
        raise next(errors)

    with watched(stepped, "unet.time_proj", fail), pytest.raises(DeviceLost):
        list(stepper.render(rows, 4))


@pytest.mark.parametrize(
    ("bias", "flags"), [(-9, ("black", "flat")), (9, ("white", "flat")), (0, ("flat",))]
)
def test_pictures_that_show_nothing_are_flagged(load_model, rows, bias, flags):
    loaded = load_model("demo")
    with torch.no_grad():
        loaded.pipeline.vae.decoder.conv_out.weight.zero_()
        loaded.pipeline.vae.decoder.conv_out.bias.fill_(bias)
    answers = list(StepSampler(loaded).render(rows[:3], 2))
    assert [answer.flags for answer in answers] == [flags] * 3
