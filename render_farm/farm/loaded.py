"""A model that is ready to render, and how long that took."""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.engine.several import AnySampler


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """What it took to have a model ready, in seconds.

    `fetch_s` until all of its files were on this node, waiting for another process that fetched
    them included; `digest_s` to hold them against the run; `libraries_s` to import torch and
    diffusers; `load_s` from the files to the device, 0 where several models are loaded later.
    Compiling comes with the first batch.
    """

    fetch_s: float
    digest_s: float
    libraries_s: float
    load_s: float

    @property
    def total_s(self) -> float:
        """From nothing to ready."""
        return self.fetch_s + self.digest_s + self.libraries_s + self.load_s


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A sampler, and what it took to load its model: None where there is no model."""

    sampler: AnySampler
    times: LoadTimes | None
