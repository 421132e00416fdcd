"""Prompt datasets and jobs, small and explicit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.job.load import parse_job
from render_farm.job.spec import JobSpec


def write_prompts(path: Path, rows: int = 20, row_group: int = 8, **columns: Any) -> Path:
    """A Parquet file of `rows` prompts with ids; `columns` replace or add columns."""
    table = {
        "id": [f"row-{index}" for index in range(rows)],
        "prompt": [f"a picture of number {index}" for index in range(rows)],
        "label": [index % 3 for index in range(rows)],
    }
    table |= columns
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=row_group)
    return path


def job_document(prompts: str | Path, output: str | Path, /, **sections: Any) -> dict[str, Any]:
    """A rehearsal job; `sections` are merged into it key by key (`layout` into output).

    With `models` it has no `model`.
    """
    document: dict[str, Any] = {
        "name": "test",
        "prompts": {"path": str(prompts)},
        "model": {"path": "none", "engine": "rehearsal"},
        "defaults": {"width": 64, "height": 64, "steps": 4},
        "output": {"uri": str(output)},
        "shards": {"rows": 4},
        "workers": {"count": 2, "batch_size": 4},
    }
    document["output"] |= sections.pop("layout", {})
    if "models" in sections:
        del document["model"]
    for name, values in sections.items():
        if isinstance(values, dict):
            document[name] = {**document.get(name, {}), **values}
        else:
            document[name] = values
    return document


def make_job(prompts: str | Path, output: str | Path, /, **sections: Any) -> JobSpec:
    """`job_document`, checked."""
    return parse_job(job_document(prompts, output, **sections))
