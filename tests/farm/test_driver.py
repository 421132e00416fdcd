"""Workers as real Ray actors, and what their ends mean."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from render_farm.errors import InputError
from render_farm.farm import loop
from render_farm.farm.cluster import connect, disconnect
from render_farm.farm.driver import RayPool
from render_farm.farm.loop import DriveEnd
from render_farm.farm.messages import ShardClosed, ShardGivenBack
from render_farm.farm.models import build_pinned
from render_farm.farm.pool import Answered, PoolEvent
from render_farm.farm.sizing import Resources, size_workers
from render_farm.farm.worker import SamplerBuilder
from render_farm.job.spec import WorkersSpec
from render_farm.ledger.receipt import iter_receipts
from render_farm.views.results import shard_metadata
from render_farm.views.status import read_status
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.samplers import (
    build_crashing_once,
    build_cued,
    build_fenced,
    build_stopping_once,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def resources() -> Iterator[Resources]:
    # Workers find this package's test samplers by their module's name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path.cwd()))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        yield connect(None, WorkersSpec(count=2, cpus=1))
        disconnect()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(rows: int = 24, cues: dict[int, str] | None = None, **sections: Any) -> Run:
        texts = [(cues or {}).get(row, f"picture {row}") for row in range(rows)]
        path = write_prompts(tmp_path / "p.parquet", rows, prompt=texts)
        job = make_job(path, tmp_path / "run", **sections)
        return submit(job, model_cache=str(tmp_path))

    return make


class CountingPool(RayPool):
    """Counts the calls to actors and weighs what comes back."""

    def __init__(self, resources: Resources, builder: SamplerBuilder) -> None:
        super().__init__(resources, builder)
        self.assigned = 0
        self.answers: list[int] = []

    def assign(self, worker: str, assignment: Any) -> None:
        self.assigned += 1
        super().assign(worker, assignment)

    def poll(self, timeout_s: float) -> Iterator[PoolEvent]:
        for event in super().poll(timeout_s):
            if isinstance(event, Answered):
                assert isinstance(event.answer, ShardClosed | ShardGivenBack)
                self.answers.append(len(pickle.dumps(event.answer)))
            yield event


def test_two_messages_a_shard_and_none_with_pixels(
    resources: Resources, make_run: Callable[..., Run]
):
    run = make_run(defaults={"width": 512, "height": 512})
    pool = CountingPool(resources, build_cued)
    assert run.driver(pool, workers=2).drive().reason is None
    assert pool.assigned == len(pool.answers)
    # At the end a worker with nothing to do tries what the other has not ended yet.
    assert run.record.plan.shards <= pool.assigned <= run.record.plan.shards + 1
    assert max(pool.answers) < 4096  # a single 512² picture is 786432 bytes
    assert verify_run(run.store, run.record).ok


def assert_one_row_was_quarantined(run: Run, end: DriveEnd) -> None:
    assert end.reason is None
    status = read_status(run.store)
    assert status.errors_by_type == {"process_ended": 1}
    assert (status.rows["done"], status.rows["quarantined"]) == (23, 1)
    assert verify_run(run.store, run.record).ok


def test_a_row_that_kills_its_process_is_found_and_quarantined(
    resources: Resources, make_run: Callable[..., Run]
):
    run = make_run(cues={6: "kill"}, limits={"max_quarantined": 0.5})
    end = run.driver(RayPool(resources, build_cued), workers=2).drive()
    assert_one_row_was_quarantined(run, end)


def test_a_shard_that_fails_in_one_process_is_done_in_another(
    resources: Resources, make_run: Callable[..., Run]
):
    run = make_run(rows=4, cues={2: "crash"})
    end = run.driver(RayPool(resources, build_crashing_once), workers=1).drive()
    assert end.reason is None
    assert verify_run(run.store, run.record).ok


@pytest.fixture
def fence() -> Iterator[Path]:
    """The list of processes of a new control group that may take 1 GB of memory together."""
    for hierarchy, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / hierarchy / f"render-farm-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(1 << 30))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        yield group / "cgroup.procs"
        deadline = time.monotonic() + 60
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        group.rmdir()
        return
    pytest.skip("no control group with a limit of memory can be made here")


def test_a_row_for_which_the_kernel_kills_its_worker_is_found_and_quarantined(
    resources: Resources, make_run: Callable[..., Run], fence: Path, tmp_path: Path
):
    """The host's own out-of-memory killer, in a control group with a limit."""
    (tmp_path / "cgroup").write_text(str(fence))
    run = make_run(cues={6: "devour"}, limits={"max_quarantined": 0.5})
    end = run.driver(RayPool(resources, build_fenced), workers=2).drive()
    assert_one_row_was_quarantined(run, end)


