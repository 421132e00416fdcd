"""What the step engine promises: full lanes, no request taken too early, one answer each."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_farm.engine.build import build_sampler
from render_farm.engine.call import CallSampler
from render_farm.engine.conditioning import ENCODE_BATCH
from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.source import ModelSource
from render_farm.engine.steps import StepSampler
from render_farm.errors import OutOfMemory, RowError
from render_farm.job.request import RenderRequest
from tests.engine.conftest import REQUEST, pixels_of

SMALL = replace(REQUEST, width=32, height=32, scheduler="ddim")
NO_TEXT = "\ud800"
"""Half a character: no tokenizer takes it."""


def small(row: int, **changes: object) -> RenderRequest:
    return replace(SMALL, **{"row": row, "seed": row, **changes})


class Taken:
    """A stream of requests that knows which were taken from it."""

    def __init__(self, requests: Iterable[RenderRequest]) -> None:
        self._requests = iter(requests)
        self.rows: list[int] = []

    def __iter__(self) -> Iterator[RenderRequest]:
        return self

    def __next__(self) -> RenderRequest:
        request = next(self._requests)
        self.rows.append(request.row)
        return request


def test_a_picture_is_contiguous_uint8_of_the_size_asked_for(stepper):
    (answer,) = stepper.render([replace(REQUEST, width=96, height=64)], 3)
    assert answer.pixels.dtype == np.uint8
    assert answer.pixels.shape == (64, 96, 3)
    assert answer.pixels.flags["C_CONTIGUOUS"]
    assert answer.batch_shape == "3x96x64"
    assert answer.flags == ()
    assert answer.nsfw is None


def mixed(count: int, guidance: Sequence[float]) -> list[RenderRequest]:
    """Rows that differ in all that may differ within a batch, in random order."""
    chance = random.Random(8)
    return [
        small(
            row,
            steps=chance.randint(2, 10),
            guidance_scale=chance.choice(guidance),
            scheduler=chance.choice(["ddim", "euler", "dpmpp-2m"]),
        )
        for row in range(count)
    ]


def test_guided_rows_of_all_kinds_fill_the_lanes_in_any_order(stepper):
    pixels_of(stepper.render(mixed(100, [3.0, 7.5]), 2))
    assert 0.97 <= stepper.occupancy < 1


def test_guided_and_unguided_rows_fill_the_lanes_in_the_order_that_the_engine_likes(stepper):
    rows = sorted(mixed(160, [0.5, 3.0, 7.5]), key=stepper.order)
    pixels_of(stepper.render(rows, 4))
    assert 0.97 <= stepper.occupancy < 1


def test_guided_and_unguided_rows_fill_the_lanes_of_a_small_batch_in_any_order(stepper):
    pixels_of(stepper.render(mixed(150, [0.5, 3.0, 7.5]), 2))
    assert 0.97 <= stepper.occupancy < 1


@pytest.mark.parametrize(
    ("guidance", "batch_size", "share"),
    [
        ((7.5,), 1, 1),
        ((1.0,), 1, 1 / 2),
        ((0.0, 1.0), 1, 1),
        ((7.5,), 4, 2 / 8),
        ((1.0, 1.0, 1.01), 4, 4 / 8),
        ((0.5,) * 6, 3, 1),
        ((7.5, 1.0, 1.0, 7.5), 3, 1),
    ],
)
def test_a_request_takes_two_lanes_with_guidance_and_one_without(
    stepper, guidance, batch_size, share
):
    rows = [small(row, guidance_scale=scale) for row, scale in enumerate(guidance)]
    pixels_of(stepper.render(rows, batch_size))
    assert stepper.occupancy == pytest.approx(share)


def test_occupancy_counts_from_the_last_reset(stepper):
    assert stepper.occupancy == 1
    pixels_of(stepper.render([small(0, guidance_scale=1.0)], 1))
    stepper.reset_counters()
    assert stepper.occupancy == 1
    pixels_of(stepper.render([small(0)], 2))
    assert stepper.occupancy == 1 / 2


def test_what_leaves_its_lanes_makes_room_at_once(stepper):
    # one of 9 steps beside three of 3, one after the other: nothing waits for the long one
    rows = [small(0, steps=9), *(small(row, steps=3) for row in (1, 2, 3))]
    answers = [answer.request.row for answer in stepper.render(rows, 2)]
    assert stepper.occupancy == 1
    assert answers.index(1) < answers.index(3)


@pytest.mark.parametrize(("batch_size", "decoded_at_once"), [(1, 1), (2, 2), (3, 2), (12, 8)])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_few_requests_are_taken_before_their_lanes_are_free(
    stepper, batch_size, decoded_at_once, guidance
):
    lanes_each = 1 if guidance <= 1 else 2
    source = Taken(small(row, steps=1 + row % 3, guidance_scale=guidance) for row in range(60))
    answered = 0
    most_open = 0
    for _ in stepper.render(source, batch_size):
        most_open = max(most_open, len(source.rows) - answered)
        answered += 1
    in_lanes = 2 * batch_size // lanes_each
    assert answered == 60
    assert most_open <= in_lanes + ENCODE_BATCH + in_lanes + decoded_at_once


def test_nothing_is_taken_before_the_first_answer_is_asked_for(stepper):
    source = Taken([small(0)])
    stepper.render(source, 1)
    assert source.rows == []


def test_a_stream_without_end_is_answered_all_along(stepper):
    endless = (small(row, steps=1 + row % 4) for row in itertools.count())
    assert len(list(itertools.islice(stepper.render(endless, 2), 12))) == 12


def test_no_requests_have_no_answers(stepper):
    assert list(stepper.render([], 4)) == []


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    kinds=st.lists(
        st.sampled_from(["guided", "unguided", "wide", "no prompt", "no negative prompt"]),
        max_size=14,
    ),
    batch_size=st.sampled_from([1, 2, 3]),
)
def test_every_request_is_answered_once_and_only_those_at_fault_are_refused(
    load_model, kinds, batch_size
):
    changes = {
        "guided": {},
        "unguided": {"guidance_scale": 1.0},
        "wide": {"width": 64},
        "no prompt": {"prompt": NO_TEXT},
        "no negative prompt": {"negative_prompt": NO_TEXT},
    }
    rows = [small(row, steps=1 + row % 3, **changes[kind]) for row, kind in enumerate(kinds)]
    answers = list(StepSampler(load_model("demo")).render(rows, batch_size))
    assert Counter(answer.request.row for answer in answers) == Counter(range(len(rows)))
    refused = {answer.request.row for answer in answers if isinstance(answer, Refused)}
    assert refused == {row for row, kind in enumerate(kinds) if kind.startswith("no ")}


def test_sizes_that_alternate_are_all_rendered_each_in_batches_of_its_own(stepper):
    rows = [small(row, width=32 + 32 * (row % 2), steps=1 + row % 3) for row in range(12)]
    answers = list(stepper.render(rows, 2))
    assert len(pixels_of(answers)) == 12
    for answer in answers:
        assert answer.batch_shape == f"2x{answer.request.width}x32"
        assert answer.pixels.shape == (32, answer.request.width, 3)


def test_a_generator_that_is_closed_half_way_leaves_the_sampler_as_it_was(stepper):
    rows = [small(row, width=32, height=32, steps=1 + row % 4) for row in range(8)]
    reference = pixels_of(stepper.render(rows, 2))
    stepper.reset_counters()
    begun = stepper.render(rows, 2)
    next(begun)
    begun.close()
    assert pixels_of(stepper.render(rows, 2)) == reference


def test_two_streams_at_a_time_do_not_disturb_each_other(stepper):
    rows = [
        small(row, width=32, height=32, steps=2 + row % 3, scheduler="dpmpp-sde")
        for row in range(6)
    ]
    reference = pixels_of(stepper.render(rows, 2))
    one, other = stepper.render(rows, 2), stepper.render(rows[::-1], 2)
    both = [answers for pair in zip(one, other, strict=True) for answers in pair]
    assert pixels_of(both[::2]) == pixels_of(both[1::2]) == reference


def test_long_requests_come_first_and_equal_schedules_together(stepper):
    rows = [
        small(0, steps=8, scheduler="euler"),
        small(1, steps=7, scheduler="ddim"),
        small(2, steps=5, scheduler="heun"),  # nine forwards
        small(3, steps=8, scheduler="ddim"),
        small(4, steps=8, scheduler="pndm"),  # nine forwards
        small(5, steps=8, scheduler="euler"),
    ]
    assert [r.row for r in sorted(rows, key=stepper.order)] == [2, 4, 3, 0, 5, 1]


def test_the_time_of_every_forward_and_decoding_is_shared_by_those_in_it(stepped):
    ticks = itertools.count()
    sampler = StepSampler(stepped, clock=lambda: next(ticks))
    answers = list(sampler.render([small(0), small(1), small(2, guidance_scale=1.0)], 2))
    measured = next(ticks) // 2  # a second from one tick to the next, two ticks for each time
    assert sum(answer.render_s for answer in answers) == pytest.approx(measured)
    assert all(answer.render_s > 0 for answer in answers)


def test_the_first_batch_size_is_the_largest_that_gains(stepped):
    # by this clock every forward takes a second, whatever is in it
    ticks = itertools.count()
    sampler = StepSampler(stepped, clock=lambda: next(ticks))
    assert sampler.default_batch_size(8, 8) == 64


def test_batches_that_do_not_fit_are_left_out_of_the_choice(load_model):
    loaded = load_model("demo")

    def full(_module: object, _inputs: tuple, more: dict) -> None:
        if len(more["hidden_states"]) > 8:
            raise MemoryError

    loaded.pipeline.unet.mid_block.register_forward_pre_hook(full, with_kwargs=True)
    ticks = itertools.count()
    sampler = StepSampler(loaded, clock=lambda: next(ticks))
    assert sampler.default_batch_size(16, 16) == 4
    with pytest.raises(OutOfMemory):
        list(sampler.render([small(0)], 8))


def test_measuring_changes_no_picture(stepper):
    before = pixels_of(stepper.render([small(0)], 2))
    stepper.default_batch_size(16, 16)
    assert pixels_of(stepper.render([small(0)], 2)) == before


class Watcher:
    """A safety checker that finds unsafe what is bright on the whole, and counts the pictures."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def check(self, pixels: np.ndarray) -> list[bool]:
        self.counts.append(len(pixels))
        return [bool(picture.mean() > 127) for picture in pixels]


