"""The pictures of one size that are being denoised, one forward at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from render_farm.engine.conditioning import Embedding
from render_farm.engine.denoiser import LANES_A_PICTURE, LATENT_FACTOR, Denoiser, Lanes
from render_farm.engine.host import to_device
from render_farm.engine.slots import Denoised, LaneTable, Occupancy, Slot
from render_farm.engine.walk import Schedule, Start, Walk
from render_farm.job.request import RenderRequest


@dataclass(frozen=True, slots=True)
class Membership:
    """Which slot has which lanes, on the device.

    `owners`, int64 [L], is the slot of each lane, 0 for one that is free. `prompts` and
    `negatives`, int64 [S], are the lanes of each slot, the same one where it is not guided;
    `scales`, float32 [S, 1, 1, 1], the guidance scales, 1 where there is none.
    """

    owners: torch.Tensor
    prompts: torch.Tensor
    negatives: torch.Tensor
    scales: torch.Tensor


class Stage:
    """A fixed number of lanes, filled with requests that are each at their own step.

    `size` is (width, height) in px of every picture here. `clock` returns seconds.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        lanes: Lanes,
        size: tuple[int, int],
        occupancy: Occupancy,
        clock: Callable[[], float],
    ) -> None:
        self._denoiser = denoiser
        self._lanes = lanes
        self._table = LaneTable(lanes.count)
        self._occupancy = occupancy
        self._clock = clock
        width, height = size
        shape = (1, denoiser.channels, height // LATENT_FACTOR, width // LATENT_FACTOR)
        self._blank = torch.zeros(shape, dtype=denoiser.dtype, device=denoiser.device)
        self._walks: list[tuple[Walk, list[Slot]]] = []
        self._members: Membership | None = None

    @property
    def free(self) -> int:
        """How many lanes are free."""
        return self._table.free

    @property
    def empty(self) -> bool:
        """Whether nothing is being denoised."""
        return not self._walks

    def admit(
        self, request: RenderRequest, schedule: Schedule, embeddings: Sequence[Embedding]
    ) -> None:
        """Give a request its lanes: one for each embedding, the prompt's first."""
        contexts = [self._denoiser.context(embedding) for embedding in embeddings]
        start = Start(request.seed, self._blank)
        lanes = self._table.reserve(len(embeddings))
        for lane, embedding, context in zip(lanes, embeddings, contexts, strict=True):
            self._lanes.fill(lane, context, embedding.pooled)
        # from here on nothing fails: a walk has as many latents as it has slots
        walk, slots = self._walk_on(schedule)
        walk.join(start)
        slots.append(Slot(request, lanes))
        self._members = None

    def advance(self) -> list[Denoised]:
        """One forward for all lanes; returns the requests that it finished."""
        began_s = self._clock()
        predictions = self._guided(self._predict())
        start = 0
        for walk, slots in self._walks:
            walk.step(predictions[start : start + len(slots)])
            start += len(slots)
        self._count(self._clock() - began_s)
        return self._finished()

    def try_out(self) -> None:
        """One forward of noise in every lane, to see how long it takes."""
        pictures = self._lanes.count // LANES_A_PICTURE
        noise = torch.randn_like(self._blank.expand(pictures, -1, -1, -1))
        self._denoiser.try_out(noise, self._lanes)

    def clear(self) -> list[RenderRequest]:
        """Empty every lane; returns what was in them."""
        slots = self._slots()
        for slot in slots:
            self._table.release(slot.lanes)
        self._walks = []
        self._members = None
        return [slot.request for slot in slots]

    def _walk_on(self, schedule: Schedule) -> tuple[Walk, list[Slot]]:
        """A walk on that schedule that has not begun yet: an open one, else a new one."""
        for walk, slots in self._walks:
            if walk.schedule is schedule and walk.open:
                return walk, slots
        self._walks.append((Walk(schedule), []))
        return self._walks[-1]

    def _slots(self) -> list[Slot]:
        return [slot for _, slots in self._walks for slot in slots]

    def _predict(self) -> torch.Tensor:
        """The denoiser's prediction in every lane, [L, C, h, w]."""
        scaled = [walk.scaled() for walk, _ in self._walks]
        timesteps = [walk.timestep for walk, slots in self._walks for _ in slots]
        empty = -len(timesteps) % self._lanes.part
        return self._denoiser.predict(
            torch.cat([*scaled, *[self._blank] * empty]),
            self._on_device([*timesteps, *[0.0] * empty], torch.float32),
            self._membership().owners,
            self._lanes,
        )

    def _guided(self, predictions: torch.Tensor) -> torch.Tensor:
        """Lanes to slots, [S, C, h, w]: classifier-free guidance where a slot has two lanes.

        From "Classifier-Free Diffusion Guidance", Ho and Salimans 2022; computed in float32.
        """
        members = self._membership()
        negative = predictions[members.negatives].float()
        guided = negative + members.scales * (predictions[members.prompts].float() - negative)
        return guided.to(predictions.dtype)

    def _membership(self) -> Membership:
        """Who is where; made anew only when that has changed."""
        if self._members is None:
            slots = self._slots()
            owners = [0] * self._lanes.count
            for index, slot in enumerate(slots):
                for lane in slot.lanes:
                    owners[lane] = index
            scales = [s.request.guidance_scale if len(s.lanes) == 2 else 1 for s in slots]
            self._members = Membership(
                owners=self._on_device(owners, torch.int64),
                prompts=self._on_device([slot.lanes[0] for slot in slots], torch.int64),
                negatives=self._on_device([slot.lanes[-1] for slot in slots], torch.int64),
                scales=self._on_device(scales, torch.float32)[:, None, None, None],
            )
        return self._members

    def _on_device(self, numbers: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        return to_device(torch.tensor(numbers, dtype=dtype), self._blank.device)

    def _count(self, elapsed_s: float) -> None:
        """Share a forward's time among the lanes in use, and count them."""
        slots = self._slots()
        busy = sum(len(slot.lanes) for slot in slots)
        for slot in slots:
            slot.render_s += elapsed_s * len(slot.lanes) / busy
        self._occupancy.computed += self._lanes.count
        self._occupancy.advanced += busy

    def _finished(self) -> list[Denoised]:
        """Remove the walks that are at their end."""
        finished = []
        for walk, slots in self._walks:
            if walk.finished:
                for slot, latents in zip(slots, torch.split(walk.latents(), 1), strict=True):
                    self._table.release(slot.lanes)
                    finished.append(Denoised(slot.request, latents, slot.render_s))
        if finished:
            self._walks = [entry for entry in self._walks if not entry[0].finished]
            self._members = None
        return finished
