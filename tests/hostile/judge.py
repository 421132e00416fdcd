"""What becomes of a spoiled Parquet file: at first submit, and where the whole one was pinned."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa

from render_farm.errors import InputError
from render_farm.job.plan import Plan
from render_farm.job.prompts import PromptDataset, ShardReader, survey
from render_farm.output.layout import CONTAINERS
from render_farm.views.verify import verify_run
from tests.hostile.mutants import mutant
from tests.hostile.parquet_flavours import flavours
from tests.making.jobs import make_job
from tests.making.runs import submit

REFUSED = "refused"
SAME_ROWS = "the same rows"
OTHER_ROWS = "other rows, pinned as they are"
VERDICTS = {REFUSED, SAME_ROWS, OTHER_ROWS}

SHARD_ROWS = 8
MOST_ROWS = 64
"""As many rows of a mutant are rendered; its footer may be right that there are more."""


def judge(seed: int) -> str:
    """The verdict on a mutant; anything but `VERDICTS` is a defect of ours."""
    file = mutant(seed)
    pinned, rows = _original(file.flavour)
    path = Path(pinned.root) / pinned.files[0].path
    whole = path.read_bytes()
    path.write_bytes(file.data)
    try:
        if not _is_refused(pinned):
            return "taken for the file that was pinned"
        verdict = _submitted(path, seed, rows)
    finally:
        path.write_bytes(whole)
    if verdict == OTHER_ROWS and file.in_body and flavours()[file.flavour].checked:
        return "a checksum was not looked at"
    return verdict


def _submitted(path: Path, seed: int, rows: pa.Table) -> str:
    """Submit the file for the first time and, where its rows are others, render them."""
    container = CONTAINERS[seed % len(CONTAINERS)]
    job = make_job(
        path,
        f"memory://mutants/{seed}",
        prompts={"limit": MOST_ROWS},
        shards={"rows": SHARD_ROWS},
        limits={"max_quarantined": 1.0},
        layout={"container": container},
    )
    try:
        dataset = survey(str(path))
        found = _rows(dataset)
        if found is not None and found.equals(rows):
            return SAME_ROWS
        run = submit(job)
    except InputError as error:
        return REFUSED if len(str(error)) < 2500 else f"a message of {len(str(error))} characters"
    if run.record.prompts.dataset() != dataset:
        return "another dataset when it was looked at again"
    end = run.drive()
    verdict = verify_run(run.store, run.record)
    if not verdict.ok:
        return f"not whole: {end.reason} {verdict.findings.problems}"
    return OTHER_ROWS


def _is_refused(pinned: PromptDataset) -> bool:
    reader = ShardReader(pinned)
    try:
        reader.read(next(iter(Plan([pinned.files[0].rows], SHARD_ROWS))))
    except InputError as error:
        return "the file that was pinned" in error.problems[0].allowed
    finally:
        reader.close()
    return False


def _rows(dataset: PromptDataset) -> pa.Table | None:
    """All rows, shard by shard; None if they are too many to be those of the original."""
    plan = Plan([file.rows for file in dataset.files], SHARD_ROWS)
    if plan.rows > MOST_ROWS:
        return None
    reader = ShardReader(dataset)
    table = pa.concat_tables([reader.read(shard) for shard in plan])
    reader.close()
    return table


@cache
def _original(flavour: str) -> tuple[PromptDataset, pa.Table]:
    """The whole file in a folder of its own, as it was pinned, and its rows."""
    folder = tempfile.mkdtemp(prefix="mutants-")
    path = Path(folder) / "prompts.parquet"
    path.write_bytes(flavours()[flavour].data)
    pinned = survey(str(path))
    rows = _rows(pinned)
    assert rows is not None
    return pinned, rows
