"""What the policies grant, and what no one of them may."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"
POLICIES = sorted(path.name for path in INFRA.glob("iam-*.json"))
ARN = re.compile(r"arn:aws:(s3:::[a-z0-9.-]+(/\S+)?|(ec2:[a-z0-9-]+|iam:):\d{12}:\S+)")
RUN = "arn:aws:s3:::renders/sd15-million/"
NEVER_DELETED = ("receipts/000042.json", "run.json", "manifest.json", "cancel.json")
ATTEMPTS = ("data/000042-ab.tar", "data/000042-ab/000000000_00.png", "rejected/000042-ab.parquet")


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def statements(name: str) -> list[dict]:
    return json.loads((INFRA / name).read_text())["Statement"]


def allowed(name: str, action: str, resource: str) -> bool:
    """Whether the policy lets an unconditional request through, as IAM decides it."""
    verdicts = {
        statement["Effect"]
        for statement in statements(name)
        if any(fnmatch.fnmatchcase(action, pattern) for pattern in listed(statement["Action"]))
        if any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
    }
    return verdicts == {"Allow"}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_has_the_shape_of_one(name):
    policy = json.loads((INFRA / name).read_text())
    assert set(policy) == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    names = [statement["Sid"] for statement in policy["Statement"]]
    assert len(names) == len(set(names))
    for statement in policy["Statement"]:
        assert set(statement) - {"Condition"} == {"Sid", "Effect", "Action", "Resource"}
        assert re.fullmatch(r"[A-Za-z0-9]+", statement["Sid"])
        assert statement["Effect"] in {"Allow", "Deny"}
        for action in listed(statement["Action"]):
            assert re.fullmatch(r"(s3|ec2|iam):[A-Za-z]+", action)
        for resource in listed(statement["Resource"]):
            assert ARN.fullmatch(resource) or (resource == "*" and name == "iam-head-policy.json")


@pytest.mark.parametrize("name", ["iam-worker-policy.json", "iam-sweeper-policy.json"])
def test_listing_is_bound_to_prefixes(name):
    for statement in statements(name):
        if "s3:ListBucket" in listed(statement["Action"]):
            (condition,) = statement["Condition"].items()
            assert condition[0] in {"StringLike", "StringLikeIfExists"}
            prefixes = condition[1]["s3:prefix"]
            assert prefixes
            assert not {"", "*"} & set(prefixes)


@pytest.mark.parametrize("name", ["iam-worker-policy.json", "iam-sweeper-policy.json"])
def test_a_key_that_is_not_there_may_be_told_from_one_that_is_denied(name):
    """S3 asks for s3:ListBucket then, and the request for one key has no prefix."""
    (run,) = [item for item in statements(name) if item["Sid"] == "ListRun"]
    assert list(run["Condition"]) == ["StringLikeIfExists"]


@pytest.mark.parametrize("run", [RUN, RUN + "retries/001/"])
@pytest.mark.parametrize("name", ["iam-worker-policy.json", "iam-sweeper-policy.json"])
def test_an_attempts_objects_can_be_deleted_and_what_decides_cannot(name, run):
    assert all(allowed(name, "s3:DeleteObject", run + key) for key in ATTEMPTS)
    assert not any(allowed(name, "s3:DeleteObject", run + key) for key in NEVER_DELETED)
    assert not allowed(name, "s3:DeleteObject", "arn:aws:s3:::renders/other/data/000042-ab.tar")


def test_a_worker_writes_its_run_and_reads_its_inputs():
    worker = "iam-worker-policy.json"
    for action in ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"):
        assert all(allowed(worker, action, RUN + key) for key in ATTEMPTS)
        assert not allowed(worker, action, "arn:aws:s3:::renders/other/data/000042-ab.tar")
    assert allowed(worker, "s3:GetObject", "arn:aws:s3:::datasets/prompts/a.parquet")
    assert not allowed(worker, "s3:PutObject", "arn:aws:s3:::datasets/prompts/a.parquet")
    assert not allowed(worker, "s3:PutObject", "arn:aws:s3:::models/a.safetensors")
    assert allowed(worker, "s3:DeleteObject", RUN + "driver/probe/x")
    assert allowed(worker, "s3:DeleteObject", RUN + "driver/attempts/000042.json")


@pytest.mark.parametrize("run", [RUN, RUN + "retries/001/"])
def test_a_worker_can_only_create_what_decides(run):
    (deny,) = [item for item in statements("iam-worker-policy.json") if item["Effect"] == "Deny"]
    assert deny["Condition"] == {"Null": {"s3:if-none-match": "true"}}
    for key in ("receipts/000042.json", "run.json", "cancel.json"):
        assert not allowed("iam-worker-policy.json", "s3:PutObject", run + key)
    assert allowed("iam-worker-policy.json", "s3:PutObject", run + "manifest.json")


def test_the_head_passes_the_workers_role_only():
    passed = [s for s in statements("iam-head-policy.json") if s["Action"] == "iam:PassRole"]
    assert [s["Resource"] for s in passed] == ["arn:aws:iam::111122223333:role/render-farm-worker"]
    assert passed[0]["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    for statement in statements("iam-head-policy.json"):
        if statement["Resource"] == "*":
            describes = all("Describe" in action for action in listed(statement["Action"]))
            assert describes or "aws:RequestedRegion" in statement["Condition"]["StringEquals"]
