"""The policies of `infra/` in force on a real server: enough, and not a permission too many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

from render_farm.farm.messages import ShardClosed
from render_farm.farm.opening import open_run
from render_farm.farm.prepare import prepare
from render_farm.job.load import load_job
from render_farm.ledger.receipt import read_receipt
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store
from render_farm.store.open import open_store
from tests.cli.conftest import Ended
from tests.making.jobs import job_document, write_prompts
from tests.making.stores import FaultyStore, in_turn, meanwhile, render_on
from tests.security.policies import (
    BUCKETS,
    Permission,
    Statement,
    User,
    permissions,
    put_in_force,
    s3_client,
    statements,
    without,
)
from tests.servers.ceph import CephServer

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(300)]

WORKER, SWEEPER = "iam-worker-policy.json", "iam-sweeper-policy.json"
MODEL = Path("jobs/scenes/model")
RUN = "arn:aws:s3:::renders/sd15-million"
TIDIES = "DeleteWhatALostAttemptUploaded"

# What a run cannot do without, and the key of the job file that the refusal names.
NEEDED = {
    Permission(
        "ReadPromptsAndModels", "s3:GetObject", "arn:aws:s3:::datasets/prompts/*"
    ): "prompts.path",
    Permission("ListPrompts", "s3:ListBucket", "arn:aws:s3:::datasets"): "prompts.path",
    Permission("ReadPromptsAndModels", "s3:GetObject", "arn:aws:s3:::models/*"): "model.path",
    Permission("ListModels", "s3:ListBucket", "arn:aws:s3:::models"): "model.path",
    Permission("ListRun", "s3:ListBucket", "arn:aws:s3:::renders"): "output.uri",
    Permission("ReadAndWriteRun", "s3:GetObject", f"{RUN}/*"): "output.uri",
    Permission("ReadAndWriteRun", "s3:PutObject", f"{RUN}/*"): "output.uri",
}
# What it tidies up with: without it a run completes, and something is left for the sweeper.
TIDYING = {
    Permission("ReadAndWriteRun", "s3:AbortMultipartUpload", f"{RUN}/*"),
    *(
        Permission(TIDIES, "s3:DeleteObject", f"{RUN}{part}/{folder}/*")
        for part in ("", "/retries/*")
        for folder in ("data", "rejected", "driver/attempts", "driver/probe")
    ),
}

suffixes = (f"-{number}" for number in count())


@pytest.fixture(scope="module")
def users(ceph: CephServer) -> tuple[User, User]:
    worker, sweeper = (
        User.create(ceph, name, f"{name}-key", f"{name}-secret") for name in ("worker", "sweeper")
    )
    return worker, sweeper


@dataclass
class Ground:
    """Three buckets, two users who own none of them, and a command that runs as one of the two."""

    server: CephServer
    worker: User
    sweeper: User
    farm: Callable[..., Ended]
    become: Callable[[str, str], None]
    folder: Path
    suffix: str = field(default_factory=lambda: next(suffixes))

    def __post_init__(self) -> None:
        for bucket in BUCKETS:
            self.server.make_bucket(bucket + self.suffix)
        self.allow(statements(WORKER))

    @property
    def uri(self) -> str:
        return f"s3://renders{self.suffix}/sd15-million"

    @property
    def owner(self) -> Any:
        return s3_client(self.server, self.server.access_key, self.server.secret_key)

    def allow(self, worker: list[Statement], sweeper: list[Statement] | None = None) -> None:
        """Put these permissions into force, for the sweeper its file's; act as the worker."""
        by_user = {self.worker: worker, self.sweeper: sweeper or statements(SWEEPER)}
        put_in_force(self.server, self.suffix, by_user)
        self.act_as(self.worker)

    def act_as(self, user: User) -> None:
        for name, value in user.environment.items():
            self.become(name, value)

    def write_job(self, rows: int = 8, **sections: Any) -> Path:
        prompts = write_prompts(self.folder / "p.parquet", rows, **sections.pop("columns", {}))
        self.owner.put_object(
            Bucket=f"datasets{self.suffix}", Key="prompts/a.parquet", Body=prompts.read_bytes()
        )
        document = job_document(f"s3://datasets{self.suffix}/prompts/", self.uri, **sections)
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def write_model(self) -> str:
        for path in MODEL.rglob("*"):
            if path.is_file():
                key = f"stable-diffusion-tiny/{path.relative_to(MODEL).as_posix()}"
                self.owner.put_object(
                    Bucket=f"models{self.suffix}", Key=key, Body=path.read_bytes()
                )
        return f"s3://models{self.suffix}/stable-diffusion-tiny"

    def keys(self, prefix: str) -> list[str]:
        answer = self.owner.list_objects_v2(
            Bucket=f"renders{self.suffix}", Prefix=f"sd15-million/{prefix}"
        )
        return [item["Key"].removeprefix("sd15-million/") for item in answer.get("Contents", [])]

    def new_run(self) -> tuple[Store, RunRecord]:
        """A run of one shard that nobody has rendered."""
        return open_run(prepare(load_job(self.write_job(4)), "/nonexistent"), allow_no_cas=True)

    def sweep(self) -> Ended:
        """Sweep as the sweeper."""
        self.act_as(self.sweeper)
        return self.farm("sweep", self.uri, "--json")

    def submit(self, job: Path) -> Ended:
        return self.farm("submit", job, "--local", "--json")


