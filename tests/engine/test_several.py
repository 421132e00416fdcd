"""Several models in one memory: loaded when needed, let go of when it is full."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Refused, Rendered, SamplerInfo
from render_farm.engine.several import OneModel, SeveralModels, Unloaded, as_models
from render_farm.errors import ModelTooLarge, OutOfMemory, RowError
from render_farm.job.request import RenderRequest


def request(row: int, model: str, prompt: str = "p") -> RenderRequest:
    return RenderRequest(row, 0, None, prompt, "", row, 16, 16, 4, 7.5, "model", model)


def pass_all(request: RenderRequest) -> None:
    """The files tell nothing against it."""


class Device:
    """Room for `size` models or pictures; a model takes 1 until nothing refers to it any more."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: list[str] = []
        self.loads: list[str] = []
        self.freed = 0

    def load(self, name: str) -> RehearsalSampler:
        if len(self.held) >= self.size:
            raise ModelTooLarge("model.path", name, "what fits", "take a smaller one")
        self.held.append(name)
        self.loads.append(name)
        sampler = OnDevice(self)
        weakref.finalize(sampler, self.held.remove, name)
        return sampler

    def several(self, *names: str) -> SeveralModels:
        def free() -> None:
            self.freed += 1

        info = RehearsalSampler().info
        models = {name: Unloaded(info, pass_all, partial(self.load, name)) for name in names}
        return SeveralModels(models, free)


class OnDevice(RehearsalSampler):
    """Answers a picture, and finds then that the others of its batch do not fit."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def check(self, request: RenderRequest) -> None:
        if request.prompt == "unheard of":
            raise RowError("unheard_of", "no")
        super().check(request)

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        for number, outcome in enumerate(super().render(requests, batch_size)):
            if number and len(self._device.held) + batch_size > self._device.size:
                raise OutOfMemory(batch_size, "does not fit")
            yield outcome


def rows(outcomes: Iterable[Rendered | Refused]) -> list[int]:
    return [outcome.request.row for outcome in outcomes]


def test_a_model_is_loaded_when_its_sampler_is_asked_for_and_kept():
    device = Device(9)
    several = device.several("a", "b", "c")
    several.check(request(0, "c"))
    several.order(request(0, "c"))
    assert several.info("c").engine == "rehearsal"
    assert device.loads == []
    for name in ("a", "b", "a", "b"):
        several.sampler(name)
    assert device.loads == ["a", "b"]


def test_a_model_that_does_not_fit_beside_others_takes_the_place_of_the_longest_unused():
    device = Device(2)
    several = device.several("a", "b", "c")
    for name in ("a", "b", "a", "c"):
        several.sampler(name)
    assert sorted(device.held) == ["a", "c"]
    several.sampler("b")
    assert sorted(device.held) == ["b", "c"]
    assert device.loads == ["a", "b", "c", "b"]
    assert device.freed == 2


def test_a_model_that_does_not_fit_alone_is_too_large():
    device = Device(0)
    with pytest.raises(ModelTooLarge):
        device.several("a", "b").sampler("a")
    assert device.freed == 0


def test_a_batch_that_does_not_fit_beside_other_models_is_rendered_without_them():
    device = Device(4)
    several = device.several("a", "b", "c")
    for name in ("b", "c"):
        several.sampler(name)
    requests = [request(row, "a") for row in range(8)]
    outcomes = list(several.sampler("a").render(iter(requests), 2))
    assert sorted(rows(outcomes)) == list(range(8))
    assert sorted(device.held) == ["a", "c"]
    alone = {one.request.row: one.pixels for one in RehearsalSampler().render(requests, 2)}
    assert all((one.pixels == alone[one.request.row]).all() for one in outcomes)
    assert list(several.sampler("a").render(requests, 3))
    assert device.held == ["a"]


def test_a_batch_that_does_not_fit_with_its_model_alone_is_out_of_memory():
    device = Device(4)
    several = device.several("a", "b")
    several.sampler("b")
    requests = iter([request(row, "a") for row in range(8)])
    outcomes = []
    with pytest.raises(OutOfMemory):
        outcomes.extend(several.sampler("a").render(requests, 4))
    assert device.held == ["a"]


def test_what_only_the_loaded_model_can_tell_is_refused_when_it_is_rendered():
    several = Device(9).several("a")
    odd = request(1, "a", "unheard of")
    several.check(odd)
    outcomes = list(several.sampler("a").render([request(0, "a"), odd, request(2, "a")], 2))
    assert sorted(rows(outcomes)) == [0, 1, 2]
    (refused,) = (one for one in outcomes if isinstance(one, Refused))
    assert (refused.request, refused.error_type, refused.error) == (odd, "unheard_of", "no")
    assert rows(several.sampler("a").render([odd], 2)) == [1]


def test_requests_are_ordered_so_that_calls_and_schedules_are_full():
    several = Device(9).several("a")
    calls = [(steps, prompt) for steps in (4, 8) for prompt in ("", "fog")] * 3
    requests = [
        RenderRequest(row, 0, None, "p", negative, row, 16, 16, steps, 7.5, "ddim", "a")
        for row, (steps, negative) in enumerate(calls)
    ]
    ordered = [(one.steps, one.negative_prompt) for one in sorted(requests, key=several.order)]
    assert ordered == [(8, "")] * 3 + [(8, "fog")] * 3 + [(4, "")] * 3 + [(4, "fog")] * 3


def test_models_are_what_their_files_say_before_they_are_loaded():
    def refuse(request: RenderRequest) -> None:
        raise RowError("bad_size", request.model)

    infos = {name: SamplerInfo("steps", "a card", name, {"torch": "2"}) for name in ("a", "b")}
    load: Callable[[], RehearsalSampler] = pytest.fail
    several = SeveralModels({name: Unloaded(infos[name], refuse, load) for name in infos}, load)
    assert (several.device, several.versions) == ("a card", {"torch": "2"})
    assert several.info("b").dtype == "b"
    with pytest.raises(RowError, match="b"):
        several.check(request(0, "b"))


def test_one_sampler_renders_whatever_the_model():
    sampler = RehearsalSampler()
    one = as_models(sampler)
    assert isinstance(one, OneModel)
    assert one.sampler("a") is one.sampler("") is sampler
    assert (one.info("a"), one.device) == (sampler.info, "rehearsal")
    several = Device(1).several("a")
    assert as_models(several) is several
