"""Several nodes: real raylets on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

QUIET = {
    "PYTHONPATH": str(Path.cwd()),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def found_by(module: str, folder: Path) -> dict[str, Any]:
    """What a module says of the cluster that it has started."""
    ended = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_a_node_on_which_everything_fails_is_left_out_and_the_run_completes(tmp_path: Path):
    # Two shards failed with the first worker, one with its replacement; the next waits for room.
    assert found_by("tests.farm.two_nodes", tmp_path) == {
        "reason": None,
        "whole": True,
        "started": {"well": 1, "sick": 2},
    }


def test_a_node_that_joins_gets_work_and_one_that_drains_is_left_without_losing_a_shard(
    tmp_path: Path, figure: Callable[[str, object], None]
):
    found = found_by("tests.farm.changing_nodes", tmp_path)
    figure("s from a node's joining to its first shard", found["work_after_s"])
    assert (found["reason"], found["whole"], found["lost"]) == (None, True, [])
    assert found["started_before"] == 2  # none for a place that is not there
    assert 0 < found["work_after_s"] < 60
    assert found["drained_in_time"]
    # Three in hand, given back or ended, and what it was given before the driver knew.
    assert found["of_the_drained"] <= 6 < found["answers_after_the_drain"]
