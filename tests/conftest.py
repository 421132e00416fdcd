"""Servers and stores that tests of several rooms use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from tests.servers.ceph import CephServer, missing_binaries
from tests.servers.moto import MotoServer

FIGURES: list[tuple[str, object]] = []
"""What tests measured and counted, printed at the end of the session."""

# What would lead boto3 or pyarrow elsewhere than a test says.
FOREIGN_VARIABLES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands its figures to the one that prints them."""
    handed = getattr(session.config, "workeroutput", None)
    if handed is not None:
        handed["figures"] = [(name, str(value)) for name, value in FIGURES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the figures of a process that has ended; none if it crashed."""
    FIGURES.extend(getattr(node, "workeroutput", {}).get("figures", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("figures")
        for name, value in FIGURES:
            terminalreporter.write_line(f"{name:<72} {value}")


@pytest.fixture
def figure() -> Callable[[str, object], None]:
    """Say a figure: it is printed with all others when the session ends."""
    return lambda name, value: FIGURES.append((name, value))


class HasEnvironment(Protocol):
    """A server of `tests.servers`, or a proxy in front of one."""

    def environment(self) -> dict[str, str]: ...


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephServer]:
    """A real S3 server; the tests that need it are skipped where Ceph is not installed, bar CI."""
    if missing := missing_binaries():
        why = f"Ceph is not installed: no {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with CephServer() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """A mock S3 server in this process."""
    with MotoServer() as server:
        yield server


@pytest.fixture
def s3_env(monkeypatch: pytest.MonkeyPatch) -> Callable[[HasEnvironment], None]:
    """Lead boto3 and pyarrow, here and in child processes, to a server for the length of a test."""

    def lead_to(server: HasEnvironment) -> None:
        for name in FOREIGN_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)

    return lead_to
