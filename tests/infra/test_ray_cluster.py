"""The cluster file for EC2 against the launcher's own schema, and what the schema cannot say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((INFRA / "ray-cluster-aws.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> dict:
    (ray_folder,) = importlib.util.find_spec("ray").submodule_search_locations
    return json.loads((Path(ray_folder) / "autoscaler" / "ray-schema.json").read_text())


def test_the_cluster_file_follows_rays_schema(cluster, schema):
    jsonschema.Draft7Validator(schema).validate(cluster)


def test_the_schema_refuses_a_misspelled_key(cluster, schema):
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        jsonschema.Draft7Validator(schema).validate({**cluster, "idle_timeout_minute": 1})


def test_the_groups_fit_the_cluster(cluster):
    nodes = dict(cluster["available_node_types"])
    nodes.pop(cluster["head_node_type"])
    assert cluster["max_workers"] == sum(node["max_workers"] for node in nodes.values())
    for node in nodes.values():
        assert node["min_workers"] <= node["max_workers"]
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_nodes_have_roles_and_groups_of_their_own(cluster):
    for node in cluster["available_node_types"].values():
        config = node["node_config"]
        assert config["SecurityGroupIds"]  # else Ray makes one with SSH open to the world
        assert config["IamInstanceProfile"]  # else Ray makes one for all of EC2 and S3
        assert config["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    profiles = {
        name: node["node_config"]["IamInstanceProfile"]["Name"]
        for name, node in cluster["available_node_types"].items()
    }
    head = profiles.pop(cluster["head_node_type"])
    assert head not in profiles.values()


def test_the_dashboard_is_on_loopback_and_every_start_asks_for_the_token(cluster):
    head = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in line for line in commands if "ray start" in line)
