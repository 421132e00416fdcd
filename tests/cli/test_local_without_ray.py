"""`--local` and all that looks at runs work where Ray cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, sys
from importlib.abc import MetaPathFinder

class NoRay(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoRay())
from render_farm.cli.main import main
codes = []
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["render-farm", *arguments]
    try:
        main()
    except SystemExit as ended:
        codes.append(ended.code)
print(json.dumps(codes))
"""


def without_ray(*commands: tuple[object, ...]) -> list[int]:
    """The exit codes of commands, one after another in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([[str(word) for word in command] for command in commands]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_without_a_cluster_needs_no_ray_from_plan_to_verify(
    write_job: Callable[..., Path], tmp_path: Path
):
    prompts: list[Any] = [None if row == 5 else f"p{row}" for row in range(12)]
    job = write_job(columns={"prompt": prompts}, limits={"max_quarantined": 1})
    run = tmp_path / "run"
    assert without_ray(
        ("validate", job), ("plan", job, "--probe", 2), ("submit", job, "--local")
    ) == [0, 0, 3]
    (run / "manifest.json").unlink()
    (run / "receipts" / "000002.json").unlink()
    assert without_ray(
        ("resume", run, "--local"),
        ("status", run),
        ("sweep", run),
        ("verify", run, "--replay", 2),
        ("show", run, 3),
        ("sample", run, "--out", tmp_path / "sheet.png"),
        ("retry", run, "--local"),
        ("resume", run),  # complete: there is nothing for a cluster to do
    ) == [3, 0, 0, 0, 0, 0, 3, 3]


def test_without_ray_a_cluster_cannot_be_had(write_job: Callable[..., Path]):
    """Or the test above would show nothing."""
    assert without_ray(("submit", write_job())) == [1]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_needs_none_either(option: str):
    assert without_ray((option,)) == [0]