def test_a_row_that_hangs_its_worker_is_found_and_quarantined(
    resources: Resources, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "HOUSEKEEPING_S", 0.5)
    run = make_run(cues={6: "hang"}, limits={"max_quarantined": 0.5, "stalled_after_s": 2})
    end = run.driver(RayPool(resources, build_cued), workers=2).drive()
    assert_one_row_was_quarantined(run, end)


def test_a_worker_whose_process_is_stopped_is_ended_and_its_shard_done_by_another(
    resources: Resources,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """Nothing of it answers any more, and its place in the cluster is needed."""
    monkeypatch.setattr(loop, "HOUSEKEEPING_S", 0.5)
    run = make_run(limits={"stalled_after_s": 2})
    end = run.driver(RayPool(resources, build_stopping_once), workers=2).drive()
    assert end.reason is None
    assert verify_run(run.store, run.record).ok
    stopped = int((tmp_path / "stopped-once").read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(stopped) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(stopped)


def test_workers_that_do_not_see_the_drivers_folder_end_the_run_as_wrong_input(
    resources: Resources, make_run: Callable[..., Run], tmp_path: Path
):
    run = make_run()
    (tmp_path / "elsewhere").mkdir()
    apart = Run(run.store, run.record.model_copy(update={"token": "0" * 32}), run.model_cache)
    with pytest.raises(InputError, match="share"):
        apart.driver(RayPool(resources, build_cued)).drive()
    assert read_status(run.store).rows["done"] == 0


def node(cpus: float, gpus: float = 0.0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


@pytest.mark.parametrize(
    ("workers", "nodes", "expected"),
    [
        ({}, [node(16, 8)], Resources(count=8, cpus=1, gpus=1.0)),
        ({}, [node(4)], Resources(count=4, cpus=1, gpus=0.0)),
        ({"gpus": 0.5}, [node(16, 2)], Resources(count=4, cpus=1, gpus=0.5)),
        ({"gpus": 0.1}, [node(16, 1)], Resources(count=10, cpus=1, gpus=0.1)),
        ({"cpus": 4}, [node(16, 8)], Resources(count=4, cpus=4, gpus=1.0)),
        ({"cpus": 4}, [node(6), node(6)], Resources(count=2, cpus=4, gpus=0.0)),
        ({"count": 3}, [node(16)], Resources(count=3, cpus=1, gpus=0.0)),
    ],
)
def test_workers_are_sized_by_what_each_node_has(
    workers: dict[str, Any], nodes: list[dict[str, float]], expected: Resources
):
    assert size_workers(WorkersSpec(**workers), nodes, growing=False) == expected


def test_workers_that_no_node_can_hold_are_refused_unless_the_cluster_grows():
    needs_gpu = WorkersSpec(gpus=1.0, count=4)
    with pytest.raises(InputError, match="workers"):
        size_workers(needs_gpu, [node(16)], growing=False)
    assert size_workers(needs_gpu, [node(16)], growing=True).count == 4
    with pytest.raises(InputError, match="workers"):
        size_workers(WorkersSpec(cpus=4), [node(1)] * 8, growing=True)


def test_an_address_without_a_cluster_is_wrong_input():
    with pytest.raises(InputError, match="--address"):
        connect("127.0.0.1:1", WorkersSpec())


def test_workers_share_the_rows_of_several_models(tmp_path: Path, resources: Resources):
    names = ("a", "b", "c")
    models = {name: {"path": f"none/{name}", "engine": "rehearsal"} for name in names}
    prompts = write_prompts(tmp_path / "p.parquet", 60, model=[names[n % 3] for n in range(60)])
    run = submit(make_job(prompts, tmp_path / "run", models=models), str(tmp_path))
    end = run.driver(RayPool(resources, build_pinned), workers=2).drive()
    assert end.reason is None
    verdict = verify_run(run.store, run.record)
    assert verdict.ok
    assert verdict.rows["done"] == 60
    tables = [shard_metadata(run.store, receipt) for receipt in iter_receipts(run.store)]
    lines = [line for table in tables if table is not None for line in table.to_pylist()]
    assert sorted(line["row"] for line in lines) == list(range(60))
    assert all(line["model"] == f"none/{names[line['row'] % 3]}" for line in lines)
