"""How far a run is, as the driver sees it; who draws it is not this room's business."""

from __future__ import annotations

from dataclasses import dataclass, replace

from render_farm.ledger.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows decided of those planned, and what this invocation has done.

    `started_s` is when the first worker was ready, None before: starting workers is no rendering.
    """

    planned_rows: int
    started_s: float | None = None
    decided_rows: int = 0
    quarantined_rows: int = 0
    decided_here: int = 0
    samples_rendered: int = 0
    workers: int = 0

    def closed_before(self, receipt: Receipt) -> Progress:
        """With a shard that an earlier invocation closed."""
        return replace(
            self,
            decided_rows=self.decided_rows + receipt.rows,
            quarantined_rows=self.quarantined_rows + receipt.counts.quarantined,
        )

    def closed(self, receipt: Receipt) -> Progress:
        """With a shard that was closed now."""
        return replace(self.closed_before(receipt), decided_here=self.decided_here + receipt.rows)

    def rendered(self, samples: int) -> Progress:
        """With what an attempt has rendered, be it the one that closed its shard or not."""
        return replace(self, samples_rendered=self.samples_rendered + samples)

    def with_workers(self, workers: int, now_s: float) -> Progress:
        """With so many workers ready."""
        started_s = now_s if workers and self.started_s is None else self.started_s
        return replace(self, workers=workers, started_s=started_s)

    def rows_per_s(self, now_s: float) -> float | None:
        """Rows decided a second since the start; None before the first."""
        if self.started_s is None:
            return None
        elapsed = now_s - self.started_s
        return self.decided_here / elapsed if self.decided_here and elapsed > 0 else None

    def eta_s(self, now_s: float) -> float | None:
        """Seconds to the end at this rate; None while there is none."""
        rate = self.rows_per_s(now_s)
        return (self.planned_rows - self.decided_rows) / rate if rate else None
