"""The job files that ship with the project are valid and say what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from render_farm.job.load import load_job

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_job_file_is_valid(path):
    job = load_job(path)
    assert job.output.uri.startswith("s3://")
    assert job.prompts.path.startswith("s3://")


def test_the_million_prompts_are_rendered_with_stable_diffusion_15():
    job = load_job(JOBS / "sd15_million.yaml")
    assert job.model.path == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert (job.model.dtype, job.defaults.width, job.defaults.height) == ("float16", 512, 512)
    assert (job.defaults.steps, job.shards.rows, job.output.container) == (50, 256, "webdataset")


def test_the_labelled_pictures_are_rendered_with_sdxl_into_parquet():
    job = load_job(JOBS / "sdxl_labels.yaml")
    assert (job.defaults.width, job.defaults.height, job.defaults.steps) == (1024, 1024, 30)
    assert (job.output.container, job.output.image) == ("parquet", "webp")
    assert job.prompts.columns["seed"] is None
