"""Rehearsal jobs whose prompts and run lie in a bucket, driven by the real command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from render_farm.ledger.receipt import closed_shards
from render_farm.store.open import open_store
from tests.end_to_end.farm import Running
from tests.making.jobs import job_document, write_prompts
from tests.set_checker import SetVerdict, bucket_blobs, check_set

SHARD_ROWS = 2
SHARDS_MAX = 10_000


@dataclass(frozen=True)
class Rehearsal:
    """A job of many small shards. What looks at the store goes the way of the environment now."""

    bucket: str
    folder: Path
    prompts: tuple[Path, ...]

    @property
    def run(self) -> str:
        return f"s3://{self.bucket}/run"

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "driver.log"

    @contextmanager
    def rendering(self, *command: object, local: bool = True) -> Iterator[Running]:
        """Render in the background, in the driver's own process or with two Ray workers."""
        where = ("--local",) if local else ()
        running = Running(self.log, *(command or ("submit", self.job)), *where)
        try:
            yield running
        finally:
            if running.process.poll() is None:
                running.kill()

    def check(self) -> SetVerdict:
        """Hold the bytes in the store against the prompts."""
        blobs = bucket_blobs(self.bucket, "run")
        return check_set(self.prompts, blobs, shard_rows=SHARD_ROWS)

    def receipts_counter(self) -> Callable[[], int]:
        """Counts the receipts, by the way on which the store is reached now."""
        store = open_store(self.run)
        list(store.list("receipts/"))
        return lambda: sum(1 for _ in closed_shards(store, SHARDS_MAX))


def make_rehearsal(bucket: str, folder: Path, shards: int, files: int = 2) -> Rehearsal:
    """Put prompts into the bucket and write the job."""
    folder.mkdir(exist_ok=True)
    source = open_store(f"s3://{bucket}/prompts")
    paths = []
    for number in range(files):
        rows = shards // files * SHARD_ROWS
        ids = [f"{number}-{row}" for row in range(rows)]
        paths.append(write_prompts(folder / f"part-{number}.parquet", rows, id=ids))
        source.upload(f"part-{number}.parquet", paths[-1])
    rehearsal = Rehearsal(bucket, folder, tuple(paths))
    document = job_document(f"s3://{bucket}/prompts/", rehearsal.run, shards={"rows": SHARD_ROWS})
    rehearsal.job.write_text(yaml.safe_dump(document))
    return rehearsal


def waits_in(log: str) -> Iterator[dict[str, str]]:
    """The fields of every line of a log that says what is waited for."""
    for line in log.splitlines():
        if " again  operation=" in line:
            fields = line.partition(" again  ")[2].partition(" error=")
            operation, _, rest = fields[0].partition(" key=")
            key, _, numbers = rest.partition(" attempt=")
            attempt, _, wait_s = numbers.partition(" wait_s=")
            yield {
                "operation": operation.removeprefix("operation="),
                "key": key,
                "attempt": attempt,
                "wait_s": wait_s,
                "error": fields[2],
            }
