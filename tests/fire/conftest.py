"""Buckets for runs that meet faults."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from tests.servers.ceph import CephServer


@pytest.fixture
def bucket_on() -> Callable[[CephServer], str]:
    """Make a bucket with a name of its own on a server."""
    return lambda server: server.make_bucket(f"fire-{secrets.token_hex(6)}")
