"""The image, and the versions and secrets that all files of the folder have to agree on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

INFRA = Path(__file__).parents[2] / "infra"
DOCKERFILE = (INFRA / "Dockerfile").read_text()
FILES = sorted(path for path in INFRA.iterdir() if path.is_file())
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|-----BEGIN"
    r"|(secret_access_key|access_key_id|auth_token|password|hf_token)['\"]?\s*[:=]\s*['\"]?\w",
    re.IGNORECASE,
)


def instructions(word: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{word} ")]


def test_the_base_image_is_pinned_to_a_full_version():
    (base,) = instructions("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.\d\d", base)


def test_the_image_runs_as_a_user_without_rights():
    user = instructions("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    rayjob = (INFRA / "kuberay-rayjob.yaml").read_text()
    assert f"runAsUser: {user.split(':')[0]}\n" in rayjob


def test_the_image_takes_nothing_but_the_package():
    copied = [word for line in instructions("COPY") for word in line.split()[:-1]]
    assert copied == ["pyproject.toml", "README.md", "LICENSE", "render_farm"]
    ignore = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == set(copied)
    assert "*" in ignore
    assert not instructions("ADD")


def test_models_are_cached_where_the_cluster_mounts_a_disk():
    (folder,) = re.findall(r"HF_HOME=(\S+)", DOCKERFILE)
    assert f"mountPath: {folder}" in (INFRA / "kuberay-rayjob.yaml").read_text()


def test_every_file_means_the_same_ray():
    (image,) = re.findall(r"ARG RAY_VERSION=(\S+)", DOCKERFILE)
    (launched,) = re.findall(r"RAY_VERSION=([\d.]+);", (INFRA / "ray-cluster-aws.yaml").read_text())
    documents = yaml.safe_load_all((INFRA / "kuberay-rayjob.yaml").read_text())
    (job,) = [document for document in documents if document["kind"] == "RayJob"]
    assert image == launched == job["spec"]["rayClusterSpec"]["rayVersion"]
    project = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    (ray,) = [
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "ray"
    ]
    assert image in ray.specifier


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    assert not SECRET.search(path.read_text())


def test_a_secret_would_be_seen():
    for line in ("AKIAABCDEFGHIJKLMNOP", "aws_secret_access_key=abc", 'auth_token: "x"'):
        assert SECRET.search(line)
