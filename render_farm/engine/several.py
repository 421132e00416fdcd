"""Several models in one process: each is loaded when it is first needed, and kept while it fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, TypeAlias

from render_farm.engine.sampler import Refused, Rendered, Sampler, SamplerInfo, SortKey
from render_farm.errors import ModelTooLarge, OutOfMemory, RowError
from render_farm.job.request import RenderRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A model whose files are here: what is known of it beforehand, and how it is loaded.

    `check` refuses requests by the small files of its folder alone.
    """

    info: SamplerInfo
    check: Callable[[RenderRequest], None]
    load: Callable[[], Sampler]


class Models(Protocol):
    """What renders the requests of a job: each says which of its models."""

    @property
    def device(self) -> str:
        """The device model, the same for all."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the libraries that decide the pixels."""
        ...

    def info(self, model: str) -> SamplerInfo:
        """What the sampler of a model is. Loads nothing; any thread may ask."""
        ...

    def check(self, request: RenderRequest) -> None:
        """As `Sampler.check`, as far as it can be told now. Loads nothing; any thread may ask."""
        ...

    def order(self, request: RenderRequest) -> SortKey:
        """As `Sampler.order`, among requests of one `Kind`. Loads nothing; any thread may ask."""
        ...

    def sampler(self, model: str) -> Sampler:
        """The sampler of a model, loaded. For the engine's thread alone, and not to be kept.

        Raises: `ModelError` when it cannot be loaded.
        """
        ...


class OneModel:
    """The `Models` of a job whose requests are all rendered by one sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.check = sampler.check
        self.order = sampler.order

    @property
    def device(self) -> str:
        return self._sampler.info.device

    @property
    def versions(self) -> Mapping[str, str]:
        return self._sampler.info.versions

    def info(self, model: str) -> SamplerInfo:
        del model
        return self._sampler.info

    def sampler(self, model: str) -> Sampler:
        del model
        return self._sampler


class SeveralModels:
    """Loads a model when its sampler is first asked for, and keeps what it has loaded.

    When loading or rendering is out of memory, the model that was not used for longest is let go of
    and it is tried again; only a model that is alone in memory can be too large, or its batch.
    `free` gives the memory back to the device.
    """

    def __init__(self, models: Mapping[str, Unloaded], free: Callable[[], None]) -> None:
        self._models = models
        self._free = free
        self._loaded: dict[str, Sampler] = {}  # the one that was used last is the last

    @property
    def device(self) -> str:
        return next(iter(self._models.values())).info.device

    @property
    def versions(self) -> Mapping[str, str]:
        return next(iter(self._models.values())).info.versions

    def info(self, model: str) -> SamplerInfo:
        return self._models[model].info

    def check(self, request: RenderRequest) -> None:
        self._models[request.model].check(request)

    def order(self, request: RenderRequest) -> SortKey:
        """Long ones first; next to each other what shares a schedule, and what shares a call."""
        return (
            -request.steps,
            request.scheduler,
            float(request.guidance_scale),
            bool(request.negative_prompt),
        )

    def sampler(self, model: str) -> Sampler:
        loaded = self._loaded.pop(model, None)
        while loaded is None:
            try:
                loaded = self._models[model].load()
            except (OutOfMemory, ModelTooLarge):
                if self.is_alone(model):
                    raise
            # Only here, where the exception and what its traceback holds are gone.
            if loaded is None:
                self.make_room(model)
        self._loaded[model] = loaded
        return _Neighbour(loaded, model, self)

    def is_alone(self, model: str) -> bool:
        """Whether no other model is loaded."""
        return not self._loaded.keys() - {model}

    def make_room(self, model: str) -> None:
        """Let go of the model that was not used for longest, of those besides this."""
        oldest = next(name for name in self._loaded if name != model)
        del self._loaded[oldest]
        self._free()
        log.warning("out of memory: a model is let go of", extra={"model": oldest, "for": model})


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """A sampler that is not alone in memory.

    What the model's files could not tell of a request is checked when it is rendered.
    """

    inner: Sampler
    model: str
    several: SeveralModels

    @property
    def info(self) -> SamplerInfo:
        return self.inner.info

    def check(self, request: RenderRequest) -> None:
        self.inner.check(request)

    def order(self, request: RenderRequest) -> SortKey:
        return self.inner.order(request)

    def default_batch_size(self, width: int, height: int) -> int:
        return self.inner.default_batch_size(width, height)

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Render requests lazily; out of memory, what was not answered is begun anew."""
        source = iter(requests)
        again: list[RenderRequest] = []
        while True:
            checked = _Checked(self.inner, chain(again, source))
            try:
                for outcome in self.inner.render(checked, batch_size):
                    del checked.unanswered[outcome.request.key]
                    yield outcome
                    yield from checked.refusals()
                yield from checked.refusals()
                return
            except OutOfMemory:
                if self.several.is_alone(self.model):
                    raise
            self.several.make_room(self.model)
            again = list(checked.unanswered.values())


@dataclass(slots=True)
class _Checked:
    """Hands requests on that a sampler does not refuse, and remembers those that it did."""

    sampler: Sampler
    requests: Iterator[RenderRequest]
    unanswered: dict[str, RenderRequest] = field(default_factory=dict)
    _refused: list[Refused] = field(default_factory=list)

    def __iter__(self) -> Iterator[RenderRequest]:
        for request in self.requests:
            try:
                self.sampler.check(request)
            except RowError as error:
                self._refused.append(Refused(request, error.error_type, error.message))
            else:
                self.unanswered[request.key] = request
                yield request

    def refusals(self) -> Iterator[Refused]:
        """Those refused since it was last asked."""
        while self._refused:
            yield self._refused.pop()


AnySampler: TypeAlias = Sampler | SeveralModels


def as_models(sampler: AnySampler) -> Models:
    """One sampler, or several, as the farm asks them."""
    return sampler if isinstance(sampler, SeveralModels) else OneModel(sampler)
