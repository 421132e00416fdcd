"""The demo model's job on the same task as the rivals."""

from __future__ import annotations

from typing import Any

from tests.bench.rivals.case import Case


def demo_job(case: Case) -> dict[str, Any]:
    """The document of a job that renders what `case` says, with its batch size and encoder."""
    return {
        "name": "bench demo",
        "prompts": {"path": case.prompts, "columns": {"prompt": case.prompt_column, "id": None}},
        "model": {"path": case.model, "compile": False},
        "defaults": {
            "width": case.width,
            "height": case.height,
            "steps": case.steps,
            "guidance_scale": case.guidance_scale,
            "scheduler": "ddim",
        },
        "output": {
            "uri": case.output,
            "container": "parquet",
            "image": case.image,
            "quality": case.quality,
        },
        "shards": {"rows": case.rows_a_file},
        "workers": {
            "count": case.processes,
            "gpus": 0,
            "cpus": case.threads,
            "batch_size": case.batch,
        },
    }
