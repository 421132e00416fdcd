"""One field for all storms of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.ceph import CephServer
from tests.storm.field import Field, open_field


@pytest.fixture(scope="module")
def field(ceph: CephServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with open_field(ceph, tmp_path_factory.mktemp("storm")) as field:
        yield field


@pytest.fixture
def near(ceph: CephServer, s3_env: Callable[[Any], None]) -> None:
    """Checks in this process read the store itself, not through the witness."""
    s3_env(ceph)
