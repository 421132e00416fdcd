"""Samplers that go wrong on cue: rehearsals whose prompts say what is to happen.

The cues work by name, so that a Ray actor can build them from a module path.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import ray

from render_farm.engine.checks import picture_flags
from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Refused, Rendered, Sampler, SamplerInfo, SortKey
from render_farm.errors import DeviceLost, OutOfMemory
from render_farm.farm.messages import WorkerOptions
from render_farm.job.request import RenderRequest
from render_farm.ledger.record import RunRecord


@dataclass
class CuedSampler:
    """A rehearsal that obeys words in prompts and remembers its batches.

    ``refuse`` refuses the sample, ``crash`` raises out of `render`, ``lose-device`` loses the
    device, ``kill`` ends the process, ``hang`` never comes back, ``devour`` takes 2 GB. Batches
    larger than `fits` are out of memory. Pictures of the seeds in `black` are black, those of
    `white` white.
    """

    fits: int = 1024
    seconds_per_image: float = 0.0
    black: Set[int] = frozenset()
    white: Set[int] = frozenset()
    taken: list[RenderRequest] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._inner: Sampler = RehearsalSampler(seconds_per_image=self.seconds_per_image)

    @property
    def info(self) -> SamplerInfo:
        return self._inner.info

    def check(self, request: RenderRequest) -> None:
        self._inner.check(request)

    def order(self, request: RenderRequest) -> SortKey:
        return self._inner.order(request)

    def default_batch_size(self, width: int, height: int) -> int:
        return self._inner.default_batch_size(width, height)

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        if batch_size > self.fits:
            raise OutOfMemory(batch_size, "does not fit")
        self.batches.append(batch_size)
        for request in requests:
            self.taken.append(request)
            if "crash" in request.prompt:
                raise RuntimeError(f"crashed on row {request.row}")
            if "lose-device" in request.prompt:
                raise DeviceLost("CUDA error: an illegal memory access was encountered")
            if "kill" in request.prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if "devour" in request.prompt:
                bytearray(2 << 30)
            if "hang" in request.prompt:
                threading.Event().wait()
            if "refuse" in request.prompt:
                yield Refused(request, "refused", "told to")
                continue
            for outcome in self._inner.render([request], batch_size):
                yield self._blotted(outcome)

    def _blotted(self, outcome: Rendered | Refused) -> Rendered | Refused:
        seed = outcome.request.seed
        if isinstance(outcome, Refused) or seed not in {*self.black, *self.white}:
            return outcome
        pixels = np.full_like(outcome.pixels, 0 if seed in self.black else 255)
        return replace(outcome, pixels=pixels, flags=picture_flags(pixels))


def build_cued(record: RunRecord, options: WorkerOptions) -> Sampler:
    """For actors: obeys the cues."""
    return CuedSampler()


def build_fenced(record: RunRecord, options: WorkerOptions) -> Sampler:
    """Obeys the cues in the control group whose list of processes ``cgroup`` names."""
    processes = Path((Path(options.model_cache) / "cgroup").read_text())
    processes.write_text(str(os.getpid()))
    return CuedSampler()


def build_stopping_once(record: RunRecord, options: WorkerOptions) -> Sampler:
    """The first process that builds it is stopped, as by a debugger, when it is to render."""
    mark = Path(options.model_cache) / "stopped-once"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return RehearsalSampler()
    return _Stopping(mark)


class _Stopping(CuedSampler):
    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        self._mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().render(requests, batch_size)


def build_failing_on_a_node(record: RunRecord, options: WorkerOptions) -> Sampler:
    """Crashes whatever it is given on the node that the file ``sick-node`` names."""
    node = ray.get_runtime_context().get_node_id()
    with (Path(options.model_cache) / "built-on").open("a") as file:
        file.write(f"{node}\n")
    sick = (Path(options.model_cache) / "sick-node").read_text()
    return _Crashing() if node == sick else RehearsalSampler(seconds_per_image=0.02)


class _Crashing(CuedSampler):
    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        raise RuntimeError("a sick card")


def build_slow(record: RunRecord, options: WorkerOptions) -> Sampler:
    """For kills in the middle: half a second for ten pictures."""
    return RehearsalSampler(seconds_per_image=0.05)


def build_crashing_once(record: RunRecord, options: WorkerOptions) -> Sampler:
    """Crashes on cue in the first process that builds it; the later ones ignore the cues."""
    mark = Path(options.model_cache) / "crashed-once"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return RehearsalSampler()
    return CuedSampler()
