"""The actor around a worker: what runs in the worker's process on a Ray node."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import ray

from render_farm import __version__
from render_farm.errors import DeviceLost, RenderFarmError
from render_farm.farm.messages import Answer, Assignment, WorkerOptions
from render_farm.farm.overlap import OverlappedWorker

log = logging.getLogger(__name__)

DEVICE_LOST_STATUS = 70


class WorkerActor:
    """The actor: an `OverlappedWorker` in a process of its own."""

    def __init__(self, builder: str) -> None:
        self._builder = builder
        self._worker: OverlappedWorker | None = None

    def where(self) -> tuple[str, str]:
        """The node that the process runs on, and the version of this program there.

        Asked first, and answered in plain words: drivers of other versions must understand it.
        """
        return str(ray.get_runtime_context().get_node_id()), __version__

    def open(self, options: WorkerOptions) -> RenderFarmError | float:
        """Open the run: the seconds it took, or the error, if one is the user's to mend."""
        began_s = time.monotonic()
        try:
            self._worker = OverlappedWorker.open(options, _load(self._builder))
        except RenderFarmError as error:
            return error
        gc.freeze()  # what was loaded is no garbage: it need not be looked through time and again
        return time.monotonic() - began_s

    def run(self, assignment: Assignment) -> Answer:
        """Render one shard, beside others. A device in an unknown state ends the process."""
        assert self._worker is not None
        try:
            return self._worker.submit(assignment).result()
        except DeviceLost:
            log.exception("the device is lost, the process ends")
            os._exit(DEVICE_LOST_STATUS)

    def stop(self) -> None:
        """End after the batch in hand; runs beside `run` in a thread of its own."""
        if self._worker is not None:
            self._worker.stop()

    def abandon(self, shard: int, *, unless_begun: bool) -> None:
        """Give a shard back, as `Pool.abandon` says."""
        if self._worker is not None:
            self._worker.abandon(shard, unless_begun=unless_begun)


def _load(builder: str) -> Callable[..., Any]:
    """The sampler builder by its name: the worker's own copy, not one shipped by pickle."""
    module, _, name = builder.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded
