"""What `verify` needs of memory is that of a few shards, however many there are."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

FEW, MANY = 20, 200  # shards
SHARD_ROWS = 4
GROWTH = 1.15
CARRIED_CHARACTERS = 32 << 10
"""A row's label. All of the many shards together are 25 MB of it, in every file that has it:
memory that held on to shards would show."""

PROGRAM = """
import sys
from render_farm.memory import peak_memory_bytes
"""

VERIFY = (
    PROGRAM
    + """
from render_farm.cli.main import main

try:
    main()
finally:
    print("peak", peak_memory_bytes() // 1024, file=sys.stderr)
"""
)

STRAYS = (
    PROGRAM
    + """
from datetime import UTC, datetime
from types import SimpleNamespace
from render_farm.store.base import ObjectInfo
from render_farm.views.findings import Findings
from render_farm.views.strays import check_strays

class Strangers:
    def list(self, prefix):
        for number in range(int(sys.argv[1])):
            yield ObjectInfo(f"{prefix}left-here-{number}", 1, datetime.now(UTC))

findings = Findings()
check_strays(Strangers(), SimpleNamespace(plan=SimpleNamespace(shards=1)), findings)
print(findings.unexpected)
print("peak", peak_memory_bytes() // 1024, file=sys.stderr)
"""
)


def measured(program: str, *arguments: object) -> tuple[str, int, float]:
    """Output, exit status and peak memory in MB of a process of its own."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = done.stderr.splitlines()
    peaks = [line.split()[1] for line in said if line.startswith("peak ")]
    assert peaks, done.stderr
    return done.stdout, done.returncode, int(peaks[0]) / 1024


@pytest.fixture(scope="module", params=["webdataset", "parquet"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of few shards and one of many, alike in all else; every eighth row is quarantined."""
    folder = tmp_path_factory.mktemp(f"memory-{request.param}")
    return [made_run(folder / str(shards), shards, request.param) for shards in (FEW, MANY)]


def made_run(folder: Path, shards: int, container: str) -> Path:
    rows = shards * SHARD_ROWS
    chance = random.Random(shards)
    prompts = write_prompts(
        folder / "prompts.parquet",
        rows,
        row_group=64,
        label=[chance.randbytes(CARRIED_CHARACTERS // 2).hex() for _ in range(rows)],
        guidance_scale=[-1.0 if row % 8 == 7 else 7.5 for row in range(rows)],
    )
    # Rendered in memory and written out once: a folder's fsyncs would be most of the test's time.
    job = make_job(
        prompts,
        f"memory://memory-{container}-{shards}/run",
        output={"container": container},
        shards={"rows": SHARD_ROWS},
        defaults={"width": 16, "height": 16},
        limits={"max_quarantined": 1.0},
    )
    run = submit(job)
    assert run.drive().reason is None
    for info in list(run.store.list("")):
        path = folder / "run" / info.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(run.store.get(info.key))
        run.store.delete(info.key)
    return folder / "run"


def verify(run: Path) -> tuple[dict, int, float]:
    out, status, peak = measured(VERIFY, "verify", run, "--with-retries", "--json")
    return json.loads(out), status, peak


def test_ten_times_the_shards_need_no_more_memory_whole_or_corrupt(
    runs: list[Path], figure: Callable[[str, object], None]
) -> None:
    few, many = runs
    container = "webdataset" if list(few.glob("data/*.tar")) else "parquet"
    _, status, least = verify(few)
    assert status == 0
    told, status, whole = verify(many)
    assert (status, told["samples"]) == (0, MANY * SHARD_ROWS * 7 // 8)
    for number, path in enumerate(sorted([*many.glob("data/*"), *many.glob("rejected/*")])):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data if number % 2 else data[: len(data) // 2])
    told, status, corrupt = verify(many)
    assert status == 1
    assert told["corrupt"] >= MANY
    assert len(told["problems"]) == 100
    figure(
        f"verify, peak memory of {MANY} shards : of {FEW} ({container})",
        f"{whole / least:.3f} whole, {corrupt / least:.3f} all corrupt (of {least:.0f} MB)",
    )
    assert whole <= GROWTH * least
    assert corrupt <= GROWTH * least


def test_a_hundred_times_the_strangers_need_no_more_memory(
    figure: Callable[[str, object], None],
) -> None:
    (_, _, few), (told, _, many) = measured(STRAYS, 2_000), measured(STRAYS, 200_000)
    assert told == "600000\n"
    figure("verify, peak memory of 200,000 strangers : of 2,000", f"{many / few:.3f}")
    assert many <= GROWTH * few
