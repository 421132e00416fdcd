"""Runs of the storm, and the command that drives them: processes of their own, as users start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.making.jobs import job_document, write_prompts

PATIENCE_S = 600.0


@dataclass(frozen=True)
class Farm:
    """Where drivers run: which cluster they join, which bucket they write to, with what said."""

    address: str
    bucket: str
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A job that was written down; `name` is also its prefix in the bucket."""

    name: str
    bucket: str
    job: Path
    prompts: Path
    rows: int
    shard_rows: int
    codes: list[int] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.name}"

    @property
    def key(self) -> str:
        """The run as the witness sees it."""
        return f"{self.bucket}/{self.name}"

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)


def write_run(farm: Farm, name: str, shards: int, shard_rows: int, **sections: Any) -> Run:
    """Write a job of `shards` shards and its prompts.

    Rows that were in flight at one kill and alone at another are quarantined, as they should be,
    and a shard may be hit many times: neither may stop a run of a storm.
    """
    rows = shards * shard_rows
    prompts = write_prompts(farm.folder / f"{name}.parquet", rows=rows, row_group=shard_rows)
    document = job_document(
        prompts,
        f"s3://{farm.bucket}/{name}",
        shards={"rows": shard_rows},
        limits={"attempts": 50, "max_quarantined": 1.0},
        **sections,
    )
    job = farm.folder / f"{name}.yaml"
    job.write_text(yaml.safe_dump(document))
    return Run(name, farm.bucket, job, prompts, rows, shard_rows)


class Driver:
    """`render-farm submit` or `resume` of a run, under way."""

    def __init__(self, farm: Farm, run: Run, *, by_uri: bool = False) -> None:
        self.run = run
        self._log = (
            farm.folder / f"{run.name}-{len(list(farm.folder.glob(f'{run.name}-*.log')))}.log"
        )
        what = ["resume", run.uri] if by_uri else ["submit", str(run.job)]
        command = [sys.executable, "-m", "render_farm", *what, "--address", farm.address, "--json"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=farm.folder,  # where no code lies: `python -m` would prefer it
                env={**os.environ, **farm.environment},
                start_new_session=True,
            )

    @property
    def slots(self) -> str:
        """What the names of its workers begin with."""
        return f"{socket.gethostname()}:{self.process.pid}-"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return f"{self._log.name}: {self._log.read_text(errors='replace')[-3000:]}"
