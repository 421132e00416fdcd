"""The policies of `infra/`, put into force on Ceph for users of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.session import get_session

from tests.servers.ceph import CephServer

INFRA = Path(__file__).parents[2] / "infra"
BUCKETS = ("datasets", "models", "renders")
# Ceph 16 does not know the condition and refuses the statement. Its promise, that what decides is
# created only, is kept by `create` alone here.
NOT_KNOWN_TO_CEPH = "s3:if-none-match"

Statement = dict[str, Any]


@dataclass(frozen=True)
class Permission:
    """One action on one resource, and the statement that allows it."""

    statement: str
    action: str
    resource: str

    def __str__(self) -> str:
        return f"{self.action.removeprefix('s3:')} on {self.resource.removeprefix('arn:aws:s3:::')}"


@dataclass(frozen=True)
class User:
    """A user of the server who owns nothing, and what leads the program to it."""

    name: str
    access_key: str
    secret_key: str

    @classmethod
    def create(cls, server: CephServer, name: str, access_key: str, secret_key: str) -> User:
        keys = ("--access-key", access_key, "--secret", secret_key)
        server.admin("user", "create", "--uid", name, "--display-name", name, *keys)
        return cls(name, access_key, secret_key)

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def client(self, server: CephServer) -> Any:
        return s3_client(server, self.access_key, self.secret_key)


def s3_client(server: CephServer, access_key: str, secret_key: str) -> Any:
    return get_session().create_client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )


def statements(name: str) -> list[Statement]:
    """The statements of a file of `infra/` that Ceph can be told."""
    found = json.loads((INFRA / name).read_text())["Statement"]
    return [item for item in found if NOT_KNOWN_TO_CEPH not in json.dumps(item)]


def permissions(name: str) -> Iterator[Permission]:
    """Every single permission of a file."""
    for item in statements(name):
        if item["Effect"] == "Allow":
            for action in listed(item["Action"]):
                for resource in listed(item["Resource"]):
                    yield Permission(item["Sid"], action, resource)


def without(items: list[Statement], taken: Permission) -> list[Statement]:
    """The statements with one permission taken away and everything else left.

    It is denied as well: on Ceph, who wrote an object may read it whatever the bucket allows.
    """
    denied = {"Sid": "Taken", "Effect": "Deny", "Action": taken.action, "Resource": taken.resource}
    return [*(part for item in items for part in _parts_left(item, taken)), denied]


def put_in_force(server: CephServer, suffix: str, by_user: Mapping[User, list[Statement]]) -> None:
    """Give users exactly these statements on the buckets that they name.

    The buckets of the files, ``renders`` and so on, are those with this suffix.
    """
    owner = s3_client(server, server.access_key, server.secret_key)
    for bucket in BUCKETS:
        here = [
            {**part, "Principal": {"AWS": [f"arn:aws:iam:::user/{user.name}"]}}
            for user, items in by_user.items()
            for item in items
            for part in _in_bucket(item, bucket, suffix)
        ]
        name = f"{bucket}{suffix}"
        if here:
            policy = {"Version": "2012-10-17", "Statement": here}
            owner.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
        else:
            owner.delete_bucket_policy(Bucket=name)


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _parts_left(item: Statement, taken: Permission) -> Iterator[Statement]:
    if item["Sid"] != taken.statement:
        yield item
        return
    for action in listed(item["Action"]):
        resources = listed(item["Resource"])
        left = [one for one in resources if (action, one) != (taken.action, taken.resource)]
        if left:
            yield {**item, "Action": action, "Resource": left}


def _in_bucket(item: Statement, bucket: str, suffix: str) -> Iterator[Statement]:
    """The part of a statement that is about one bucket, with the bucket's name of the test."""
    arn = f"arn:aws:s3:::{bucket}"
    here = [one for one in listed(item["Resource"]) if one == arn or one.startswith(f"{arn}/")]
    if here:
        yield {**item, "Resource": [one.replace(arn, arn + suffix, 1) for one in here]}
