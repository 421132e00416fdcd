"""What is to be measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from render_farm.errors import InputError

MOST_SHARD_ROWS = 1000
MOST_SHARD_BATCHES = 4
SHARDS_A_WORKER = 20
"""So many where rows are few: the first shard of each worker is not counted."""


@dataclass(frozen=True, slots=True)
class FarmOptions:
    """One run that is measured.

    `sleep_ms` a step is what the stand-in accelerator takes; None: pictures are drawn as fast as
    they can be. `store` is where the run is kept, None: nowhere. `address` is the cluster, None:
    one of our own.
    """

    rows: int
    sleep_ms: float | None = None
    steps: int = 20
    batch: int = 16
    width: int = 64
    height: int = 64
    image: Literal["png", "jpeg"] = "png"
    quality: int = 95
    container: Literal["parquet", "webdataset", "files"] = "parquet"
    workers: int = 2
    shard_rows: int | None = None
    store: str | None = None
    address: str | None = None

    def resolved(self) -> FarmOptions:
        """With every default filled in.

        Raises:
            InputError: there are so few shards that nothing could be counted.
        """
        rows = self.shard_rows or self._usual_shard_rows()
        if -(-self.rows // rows) <= self.workers:
            raise InputError.of(
                "--rows",
                f"{self.rows}, in shards of {rows}",
                f"more than {self.workers} shards: the first of each worker is not counted",
                "ask for more rows, or for a smaller --shard-rows",
            )
        return replace(self, shard_rows=rows)

    def _usual_shard_rows(self) -> int:
        share = -(-self.rows // (SHARDS_A_WORKER * self.workers))
        if self.sleep_ms is None:
            return min(MOST_SHARD_ROWS, share)
        return min(MOST_SHARD_BATCHES * self.batch, max(self.batch, share))

    def job(self, prompts: str, output: str) -> dict[str, Any]:
        """The document of the job that is run."""
        path = "none" if self.sleep_ms is None else stand_in_path(self.sleep_ms)
        return {
            "name": "bench farm",
            "prompts": {"path": prompts},
            "model": {"path": path, "engine": "rehearsal"},
            "defaults": {"width": self.width, "height": self.height, "steps": self.steps},
            "output": {
                "uri": output,
                "container": self.container,
                "image": self.image,
                "quality": self.quality,
            },
            "shards": {"rows": self.shard_rows},
            "workers": {"count": self.workers, "gpus": 0, "batch_size": self.batch},
        }


def stand_in_path(sleep_ms: float) -> str:
    """The `model.path` by which workers know how long a step of the stand-in takes."""
    return f"stand-in/{sleep_ms:g}ms"
