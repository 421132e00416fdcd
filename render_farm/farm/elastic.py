"""A Ray cluster as it changes: room for workers, nodes that drain, what its autoscaler is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import ray
from ray._private.state import state
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from render_farm.farm.sizing import fitting

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Three calls of about a millisecond to the cluster's head."""


@dataclass(frozen=True, slots=True)
class Look:
    """A cluster at one moment: what is free on its living nodes, and which of them will go."""

    free: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    draining: Set[str] = frozenset()


def look_around() -> Look:
    """How the cluster is that this process has joined.

    Raises:
        RayError: its head does not answer.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    alive = {str(node["NodeID"]) for node in nodes if node["Alive"]}
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return Look(
        free={node: free.get(node, {}) for node in alive},
        draining=frozenset(state.get_draining_nodes()) & alive,
    )


class Elastic:
    """Looks at a cluster for a pool whose workers reserve `bundle` each.

    `look`, `ask` and `clock` are Ray's and the system's. What other jobs on the cluster use is not
    free; what the pool's own workers use is not either.
    """

    def __init__(
        self,
        bundle: Mapping[str, float],
        look: Callable[[], Look] = look_around,
        ask: Callable[..., None] = request_resources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle = dict(bundle)
        self._look = look
        self._ask = ask
        self._clock = clock
        self._seen = Look()
        self._next_look_s: float | None = None
        self._told: set[str] = set()
        self._wanted = 0

    def room(self, avoided: Set[str], unplaced: int) -> int:
        """Workers more that fit on nodes not `avoided`, if `unplaced` ones are started already.

        Those may have their place already or not: until that is known they are taken to have none,
        so that none is ever started for a place that is gone. For the same reason this looks anew:
        what was free a second ago may be the place of one that is placed by now.
        """
        self._take_a_look()
        there = sum(
            fitting(free, self._bundle)
            for node, free in self._seen.free.items()
            if node not in avoided and node not in self._seen.draining
        )
        return max(0, there - unplaced)

    def draining(self) -> list[str]:
        """Nodes that will go, each told once."""
        self._refresh()
        news = sorted(self._seen.draining - self._told)
        self._told.update(news)
        return news

    def want(self, workers: int) -> None:
        """Ask the autoscaler for room for so many workers; the running ones are among them.

        Asked for until it is asked for something else, so at last for none. Where there is no
        autoscaler nobody reads it.
        """
        if workers == self._wanted:
            return
        try:
            self._ask(bundles=[self._bundle] * workers)
        except (RayError, RuntimeError) as error:
            log.warning("the autoscaler was not asked", extra={"error": str(error)})
        else:
            self._wanted = workers

    def _refresh(self) -> None:
        if self._next_look_s is None or self._clock() >= self._next_look_s:
            self._take_a_look()

    def _take_a_look(self) -> None:
        self._next_look_s = self._clock() + LOOK_S
        try:
            self._seen = self._look()
        except RayError as error:
            log.warning("the cluster's head does not answer", extra={"error": str(error)})
