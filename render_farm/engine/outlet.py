"""Where finished latents wait for a full batch to be decoded in, and become answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from render_farm.engine.batches import padded
from render_farm.engine.decoder import Decoder, Pending, decode_batch_size
from render_farm.engine.guard import Fault, attempt, halves
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.pictures import Answer, Made, Picture, answer, inspected
from render_farm.engine.sampler import Refused, batch_shape_label
from render_farm.engine.slots import Denoised
from render_farm.engine.tokens import TokenCounter

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchOfOneSize:
    """What the pictures of an outlet have in common. `size` is (width, height) in px."""

    size: tuple[int, int]
    batch_size: int
    compiled: bool

    @property
    def label(self) -> str:
        """As it is recorded with each sample."""
        return batch_shape_label(self.batch_size, *self.size, self.compiled)


class Outlet:
    """Decodes the latents that it is given and answers for them, each exactly once.

    On an accelerator one batch is on its way to the host while the next forwards run. `clock`
    returns seconds.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        decoder: Decoder,
        tokens: TokenCounter,
        batch: BatchOfOneSize,
        clock: Callable[[], float],
    ) -> None:
        self._loaded = loaded
        self._decoder = decoder
        self._tokens = tokens
        self._batch = batch
        self._clock = clock
        self._full = decode_batch_size(batch.batch_size, *batch.size)
        self._waiting: list[Denoised] = []
        self._begun: tuple[Sequence[Denoised], Pending] | None = None

    def put(self, denoised: Sequence[Denoised]) -> Iterator[Answer]:
        """Take latents; answers for those that are decoded by now."""
        self._waiting += denoised
        while len(self._waiting) >= self._full:
            yield from self._next_batch()
        if self._begun is not None and self._may_finish(self._begun[1]):
            yield from self._finish()

    def flush(self) -> Iterator[Answer]:
        """Answers for all that is left."""
        while self._waiting:
            yield from self._next_batch()
        yield from self._finish()

    def _may_finish(self, pending: Pending) -> bool:
        """Whether to answer now: what was begun is there, or it is better not kept waiting.

        A batch of one that runs out of memory is blamed on the request that waits for longest.
        """
        if self._batch.batch_size == 1:
            return True
        ready = self._attempt(lambda: pending.ready)
        return isinstance(ready, Fault) or ready

    def _next_batch(self) -> Iterator[Answer]:
        """Begin to decode a batch, then answer for the one before it."""
        batch, self._waiting = self._waiting[: self._full], self._waiting[self._full :]
        pending = self._attempt(lambda: self._begin(batch))
        yield from self._finish()
        if isinstance(pending, Fault):
            yield from self._refuse_or_halve(batch, pending)
        else:
            self._begun = batch, pending

    def _finish(self) -> Iterator[Answer]:
        """Wait for the batch that was begun, and answer for it."""
        if self._begun is None:
            return
        batch, pending = self._begun
        self._begun = None
        yield from self._answers(batch, self._attempt(lambda: self._pictures(pending)))

    def _answers(
        self, batch: Sequence[Denoised], pictures: Sequence[Picture] | Fault
    ) -> Iterator[Answer]:
        if isinstance(pictures, Fault):
            yield from self._refuse_or_halve(batch, pictures)
            return
        for done, picture in zip(batch, pictures, strict=True):
            yield self._answer(done, picture)

    def _refuse_or_halve(self, batch: Sequence[Denoised], fault: Fault) -> Iterator[Answer]:
        """Decode the halves of a batch that failed, until the one at fault is alone."""
        if len(batch) == 1:
            yield Refused(batch[0].request, fault.error_type, fault.error)
            return
        for half in halves(batch):
            yield from self._answers(half, self._attempt(partial(self._pictures_of, half)))

    def _attempt(self, action: Callable[[], Result]) -> Result | Fault:
        return attempt(action, self._loaded.device, self._batch.batch_size)

    def _pictures_of(self, batch: Sequence[Denoised]) -> list[Picture]:
        return self._pictures(self._begin(batch))

    @torch.inference_mode()
    def _begin(self, batch: Sequence[Denoised]) -> Pending:
        began_s = self._clock()
        pending = self._decoder.begin([done.latents for done in batch], self._full)
        self._share_time(batch, began_s)
        return pending

    @torch.inference_mode()
    def _pictures(self, pending: Pending) -> list[Picture]:
        """The decoded pictures, each with what the safety checker says of it."""
        decoded = self._decoder.finish(pending)
        return inspected(padded(decoded, self._full), self._loaded.safety)[: len(decoded)]

    def _share_time(self, batch: Sequence[Denoised], began_s: float) -> None:
        share_s = (self._clock() - began_s) / len(batch)
        for done in batch:
            done.render_s += share_s

    def _answer(self, done: Denoised, picture: Picture) -> Answer:
        cut = self._tokens.cut(done.request.prompt)
        made = Made(self._batch.label, done.render_s, cut, self._loaded.dtype_name)
        return answer(done.request, picture, made)
