"""Everything that `make bench` measures: by name, each a function of how much is to be done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.ceph.one_host import CephServer
from jobs.scenes.prompts import prompt_table
from render_farm.farm.bench.apart import measure_apart
from render_farm.farm.bench.options import FarmOptions
from render_farm.farm.bench.workload import write_prompts
from tests.bench.rivals.case import Case

ROOT = Path(__file__).parent.parent.parent
MODEL = str(ROOT / "jobs" / "scenes" / "model")
CHILD_S = 1500

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Scale:
    """How much is measured: rows of each kind of run, and how often it is repeated."""

    few_rows: int
    some_rows: int
    many_rows: int
    shard_rows: int
    rounds: int
    duty_rows: int
    demo_rows: int
    demo_rounds: int
    elastic_rows: int


FULL = Scale(10_000, 100_000, 1_000_000, 500, 3, 3072, 256, 3, 6400)
SMALL = Scale(2_000, 6_000, 12_000, 50, 1, 256, 64, 1, 1600)

CONTENDERS = (
    ("bare_engine", 1, 1),
    ("farm", 1, 1),
    ("plain_loop", 1, 1),
    ("ray_data", 1, 1),
    ("accelerate_split", 1, 1),
    ("bare_engine", 1, 2),
    ("farm", 1, 2),
    ("plain_loop", 1, 2),
    ("farm", 2, 1),
    ("ray_data", 2, 1),
    ("accelerate_split", 2, 1),
)
"""Who renders with the demo model: name, processes, torch threads of each."""

Result = dict[str, Any]
Measurement = Callable[[Scale], Result]


def farm(rows: int, **options: Any) -> Result:
    """`render-farm bench farm --json`."""
    return measure_apart(FarmOptions(rows=rows, **options), lambda progress: None).as_json()


def curve(scale: Scale, store: str | None = None) -> Result:
    """Few rows, some and many, by turns, in shards of one size."""
    rows = (scale.few_rows, scale.some_rows, scale.many_rows)
    turns = [each for _ in range(scale.rounds) for each in rows]
    return {"farm": [farm(each, shard_rows=scale.shard_rows, store=store) for each in turns]}


def contest(scale: Scale, store: str | None = None) -> Result:
    """The farm with two containers and Ray Data in two ways, by turns."""
    ways = {"ray_data": False, "ray_data_by_block": True}
    found: Result = {name: [] for name in ("parquet", "webdataset", *ways)}
    rows_a_file = min(1000, scale.shard_rows * 2)
    how = {"shard_rows": rows_a_file, "store": store}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        prompts = Path(folder) / "prompts.parquet"
        write_prompts(prompts, scale.some_rows)
        for turn in range(scale.rounds):
            found["parquet"].append(farm(scale.some_rows, **how))
            found["webdataset"].append(farm(scale.some_rows, container="webdataset", **how))
            for way, by_block in ways.items():
                case = Case(
                    prompts=str(prompts),
                    output=f"{store or folder}/{way}-{turn}",
                    marks=made(Path(folder) / f"{way}-{turn}-marks"),
                    rows=scale.some_rows,
                    rows_a_file=rows_a_file,
                    by_block=by_block,
                )
                found[way].append(rival("ray_data", case))
    return {"rows": scale.some_rows} | found


def on_ceph(measure: Callable[[Scale, str], Result]) -> Measurement:
    """The same to a real S3 store."""

    def measured(scale: Scale) -> Result:
        with ceph() as store:
            return measure(scale, store)

    return measured


def of_many(measure: Measurement) -> Measurement:
    """A contest of as many rows as there are, once."""
    return lambda scale: measure(replace(scale, some_rows=scale.many_rows, rounds=1))


def resume(scale: Scale) -> Result:
    """A half-done run is gone on with by another process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        arguments = (folder, str(scale.many_rows))
        child("tests.bench.half", *arguments)
        return {"rows": scale.many_rows} | child("tests.bench.half", *arguments, "--resume")


