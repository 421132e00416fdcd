"""URIs of no kind that we know are refused, and no URL out of data is ever asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from huggingface_hub.utils import httpx

from tests.cli.conftest import Ended
from tests.making.jobs import job_document, write_prompts
from tests.security.tripwire import Tripwire

MODEL = Path("jobs/scenes/model")
UNKNOWN = (
    "http://{host}/a",
    "https://{host}/a",
    "HTTP://{host}/a",
    "ftp://{host}/a",
    "gs://{host}/a",
    "hf://{host}/a",
    "ssh://{host}/a",
    "git+https://{host}/a",
    "gopher://{host}/a",
    "file://{host}/a",
    "abfs://{host}/a",
    "s3+http://{host}/a",
)
FIELDS = ("prompts.path", "model.path", "model.loras", "output.uri")


@pytest.fixture
def tripwire() -> Iterator[Tripwire]:
    with Tripwire() as server:
        yield server


def write_job(folder: Path, model: dict[str, Any], **sections: Any) -> Path:
    prompts = sections.pop("prompts", None) or write_prompts(folder / "p.parquet", 4)
    document = job_document(prompts, folder / "run", model=model, **sections)
    if model.get("engine") != "rehearsal":
        document["model"].pop("engine", None)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def submit(job: Path, tripwire: Tripwire, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process whose every way to another machine ends at the tripwire."""
    return subprocess.run(
        [sys.executable, "-m", "render_farm", "submit", job, "--local", "--json", *arguments],
        env={**os.environ, **tripwire.environment(), "HF_HOME": str(job.parent / "hub")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_whoever_asks_another_machine_trips(tripwire: Tripwire, monkeypatch: pytest.MonkeyPatch):
    for name, value in tripwire.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen("http://example.com/a")
    requests.get("http://example.com/b", timeout=10)
    httpx.get("http://example.com/c")
    with pytest.raises(httpx.HTTPError):
        httpx.get("https://example.com/d")
    asked = [line.split()[:2] for line in tripwire.requests]
    assert [method for method, _ in asked] == ["GET", "GET", "GET", "CONNECT"]


def test_a_model_of_the_hub_trips(tripwire: Tripwire, tmp_path: Path):
    ended = submit(write_job(tmp_path, {"path": "somebody/something"}), tripwire)
    assert ended.returncode == 2, ended.stderr
    assert any("/api/models/somebody/something" in line for line in tripwire.requests)


@pytest.mark.parametrize("field", FIELDS)
def test_a_scheme_that_we_do_not_know_is_refused(
    field: str,
    tripwire: Tripwire,
    tmp_path: Path,
    farm: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in tripwire.environment().items():
        monkeypatch.setenv(name, value)
    section, key = field.split(".")
    before = sorted(tmp_path.iterdir())
    for uri in UNKNOWN:
        there = uri.format(host=tripwire.host)
        job = write_job(tmp_path, {"path": str(MODEL)})
        document = yaml.safe_load(job.read_text())
        document[section][key] = [{"path": there}] if key == "loras" else there
        job.write_text(yaml.safe_dump(document))
        ended = farm("submit", job, "--local", "--json")
        assert ended.code == 2, ended.err
        assert ended.fields == [field]
        (error,) = ended.json["errors"]
        assert "s3://" in error["allowed"]
    assert tripwire.requests == []
    assert not [path for path in tmp_path.iterdir() if path.name not in {"p.parquet", "job.yaml"}]
    assert before == []


def hostile_prompts(path: Path, url: str) -> Path:
    """URLs in every cell, in a column's name, an id, and the file's and the columns' metadata."""
    rows = 4
    columns: dict[str, Any] = {
        "prompt": [f"{url}/prompt.txt"] * rows,
        "negative_prompt": [f"embedding:{url}/negative.pt"] * rows,
        "id": [f"{url}/id/{row}" for row in range(rows)],
        "image": [f"{url}/image.png"] * rows,
        "image_bytes": [f"{url}/raw".encode()] * rows,
        f"{url}/column": [f"{url}/cell"] * rows,
        "nested": [{"bytes": None, "path": f"{url}/nested.png"}] * rows,
        "listed": [[f"{url}/a", f"file://{url[7:]}/b"]] * rows,
    }
    table = pa.table(columns)
    fields = [field.with_metadata({"url": f"{url}/field"}) for field in table.schema]
    features = {"info": {"features": {"image": {"_type": "Image"}}}, "source": f"{url}/hub"}
    metadata = {"url": f"{url}/file", "huggingface": json.dumps(features), "pandas": "{}"}
    pq.write_table(table.cast(pa.schema(fields, metadata)), path)
    return path


def model_that_names(folder: Path, url: str, names: tuple[str, ...]) -> Path:
    """The demo model, each of whose JSON files names the URL under these keys."""
    shutil.copytree(MODEL, folder)
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and path.name not in {"vocab.json", "tokenizer.json"}:
            content |= dict.fromkeys(names, f"{url}/{path.name}")
            path.write_text(json.dumps(content))
    (folder / "README.md").write_text(f"---\nbase_model: {url}/base\n---\n")
    return folder


def test_urls_in_prompts_and_in_a_model_s_files_are_never_asked_for(
    tripwire: Tripwire, tmp_path: Path, farm: Callable[..., Ended], figure: Callable[..., None]
):
    """A model in a local folder asks nobody anything, not even whether there is a newer one."""
    prompts = hostile_prompts(tmp_path / "p.parquet", tripwire.url)
    model = model_that_names(tmp_path / "model", tripwire.url, ("_name_or_path", "source_url"))
    rendering = {"width": 64, "height": 64, "steps": 2, "scheduler": "ddim"}
    job = write_job(tmp_path, {"path": str(model)}, prompts=prompts, defaults=rendering)
    ended = submit(job, tripwire)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["samples"]["rendered"] == 4
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tripwire.environment().items():
            patch.setenv(name, value)
        for command in (["status"], ["verify"], ["sample", "--out", tmp_path / "s.png"]):
            assert farm(command[0], tmp_path / "run", *command[1:]).code == 0
        assert farm("show", tmp_path / "run", "0").code == 0
    assert tripwire.requests == []
    figure("requests to other machines by a run full of URLs", len(tripwire.requests))


def test_a_model_that_would_have_code_or_files_fetched_is_asked_for_neither(
    tripwire: Tripwire, tmp_path: Path
):
    names = (
        "tokenizer_file",
        "vocab_file",
        "pretrained_model_name_or_path",
        "repo_id",
        "subfolder",
    )
    model = model_that_names(tmp_path / "model", tripwire.url, names)
    index = json.loads((model / "model_index.json").read_text())
    index["_diffusers_version"] = tripwire.url
    (model / "model_index.json").write_text(json.dumps(index))
    rendering = {"width": 64, "height": 64, "steps": 2, "scheduler": "ddim"}
    job = write_job(tmp_path, {"path": str(model)}, defaults=rendering)
    ended = submit(job, tripwire)
    assert ended.returncode in {0, 2, 4}, ended.stderr
    assert tripwire.requests == []
