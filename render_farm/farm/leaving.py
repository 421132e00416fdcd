"""Which workers take no more shards and end when their hands are empty. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Set

from render_farm.farm.blame import Blame


class Leaving:
    """Workers that fail too often, those on nodes that are left out, those on nodes that drain.

    A node that drains never comes back; one that is left out may be forgiven, see `Blame`.
    """

    def __init__(self, blame: Blame) -> None:
        self._blame = blame
        self._workers: set[str] = set()
        self._draining: set[str] = set()

    def sends(self, worker: str) -> None:
        """The worker is to go."""
        self._workers.add(worker)

    def drains(self, nodes: Set[str]) -> None:
        """These nodes will go, and their workers with them."""
        self._draining |= nodes

    def gone(self, worker: str) -> None:
        """The worker is no more."""
        self._workers.discard(worker)

    def goes(self, worker: str) -> bool:
        """Whether the worker is to end when its hands are empty."""
        return (
            worker in self._workers
            or self._blame.is_left_out(worker)
            or self._blame.node_of(worker) in self._draining
        )