def duty(scale: Scale) -> Result:
    """A stand-in accelerator of 30 ms a step."""
    how = {"sleep_ms": 30, "width": 512, "height": 512, "image": "jpeg"}
    return {
        "20 steps": farm(scale.duty_rows, steps=20, **how),
        "4 steps": farm(scale.duty_rows * 2, steps=4, **how),
    }


def demo(scale: Scale) -> Result:
    """The demo model: the bare engine, the farm and every rival, by turns."""
    found: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        case = demo_case(Path(folder), scale.demo_rows)
        for turn in range(scale.demo_rounds):
            for who, processes, threads in CONTENDERS:
                label = contender_label(who, processes, threads)
                place = f"{label.replace(', ', '-')}-{turn}"
                its = fresh(case, place, processes=processes, threads=threads)
                found.setdefault(label, []).append(contend(who, its))
    return {"rows": scale.demo_rows, "images_per_s": _rates(found)}


def contender_label(who: str, processes: int, threads: int) -> str:
    """As results name it: processes of so many torch threads each."""
    threaded = f", {threads} threads" if threads > 1 else ""
    return f"{who}, {processes} process{'es' * (processes > 1)}{threaded}"


def elastic(scale: Scale) -> Result:
    """Three raylets, one late and one killed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return child("tests.bench.elastic", folder, str(scale.elastic_rows))


MEASUREMENTS: Mapping[str, Measurement] = {
    "duty": duty,
    "curve": curve,
    "curve-ceph": on_ceph(curve),
    "contest": contest,
    "contest-ceph": on_ceph(contest),
    "contest-many": of_many(contest),
    "contest-many-ceph": of_many(on_ceph(contest)),
    "demo": demo,
    "elastic": elastic,
    "resume": resume,
}


def demo_case(folder: Path, rows: int) -> Case:
    """Prompts of the demo's world, of one batch size and encoder for everybody."""
    prompts = folder / "scenes.parquet"
    table = prompt_table(rows, 0, from_held_out=False)
    pq.write_table(table.append_column("seed", pa.array(range(rows))), prompts)
    return Case(
        prompts=str(prompts),
        output=str(folder),
        marks=str(folder),
        rows=rows,
        prompt_column="caption",
        model=MODEL,
        guidance_scale=3.0,
        processes=1,
        rows_a_file=32,
    )


def fresh(case: Case, name: str, **changes: Any) -> Case:
    """The case with a place of its own."""
    folder = Path(case.prompts).parent
    marks = made(folder / f"{name}-marks")
    return replace(case, output=str(folder / name), marks=marks, **changes)


def made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def contend(who: str, case: Case) -> Result:
    """The answer of one of `CONTENDERS`."""
    if who == "farm":
        return child("tests.bench.farm_demo", case.as_argument())
    return rival(who, case)


def rival(name: str, case: Case) -> Result:
    """A rival's answer; several processes of a script are torchrun's to start."""
    module = f"tests.bench.rivals.{name}"
    if name == "accelerate_split" and case.processes > 1:
        launch = ("--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={case.processes}")
        return child("torch.distributed.run", *launch, "-m", module, case.as_argument())
    return child(module, case.as_argument())


def child(module: str, *arguments: str) -> Result:
    """Run a module in a process of its own; its answer is the last JSON object that it prints.

    Ray has been seen to print a line of its own after it.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **one_thread},
        capture_output=True,
        text=True,
        timeout=CHILD_S,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    answer: Result = json.loads(answers[-1])
    return answer


@contextmanager
def ceph() -> Iterator[str]:
    """A fresh S3 store on this machine, to which the environment leads meanwhile."""
    with CephServer() as server:
        before = dict(os.environ)
        os.environ.update(server.environment())
        try:
            yield f"s3://{server.make_bucket('bench')}"
        finally:
            os.environ.clear()
            os.environ.update(before)


def _rates(found: Mapping[str, list[Result]]) -> dict[str, list[float]]:
    return {name: [each["images_per_s"] for each in answers] for name, answers in found.items()}
