"""Nodes run this very version: one that has another, or none, is refused or gets it sent."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private.utils import check_version_info
from ray.job_submission import JobStatus, JobSubmissionClient

import render_farm
from render_farm.farm.cluster import no_cluster
from render_farm.farm.code_on_nodes import shipped_code, version_refusal
from tests.making.jobs import job_document, write_prompts
from tests.servers.ray_head import Head

HERE = Path(render_farm.__file__).parents[1]
HOST = "127.0.0.2"

# A node's Python knows what Ray sends, and this program only where `other` has it.
SITE = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

class NodesOwn:
    def find_spec(self, name, path=None, target=None):
        if name != "render_farm":
            return None
        sent = [place for place in sys.path if "py_modules_files" in place]
        spec = PathFinder.find_spec(name, [*sent, str(Path(__file__).parent / "other")])
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec

sys.meta_path.insert(0, NodesOwn())
"""


def test_a_worker_of_the_same_version_is_taken():
    assert version_refusal("1.2.3", "1.2.3", "10.0.0.7") is None


@pytest.mark.parametrize(
    ("worker", "told"), [("1.2.4", "1.2.4"), ("1.2.3.dev1", "1.2.3.dev1"), (None, "none")]
)
def test_another_or_none_is_refused_with_node_versions_and_two_ways_out(
    worker: str | None, told: str
):
    refusal = version_refusal("1.2.3", worker, "10.0.0.7")
    assert refusal is not None
    (problem,) = refusal.problems
    assert told in problem.value
    assert "10.0.0.7" in problem.value
    assert problem.allowed.startswith("1.2.3,")
    assert "render_farm==1.2.3" in problem.fix
    assert "--ship-code" in problem.fix


@pytest.mark.parametrize(("their_ray", "their_python"), [("2.59.1", None), (None, "3.10.4")])
def test_a_cluster_of_another_ray_or_python_is_told_with_both(
    their_ray: str | None, their_python: str | None
):
    """By what Ray itself raises, from a head and from a Ray Client server."""
    theirs = (their_ray or ray.__version__, their_python or platform.python_version())
    metadata = {"ray_version": theirs[0], "python_version": theirs[1]}
    with pytest.raises(RuntimeError) as raised:
        check_version_info(metadata, "Ray Client", raise_on_mismatch=True)
    (problem,) = no_cluster("10.0.0.1:6379", raised.value).problems
    assert problem.field == "--address"
    assert f"10.0.0.1:6379, of Ray {theirs[0]} on Python {theirs[1]}" in problem.value
    assert f"Ray {ray.__version__} on Python {platform.python_version()}" in problem.allowed


def test_what_is_sent_is_this_package_without_variables():
    assert shipped_code()["py_modules"] == [str(Path(render_farm.__file__).parent)]
    assert "env_vars" not in shipped_code()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """One whose Python lacks this program."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    head = Head(HOST, {"RAY_AUTH_MODE": "disabled", "PATH": path}, dashboard=True)
    head.environment["PYTHONPATH"] = str(tmp_path / "site")
    with head:
        yield head


def submit(head: Head, folder: Path, *options: str) -> tuple[int, Any]:
    """The exit code of a submit and what it reports; from a folder where Ray finds no code."""
    (folder / "cwd").mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "render_farm", "submit", str(folder / "job.yaml"), "--json"),
            *("--address", head.address, *options),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder / "cwd",
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(HERE)},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def write_job(folder: Path, run: str) -> None:
    prompts = write_prompts(folder / "prompts.parquet", 8)
    (folder / "job.yaml").write_text(yaml.safe_dump(job_document(prompts, folder / run)))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_node_without_this_version_is_refused_before_any_shard_and_gets_it_sent_on_request(
    head: Head, tmp_path: Path
):
    write_job(tmp_path, "run")
    code, told = submit(head, tmp_path)
    assert code == 2, told
    assert told["errors"][0]["field"] == "version of render_farm"
    assert told["errors"][0]["value"] == f"'none, or one too old to tell, on node {HOST}'"

    package = shutil.copytree(
        Path(render_farm.__file__).parent,
        tmp_path / "site" / "other" / "render_farm",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "__init__.py").write_text('__version__ = "0.0.9"\n')
    code, told = submit(head, tmp_path)
    assert code == 2, told
    assert told["errors"][0]["value"] == f"'0.0.9 on node {HOST}'"
    assert not list((tmp_path / "run" / "receipts").glob("*"))

    code, told = submit(head, tmp_path, "--ship-code")
    assert (code, told["rows"]["done"]) == (0, 8)
    shutil.rmtree(package)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_detached_driver_brings_its_code_for_itself_and_its_workers(head: Head, tmp_path: Path):
    write_job(tmp_path, "run")
    code, told = submit(head, tmp_path, "--detach")
    assert code == 2, told
    assert "No module named render_farm" in told["errors"][0]["value"].replace("'", "")
    assert "--ship-code" in told["errors"][0]["fix"]

    code, told = submit(head, tmp_path, "--detach", "--ship-code")
    assert code == 0, told
    jobs = JobSubmissionClient(head.dashboard)
    deadline = time.monotonic() + 240
    while not jobs.get_job_status(told["job"]).is_terminal():
        assert time.monotonic() < deadline, jobs.get_job_logs(told["job"])
        time.sleep(0.1)
    log = jobs.get_job_logs(told["job"])
    assert jobs.get_job_status(told["job"]) == JobStatus.SUCCEEDED, log
    assert "8 done, of 8" in log
    assert not (jobs.get_job_info(told["job"]).runtime_env or {}).get("env_vars")


@pytest.mark.parametrize("place", [("--local",), (), ("--address", "local")])
def test_code_is_sent_to_a_cluster_only(place: tuple[str, ...], tmp_path: Path):
    write_job(tmp_path, "run")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "render_farm", "submit", str(tmp_path / "job.yaml")),
            *("--ship-code", "--json", *place),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["errors"][0]["field"] == "--ship-code"
