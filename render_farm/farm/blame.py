"""Whom failures are held against: a worker, its node, or the run. No clock, no I/O.

A shard that is closed forgives the worker that closed it and that worker's node.
"""

from __future__ import annotations

LOSSES_PER_WORKER = 3
FAILURES_OF_WORKER = 2
FAILURES_OF_NODE = 3
FAILURES_ALL_ALIKE = 8

Reason = tuple[str, str]
"""Why the run stops, and the fix."""


class Blame:
    """Counts failures in a row of workers, nodes and all.

    A node has failed three times when three different shards, or starts of workers, failed on it:
    one shard that fails everywhere says nothing of a node. Only while another node has a worker is
    one left out; where there is just one, the run stops in the end.
    """

    def __init__(self, workers: int, attempts: int) -> None:
        self.left_out: set[str] = set()
        self._most_losses = LOSSES_PER_WORKER * max(workers, attempts, 2)
        self._losses = 0
        self._of_worker: dict[str, int] = {}
        self._of_node: dict[str, set[str]] = {}
        self._node_of: dict[str, str] = {}
        self._alike: tuple[str, int] = ("", 0)

    def placed(self, worker: str, node: str) -> None:
        """The worker's process runs on this node."""
        self._node_of[worker] = node
        # The more there are the more may be lost at once; a cluster that grows has more.
        self._most_losses = max(self._most_losses, LOSSES_PER_WORKER * len(self._node_of))

    def node_of(self, worker: str) -> str:
        """Where the worker runs; a worker that nobody placed is on a node of its own."""
        return self._node_of.get(worker, worker)

    def gone(self, worker: str) -> None:
        """The worker is no more."""
        self._node_of.pop(worker, None)
        self._of_worker.pop(worker, None)

    def forgive(self, worker: str) -> None:
        """The worker has closed a shard."""
        self._losses = 0
        self._alike = ("", 0)
        self._of_worker.pop(worker, None)
        self._of_node.pop(self._node_of.get(worker, ""), None)

    def is_left_out(self, worker: str) -> bool:
        """Whether the worker's node is left out."""
        return self._node_of.get(worker) in self.left_out

    def take_back(self) -> bool:
        """Forgive all nodes if no worker is on another one; whether there was one to forgive."""
        if not self.left_out or set(self._node_of.values()) - self.left_out:
            return False
        self.left_out.clear()
        self._of_node.clear()
        return True

    def against_worker(self, worker: str) -> bool:
        """Hold a failed shard against a worker; whether it is to be replaced."""
        self._of_worker[worker] = self._of_worker.get(worker, 0) + 1
        return self._of_worker[worker] >= FAILURES_OF_WORKER

    def against_node(self, worker: str, what: str) -> str | None:
        """Hold the failure of `what` against a worker's node; the node, if it is now left out."""
        node = self._node_of.get(worker)
        if node is None:
            return None
        failed = self._of_node.setdefault(node, set())
        failed.add(what)
        return self._leave_out(node) if len(failed) >= FAILURES_OF_NODE else None

    def refused(self, worker: str) -> str | None:
        """A worker cannot start on its node; the node, if it is now left out."""
        node = self._node_of.get(worker)
        return self._leave_out(node) if node is not None else None

    def lost(self) -> Reason | None:
        """A worker's process ended; a reason to stop if that is all that happens."""
        self._losses += 1
        if self._losses < self._most_losses:
            return None
        return (
            f"{self._losses} workers ended one after another without finishing a shard",
            "Look into the workers' logs; then resume.",
        )

    def alike(self, error_type: str, error: str) -> Reason | None:
        """An attempt failed; a reason to stop if all of them fail alike."""
        last, count = self._alike
        self._alike = (error_type, count + 1 if error_type == last else 1)
        if self._alike[1] < max(FAILURES_ALL_ALIKE, self._most_losses):
            return None
        return (
            f"{self._alike[1]} attempts failed one after another with {error_type}: {error}",
            "Look into that error; then resume.",
        )

    def _leave_out(self, node: str) -> str | None:
        others = set(self._node_of.values()) - self.left_out - {node}
        if node in self.left_out or not others:
            return None
        self.left_out.add(node)
        return node
