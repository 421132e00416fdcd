"""The RayJob against the schema of KubeRay's own resource definition, unknown fields included."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema in JSON Schema's words, with fields that it does not know refused.

    The API server drops unknown fields in silence, unless `x-kubernetes-preserve-unknown-fields`.
    """
    schema = copy.copy(schema)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    if "properties" in schema:
        schema["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        preserves = schema.get("x-kubernetes-preserve-unknown-fields", False)
        if "additionalProperties" not in schema and not preserves:
            schema["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        schema["items"] = strict(schema["items"])
    return schema


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    return list(yaml.safe_load_all((INFRA / "kuberay-rayjob.yaml").read_text()))


@pytest.fixture(scope="module")
def job(documents) -> dict:
    return next(document for document in documents if document["kind"] == "RayJob")


@pytest.fixture(scope="module")
def schema(job) -> dict:
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        pytest.skip("KUBERAY_CRDS does not name a folder with KubeRay's ray.io_rayjobs.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((Path(folder) / "ray.io_rayjobs.yaml").read_text(), loader)
    group, version = job["apiVersion"].split("/")
    assert definition["spec"]["group"] == group
    (found,) = [v for v in definition["spec"]["versions"] if v["name"] == version]
    whole = found["schema"]["openAPIV3Schema"]
    # What every object has is checked by the API server, and empty in the definition.
    for name in ("metadata", "apiVersion", "kind"):
        whole["properties"][name] = {}
    return strict(whole)


def test_the_job_follows_the_resource_definition(job, schema):
    jsonschema.Draft202012Validator(schema).validate(job)


@pytest.mark.parametrize(
    "path",
    [
        ["spec"],
        ["spec", "rayClusterSpec"],
        ["spec", "rayClusterSpec", "headGroupSpec", "template", "spec"],
        ["spec", "rayClusterSpec", "workerGroupSpecs", 0],
        ["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0],
    ],
)
def test_a_field_that_is_not_known_is_refused(job, schema, path):
    broken = copy.deepcopy(job)
    part = broken
    for step in path:
        part = part[step]
    part["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_the_cluster_goes_when_the_job_is_over(job):
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] <= 3600


def test_the_cluster_asks_for_a_token(job):
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_every_pod_is_bounded_and_has_the_role_and_no_rights_on_its_node(job, documents):
    (account,) = [document for document in documents if document["kind"] == "ServiceAccount"]
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not {"env", "envFrom"} & set(container)


def test_there_are_as_many_workers_as_the_job_file_asks_for(job):
    name = Path(job["spec"]["entrypoint"].split()[2]).name
    workers = yaml.safe_load((INFRA.parent / "jobs" / name).read_text())["workers"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert group["replicas"] * gpus == workers["count"] * workers["gpus"]
