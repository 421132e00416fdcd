"""The sampler that a measured worker renders with; Ray's actors find it by its name."""

from __future__ import annotations

import re

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Sampler
from render_farm.engine.stand_in import StandInSampler
from render_farm.farm.messages import WorkerOptions
from render_farm.job.spec import ONLY_MODEL
from render_farm.ledger.record import RunRecord

STAND_IN = re.compile(r"stand-in/(?P<sleep_ms>[0-9.e+-]+)ms")


def build_measured(record: RunRecord, options: WorkerOptions) -> Sampler:
    """A stand-in where the job's `model.path` names one, else the rehearsal engine."""
    del options
    found = STAND_IN.fullmatch(record.pinned[ONLY_MODEL].path)
    return StandInSampler(float(found["sleep_ms"]) / 1000) if found else RehearsalSampler()
