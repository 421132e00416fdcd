"""The token of a cluster of our own: made once, and for its owner's eyes only."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from render_farm.farm.auth_token import keep_token_private


@pytest.fixture(params=[0o022, 0o000, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_its_owner_alone(umask: int, tmp_path: Path):
    environment = {"HOME": str(tmp_path)}
    keep_token_private(environment)
    file = tmp_path / ".ray" / "auth_token"
    assert mode(file) == 0o600
    assert not mode(file.parent) & 0o077
    assert int(file.read_text(), 16).bit_length() > 200
    assert environment == {"HOME": str(tmp_path)}
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]


def test_one_that_is_there_is_kept_and_closed_to_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("a" * 64)
    for found, left, warnings in ((0o644, 0o600, 1), (0o660, 0o600, 1), (0o600, 0o600, 0)):
        file.chmod(found)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            keep_token_private({"HOME": str(tmp_path)})
        assert mode(file) == left
        assert file.read_text() == "a" * 64
        assert len(caplog.records) == warnings
        assert "a" * 64 not in caplog.text
    file.chmod(0o400)
    keep_token_private({"HOME": str(tmp_path)})
    assert mode(file) == 0o400


def test_of_many_processes_that_begin_together_one_makes_it(tmp_path: Path):
    file = tmp_path / ".ray" / "auth_token"

    def begin(_: int) -> str:
        keep_token_private({"HOME": str(tmp_path)})
        return file.read_text()

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            tokens = list(pool.map(begin, range(8)))
        assert len(set(tokens)) == 1
        assert len(tokens[0]) == 64
        file.unlink()


@pytest.mark.parametrize("home", ["/proc/nowhere", "", None])
def test_without_a_home_to_write_it_ends_with_the_process(home: str | None):
    environment = {} if home is None else {"HOME": home}
    keep_token_private(environment)
    assert len(environment["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(
    "given",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "mine"},
        {"RAY_AUTH_TOKEN_PATH": "/run/secrets/token"},
    ],
)
def test_what_the_user_has_decided_stays(given: dict[str, str], tmp_path: Path):
    environment = {"HOME": str(tmp_path), **given}
    keep_token_private(environment)
    assert environment == {"HOME": str(tmp_path), **given}
    assert list(tmp_path.iterdir()) == []


LATE = """
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode
from render_farm.farm.cluster import connect, disconnect
from render_farm.job.spec import WorkersSpec
assert get_authentication_mode() != AuthenticationMode.TOKEN
connect(None, WorkersSpec(count=1))
assert get_authentication_mode() == AuthenticationMode.TOKEN
assert len(ray.nodes()) == 1
disconnect()
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_ray_that_was_imported_before_uses_it_and_says_nothing_of_it():
    environment = {name: value for name, value in os.environ.items() if name[:9] != "RAY_AUTH_"}
    ended = subprocess.run(
        [sys.executable, "-c", LATE], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