@pytest.fixture
def ground(
    ceph: CephServer,
    users: tuple[User, User],
    farm: Callable[..., Ended],
    s3_env: Callable[[Any], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ground:
    s3_env(ceph)
    monkeypatch.setenv("RENDER_FARM_MODEL_CACHE", str(tmp_path / "models"))
    return Ground(ceph, *users, farm, monkeypatch.setenv, tmp_path)


def test_every_permission_of_the_worker_is_tried_below():
    assert set(permissions(WORKER)) == set(NEEDED) | TIDYING


def test_a_run_with_a_model_from_the_store_needs_nothing_else(
    ground: Ground, figure: Callable[[str, object], None]
):
    rendering = {"width": 64, "height": 64, "steps": 2, "scheduler": "ddim"}
    model = {"path": ground.write_model(), "engine": "steps"}
    job = ground.write_job(4, model=model, defaults=rendering)
    ended = ground.submit(job)
    assert ended.code == 0, ended.err
    assert ground.farm("verify", ground.uri, "--json").json["samples"] == 4
    assert ground.keys("driver/probe/") == ground.keys("driver/attempts/") == []
    figure(
        "permissions of a worker that were tried, one by one", len(NEEDED | dict.fromkeys(TIDYING))
    )


def test_quarantine_and_retry_need_nothing_else(ground: Ground):
    prompts = [None if row == 3 else f"picture {row}" for row in range(8)]
    job = ground.write_job(columns={"prompt": prompts}, limits={"max_quarantined": 1})
    assert ground.submit(job).code == 3
    retried = ground.farm("retry", ground.uri, "--local", "--json")
    assert retried.code == 3, retried.err
    assert retried.json["rows"]["quarantined"] == 1
    assert ground.farm("cancel", ground.uri, "--json").code == 0


@pytest.mark.parametrize("taken", NEEDED, ids=str)
def test_a_missing_permission_is_named_and_nothing_is_lost(ground: Ground, taken: Permission):
    sections: dict[str, Any] = {}
    if NEEDED[taken] == "model.path":
        sections["model"] = {"path": ground.write_model(), "engine": "steps"}
        sections["defaults"] = {"steps": 1, "scheduler": "ddim"}
    job = ground.write_job(4, **sections)
    ground.allow(without(statements(WORKER), taken))
    ended = ground.submit(job)
    assert ended.code == 2, ended.err
    assert ended.fields == [NEEDED[taken]]
    assert "permission refused" in ended.out
    assert taken.action.removeprefix("s3:") in ended.out
    assert ground.keys("receipts/") == []

    ground.allow(statements(WORKER))
    restored = ground.submit(job)
    assert restored.code == 0, restored.err
    assert restored.json["rows"]["done"] == 4


@pytest.mark.parametrize("prefix", ["data/*", "receipts/*", "driver/epochs/*", "manifest.json"])
def test_a_run_that_loses_a_permission_stops_and_goes_on_when_it_is_back(
    ground: Ground, prefix: str
):
    job = ground.write_job()
    lost = {
        "Sid": "Lost",
        "Effect": "Deny",
        "Action": "s3:PutObject",
        "Resource": f"{RUN}/{prefix}",
    }
    ground.allow([*statements(WORKER), lost])
    ended = ground.submit(job)
    assert ended.code == 4, ended.err
    assert "permission refused" in ended.out
    assert "PutObject" in ended.out

    ground.allow(statements(WORKER))
    resumed = ground.farm("resume", ground.uri, "--local", "--json")
    assert resumed.code == 0, resumed.err
    assert ground.farm("verify", ground.uri).code == 0


def test_what_may_not_be_tidied_up_is_left_and_the_run_completes(ground: Ground):
    left = statements(WORKER)
    for folder in ("driver/probe", "driver/attempts"):
        left = without(left, Permission(TIDIES, "s3:DeleteObject", f"{RUN}/{folder}/*"))
    ground.allow(left)
    ended = ground.submit(ground.write_job(4))
    assert ended.code == 0, ended.err
    assert ground.keys("driver/probe/")
    assert ground.keys("driver/attempts/")


@pytest.mark.parametrize("allowed", [True, False])
def test_a_lost_attempt_takes_its_objects_back_or_leaves_them_to_the_sweeper(
    ground: Ground, allowed: bool
):
    """Without its permission it says so; nothing that was committed suffers."""
    store, record = ground.new_run()
    race = in_turn(
        "create", "receipts/", meanwhile(lambda: render_on(open_store(ground.uri), record, 0))
    )
    if not allowed:
        taken = Permission(TIDIES, "s3:DeleteObject", f"{RUN}/data/*")
        ground.allow(without(statements(WORKER), taken))
    answer = render_on(FaultyStore(store, race), record, 0)
    if allowed:
        assert isinstance(answer, ShardClosed)
        assert not answer.own
    else:
        assert not isinstance(answer, ShardClosed)
        assert "permission refused" in repr(answer)
    winner = read_receipt(store, 0)
    assert winner is not None
    kept = {item.key for item in winner.objects}
    assert len(set(ground.keys("data/")) - kept) == (0 if allowed else 2)
    swept = ground.sweep()
    assert swept.code == 0, swept.err
    assert swept.json["objects"] == (0 if allowed else 2)
    assert set(ground.keys("data/")) == kept


def test_an_upload_that_failed_is_ended_by_the_worker_or_by_the_sweeper(ground: Ground):
    store, record = ground.new_run()
    assert isinstance(render_on(store, record, 0), ShardClosed)
    bucket, key = f"renders{ground.suffix}", "sd15-million/data/000000-0badbeef.tar"
    worker = ground.worker.client(ground.server)

    def begin() -> dict[str, str]:
        upload = worker.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        return {"Bucket": bucket, "Key": key, "UploadId": upload}

    worker.abort_multipart_upload(**begin())
    assert "Uploads" not in ground.owner.list_multipart_uploads(Bucket=bucket)
    taken = Permission("ReadAndWriteRun", "s3:AbortMultipartUpload", f"{RUN}/*")
    ground.allow(without(statements(WORKER), taken))
    with pytest.raises(ClientError, match="AccessDenied"):
        worker.abort_multipart_upload(**begin())
    assert ground.sweep().json["uploads"] == 1
    assert "Uploads" not in ground.owner.list_multipart_uploads(Bucket=bucket)


def test_neither_may_do_anything_else(ground: Ground):
    store, record = ground.new_run()
    assert isinstance(render_on(store, record, 0), ShardClosed)
    run, prompts = f"renders{ground.suffix}", f"datasets{ground.suffix}"
    (data, *_) = ground.keys("data/")
    for key in ("other/data/a.tar", "sd15-million-2/a", "sd15-million/manifest.json"):
        ground.owner.put_object(Bucket=run, Key=key, Body=b"x")
    decides = [
        f"sd15-million/{key}" for key in ("receipts/000000.json", "run.json", "manifest.json")
    ]
    foreign = ["other/data/a.tar", "sd15-million-2/a"]
    for user in (ground.worker, ground.sweeper):
        client = user.client(ground.server)
        for key in decides + foreign:
            refused(client.delete_object, run, key)
        for key in foreign:
            refused(client.get_object, run, key)
            refused(client.put_object, run, key)
        refused(client.put_object, prompts, "prompts/a.parquet")
        refused(client.delete_object, prompts, "prompts/a.parquet")
    sweeper = ground.sweeper.client(ground.server)
    for key in [*decides, "sd15-million/receipts/000001.json", f"sd15-million/{data}"]:
        refused(sweeper.put_object, run, key)
    refused(sweeper.get_object, prompts, "prompts/a.parquet")


def test_a_sweep_without_a_permission_is_refused_and_deletes_no_more(
    ground: Ground, figure: Callable[[str, object], None]
):
    """It needs each for what it finds: an orphan of each kind and an unfinished upload of each."""
    store, record = ground.new_run()
    assert isinstance(render_on(store, record, 0), ShardClosed)
    before = set(ground.keys(""))
    tried = [one for one in permissions(SWEEPER) if "retries" not in one.resource]
    for taken in tried:
        for folder in ("data", "rejected"):
            lost = f"sd15-million/{folder}/000000-0badbeef.parquet"
            ground.owner.put_object(Bucket=f"renders{ground.suffix}", Key=lost, Body=b"x")
            ground.owner.create_multipart_upload(Bucket=f"renders{ground.suffix}", Key=lost)
        ground.allow(statements(WORKER), without(statements(SWEEPER), taken))
        refusal = ground.sweep()
        assert refusal.code == 2, (taken, refusal.err)
        assert "permission refused" in refusal.out
        assert taken.action.removeprefix("s3:") in refusal.out
        assert before <= set(ground.keys(""))

        ground.allow(statements(WORKER))
        assert ground.sweep().code == 0
        assert set(ground.keys("")) == before
    figure("permissions of a sweeper that were tried, one by one", len(tried))


def refused(request: Callable[..., Any], bucket: str, key: str) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        request(Bucket=bucket, Key=key)