def test_the_safety_checker_sees_full_batches_and_each_picture_gets_its_own_verdict(stepped):
    watcher = Watcher()
    sampler = StepSampler(replace(stepped, safety=watcher))
    answers = list(sampler.render([small(row) for row in range(11)], 4))
    assert [answer.nsfw for answer in answers] == [a.pixels.mean() > 127 for a in answers]
    assert len({answer.nsfw for answer in answers}) == 2
    assert watcher.counts == [4, 4, 4]


def test_cut_tokens_counts_what_the_model_never_saw(load_model):
    sampler = StepSampler(load_model("sd15"))
    rows = [small(0, prompt="a" * 75), small(1, prompt="a" * 80), small(2, prompt="b")]
    answers = sorted(sampler.render(rows, 2), key=lambda answer: answer.request.row)
    assert [answer.cut_tokens for answer in answers] == [0, 5, 0]


def test_the_sampler_says_what_it_is(stepper):
    assert stepper.info.engine == "steps"
    assert stepper.info.dtype == "float32"
    assert len(stepper.info.device) > len("cpu: ")
    assert set(stepper.info.versions) >= {"torch", "diffusers", "transformers"}


@pytest.mark.parametrize(
    ("changes", "error_type"),
    [
        ({"width": 100}, "bad_size"),
        ({"height": 0}, "bad_size"),
        ({"guidance_scale": float("nan")}, "bad_guidance_scale"),
        ({"seed": 2**63}, "bad_seed"),
        ({"steps": 0}, "bad_steps"),
        ({"scheduler": "lcm", "steps": 51}, "bad_steps"),
        ({"scheduler": "magic"}, "unknown_scheduler"),
        ({"prompt": None}, "bad_prompt"),
    ],
)
def test_what_can_never_be_rendered_is_refused_before_any_work(stepper, changes, error_type):
    with pytest.raises(RowError) as raised:
        stepper.check(small(0, **changes))
    assert raised.value.error_type == error_type
    assert "allowed" in raised.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ""},
        {"guidance_scale": 0},
        {"guidance_scale": 100},
        {"steps": 1},
        {"steps": 1, "scheduler": "heun"},
        {"seed": 2**63 - 1},
        {"width": 8, "height": 8},
    ],
    ids=str,
)
def test_unusual_but_legitimate_requests_are_rendered(stepper, changes):
    request = small(0, **changes)
    stepper.check(request)
    assert len(pixels_of(stepper.render([request], 2))) == 1


@pytest.mark.parametrize("name", ["sd15_folder", "sdxl_folder"])
@pytest.mark.parametrize(
    ("engine", "kind"), [("auto", StepSampler), ("steps", StepSampler), ("call", CallSampler)]
)
def test_auto_is_step_batching_where_it_can_be(request, name, engine, kind):
    folder = str(request.getfixturevalue(name))
    sampler = build_sampler(engine, ModelSource(folder, device="cpu"))
    assert type(sampler) is kind
    (answer,) = sampler.render([small(0, scheduler="model")], 1)
    assert isinstance(answer, Rendered)
    assert answer.batch_shape == "1x32x32"


def test_a_schedule_that_the_models_own_configuration_forbids_is_refused_before_any_work(
    load_model,
):
    loaded = load_model("sdxl")
    loaded.pipeline.scheduler.register_to_config(use_beta_sigmas=True)
    sampler = StepSampler(loaded)
    sampler.check(REQUEST)
    with pytest.raises(RowError, match="scheduler_incompatible"):
        sampler.check(replace(REQUEST, scheduler="dpmpp-2m-karras"))
