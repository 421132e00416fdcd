"""Importing libraries as on a bare machine."""

from __future__ import annotations

import sys

import pytest

from render_farm.engine.bench.bare import import_without_boto3


@pytest.fixture
def curious(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A library that imports boto3 if it is there."""
    (tmp_path / "curious_library.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec('boto3') is not None\n"
        "if found:\n    import boto3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "curious_library", raising=False)
    return "curious_library"


def test_a_library_does_not_find_boto3_and_everybody_else_does_later(
    curious: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    import_without_boto3(curious)
    assert not sys.modules[curious].found
    assert "boto3" not in sys.modules


def test_a_boto3_that_is_imported_already_stays(curious: str, monkeypatch: pytest.MonkeyPatch):
    there = sys
    monkeypatch.setitem(sys.modules, "boto3", there)
    import_without_boto3(curious)
    assert sys.modules["boto3"] is there
