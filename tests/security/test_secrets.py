"""A run gives no secret away: not in its result, its logs, Ray's files or on the dashboard."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from render_farm.cli.console import reporting
from tests.cli.conftest import Ended
from tests.end_to_end.farm import Running
from tests.making.jobs import job_document, write_prompts
from tests.security.canary import Canary, in_bucket, in_files
from tests.security.policies import User
from tests.security.watching import Watch
from tests.servers.ceph import CephServer
from tests.servers.ray_head import Head

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(900)]

# Where clients look for credentials that tests have no say over.
PLACES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture(scope="module")
def canary() -> Canary:
    return Canary()


@pytest.fixture(scope="module")
def owner(ceph: CephServer, canary: Canary) -> User:
    """A user of the server whose keys are the canary's: signatures are checked."""
    keys = (canary.secrets["access key"], canary.secrets["secret key"])
    return User.create(ceph, "canary", *keys)


@pytest.fixture
def bucket(ceph: CephServer, owner: User, tmp_path: Path) -> str:
    name = f"canary-{abs(hash(tmp_path)) % 10**8}"
    owner.client(ceph).create_bucket(Bucket=name)
    return name


@pytest.fixture
def places(
    ceph: CephServer,
    owner: User,
    canary: Canary,
    s3_env: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A folder for all that a process writes outside its run, and the canary in the environment."""
    folder = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))  # Ray's sockets want short paths
    s3_env(ceph)
    for name, value in owner.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", canary.secrets["hub token"])
    for name, place in (("HOME", "home"), ("TMPDIR", "tmp"), ("RAY_TMPDIR", "r")):
        (folder / place).mkdir()
        monkeypatch.setenv(name, str(folder / place))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def write_job(folder: Path, bucket: str, rows: int, run: str = "run", **sections: Any) -> Path:
    prompts = write_prompts(folder / "prompts.parquet", rows, row_group=rows)
    path = folder / f"{run}.yaml"
    document = job_document(prompts, f"s3://{bucket}/{run}", **sections)
    path.write_text(yaml.safe_dump(document))
    return path


def result_of(server: CephServer, owner: User, bucket: str) -> list[tuple[str, bytes]]:
    found = list(in_bucket(owner.client(server), bucket))
    assert any(place.endswith("run.json") for place, _ in found)
    return found


@pytest.mark.ray
def test_a_run_on_a_cluster_of_our_own_leaves_no_secret_and_listens_on_the_loopback(
    ceph: CephServer,
    owner: User,
    bucket: str,
    places: Path,
    canary: Canary,
    tmp_path: Path,
    figure: Callable[[str, object], None],
):
    job = write_job(tmp_path, bucket, 600, shards={"rows": 6}, workers={"count": 2})
    store = owner.client(ceph)

    def committed() -> int:
        return store.list_objects_v2(Bucket=bucket, Prefix="run/receipts/")["KeyCount"]

    umask = os.umask(0)
    try:
        driver = Running(tmp_path / "driver.log", "submit", job, "--verbose")
    finally:
        os.umask(umask)
    with Watch(driver.process.pid) as watch:
        driver.wait_until(lambda: committed() >= 2)
        driver.workers()[0].kill()
        assert driver.finish() == 0, driver.log()
    assert any("ray::WorkerActor" in title for title in watch.titles)
    assert any("gcs_server" in name for name in watch.listening.values())
    assert [at for at in watch.listening if not on_loopback(at[0])] == []
    token = places / "home" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600

    said = [
        *(("a process title", title.encode()) for title in sorted(watch.titles)),
        ("standard output and error", (tmp_path / "driver.log").read_bytes()),
        *result_of(ceph, owner, bucket),
        *in_files(places),
    ]
    assert any("raylet.out" in place for place, _ in said)
    assert canary.finds(said) == []
    assert (
        Canary({"token": token.read_text()}).finds(
            (place, data) for place, data in said if place != str(token)
        )
        == []
    )
    figure("places searched for a secret after a run on Ray", len(said))
    figure("bytes searched for a secret after a run on Ray", sum(len(data) for _, data in said))
    figure("listening sockets of a cluster of our own, all on the loopback", len(watch.listening))


def on_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.mark.ray
def test_a_ray_job_shows_no_secret_on_the_dashboard_or_in_its_jobs_api(
    ceph: CephServer,
    owner: User,
    bucket: str,
    places: Path,
    canary: Canary,
    tmp_path: Path,
    figure: Callable[[str, object], None],
):
    """The cluster has the credentials in its nodes' environment, as a role would give them."""
    job = write_job(tmp_path, bucket, 200, shards={"rows": 5}, workers={"count": 1})
    token = "0123456789abcdef" * 4
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    # By which a head keeps to the loopback.
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    with Head("127.0.0.1", environment, dashboard=True) as head:
        board = Dashboard(head.dashboard, token)
        with Watch(head.process.pid) as watch:
            command = f"{sys.executable} -m render_farm submit {job} --address auto --verbose"
            submitted = json.loads(board.ask("/api/jobs/", {"entrypoint": command}))
            pages: dict[str, bytes] = {}
            state = ""
            while state not in {"SUCCEEDED", "FAILED", "STOPPED"}:
                pages |= {path: board.ask(path) for path in PAGES}
                about = board.ask(f"/api/jobs/{submitted['submission_id']}")
                pages["the job"] = about
                state = json.loads(about)["status"]
                time.sleep(0.5)
            logs = board.ask(f"/api/jobs/{submitted['submission_id']}/logs")
            pages |= {path: board.ask(path) for path in PAGES}
        assert state == "SUCCEEDED", logs.decode()
        assert b"WorkerActor" in pages["/api/v0/actors?detail=1&limit=100"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            Dashboard(head.dashboard, None).ask("/api/jobs/")
        said = [
            *(("a process title", title.encode()) for title in sorted(watch.titles)),
            *pages.items(),
            ("the job's log", logs),
            *result_of(ceph, owner, bucket),
            *in_files(head.folder),
            *in_files(places),
        ]
        assert canary.finds(said) == []
        figure("places searched for a secret after a Ray job, dashboard included", len(said))


PAGES = (
    "/api/jobs/",
    "/api/version",
    "/nodes?view=summary",
    "/api/cluster_status?format=1",
    "/logical/actors",
    "/api/v0/actors?detail=1&limit=100",
    "/api/v0/jobs?detail=1&limit=100",
    "/api/v0/nodes?detail=1&limit=100",
    "/api/v0/tasks?detail=1&limit=100",
    "/api/v0/workers?detail=1&limit=100",
    "/api/v0/objects?detail=1&limit=100",
    "/api/v0/runtime_envs?detail=1&limit=100",
    "/api/v0/cluster_events?detail=1&limit=100",
    "/api/v0/tasks/summarize",
    "/api/v0/actors/summarize",
)


class Dashboard:
    """The dashboard's HTTP interface, as whoever has its token asks it."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data=data, headers=headers)
        with self._opener.open(request, timeout=120) as answer:
            return answer.read()


Change = Callable[[pytest.MonkeyPatch, Canary, Path], None]


def wrong_secret(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    patch.setenv("AWS_SECRET_ACCESS_KEY", canary.secrets["secret key"][::-1])


def unknown_access_key(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", "NOBODYKNOWSME")


def session_token(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    patch.setenv("AWS_SESSION_TOKEN", canary.secrets["session token"])


def endpoint_is_no_url(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    patch.setenv("AWS_ENDPOINT_URL_S3", "nonsense")


def profile_file(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    keys = {
        "aws_access_key_id": canary.secrets["access key"],
        "aws_secret_access_key": canary.secrets["secret key"],
        "aws_session_token": canary.secrets["session token"],
    }
    lines = [f"{key} = {value}" for key, value in keys.items()]
    (folder / "credentials").write_text("\n".join(["[farm]", *lines]))
    for name in PLACES:
        patch.delenv(name, raising=False)
    patch.setenv("AWS_PROFILE", "farm")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


def broken_profile_file(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    profile_file(patch, canary, folder)
    text = (folder / "credentials").read_text()
    (folder / "credentials").write_text(text.replace("aws_secret_access_key = ", ""))


def profile_without_a_key(patch: pytest.MonkeyPatch, canary: Canary, folder: Path) -> None:
    profile_file(patch, canary, folder)
    text = (folder / "credentials").read_text()
    (folder / "credentials").write_text(text.replace("aws_access_key_id", "another"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (wrong_secret, 2),
        (unknown_access_key, 2),
        (session_token, 0),  # Ceph takes no notice of it
        (endpoint_is_no_url, 2),
        (profile_file, 0),
        (broken_profile_file, 2),
        (profile_without_a_key, 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_goes_wrong_with_credentials_is_said_without_them(
    change: Change,
    code: int,
    ceph: CephServer,
    owner: User,
    bucket: str,
    places: Path,
    canary: Canary,
    tmp_path: Path,
    farm: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
):
    job = write_job(tmp_path, bucket, 4)
    store = owner.client(ceph)
    change(monkeypatch, canary, tmp_path)
    ended = farm("submit", job, "--local", "--verbose", "--json")
    assert ended.code == code, ended.err
    if code:
        assert ended.fields == ["output.uri"]
    said = [("what it said", (ended.out + ended.err).encode()), *in_files(places)]
    assert canary.finds([*said, *in_bucket(store, bucket)]) == []


def test_a_suspended_user_and_a_missing_bucket_are_told_without_secrets(
    ceph: CephServer,
    owner: User,
    bucket: str,
    places: Path,
    canary: Canary,
    tmp_path: Path,
    farm: Callable[..., Ended],
):
    job, missing = write_job(tmp_path, bucket, 4), write_job(tmp_path, "no-such-bucket", 4, "other")
    ended = [farm("submit", missing, "--local", "--verbose")]
    ceph.admin("user", "suspend", "--uid", owner.name)
    try:
        ended.append(farm("submit", job, "--local", "--verbose"))
    finally:
        ceph.admin("user", "enable", "--uid", owner.name)
    for one in ended:
        assert one.code == 2, one.err
        assert canary.finds([("what it said", (one.out + one.err).encode())]) == []


def test_a_run_in_this_process_leaves_no_secret(
    ceph: CephServer,
    owner: User,
    bucket: str,
    places: Path,
    canary: Canary,
    tmp_path: Path,
    farm: Callable[..., Ended],
):
    for container in ("webdataset", "parquet", "files"):
        layout = {"layout": {"container": container}}
        job = write_job(tmp_path, bucket, 8, container, limits={"max_quarantined": 1}, **layout)
        ended = farm("submit", job, "--local", "--verbose")
        assert ended.code == 0, ended.err
        assert canary.finds([("what it said", (ended.out + ended.err).encode())]) == []
    for command in ("status", "verify", "sweep", "cancel"):
        ended = farm(command, f"s3://{bucket}/files", "--verbose", "--json")
        assert canary.finds([("what it said", (ended.out + ended.err).encode())]) == []
    said = [*in_bucket(owner.client(ceph), bucket), *in_files(places)]
    assert len(said) > 60
    assert canary.finds(said) == []


def test_an_error_that_nobody_expected_shows_no_local_variables(
    canary: Canary, capfd: pytest.CaptureFixture[str]
):
    def sign(secret_key: str) -> None:
        raise ZeroDivisionError(len(secret_key))

    with pytest.raises(SystemExit), reporting(as_json=True):
        sign(canary.secrets["secret key"])
    out, err = capfd.readouterr()
    assert "ZeroDivisionError" in out
    assert "in sign" in err
    assert canary.finds([("what it said", (out + err).encode())]) == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://{access key}:{plain}@bucket/prefix",
        "s3://{access key}:{secret key}@bucket/prefix",
        "S3://{access key}:{secret key}@bucket",
        "https://{access key}:{plain}@s3.example.com/bucket",
        "https://{access key}:{secret key}@s3.example.com/bucket",
    ],
)
@pytest.mark.parametrize("field", ["prompts.path", "model.path", "output.uri"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(
    field: str, uri: str, tmp_path: Path, farm: Callable[..., Ended]
):
    """Half of all secret keys of AWS have a slash in them."""
    canary = Canary(Canary().secrets | {"plain": f"canary{secrets.token_hex(12)}"})
    for name, secret in canary.secrets.items():
        uri = uri.replace("{" + name + "}", secret)
    section, key = field.split(".")
    document = job_document(write_prompts(tmp_path / "p.parquet", 4), tmp_path / "run")
    document["model"] = {"path": "jobs/scenes/model"}
    document[section][key] = uri
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    ended = farm("validate", tmp_path / "job.yaml", "--json")
    assert ended.code == 2
    assert ended.fields == [field]
    assert canary.finds([("what it said", (ended.out + ended.err).encode())]) == []
