"""The search for secrets finds what is planted."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.security.canary import Canary, disguises, in_files

NAMES = sorted(Canary().secrets)
DISGUISES = sorted(disguises("x"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_planted_secret_is_found_in_every_disguise(name: str, disguise: str, tmp_path: Path):
    canary = Canary()
    planted = disguises(canary.secrets[name])[disguise]
    assert len(planted) >= 12
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_bytes(b"INFO before " + planted + b" after\n")
    found = canary.finds(in_files(tmp_path))
    assert [place for place in found if place.startswith(f"{name}, ") and str(log) in place]


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_it_is_found_in_a_longer_text_that_is_encoded_as_a_whole(before: str):
    canary = Canary()
    for secret in canary.secrets.values():
        text = f"{before}AWS_SECRET={secret}&more"
        for encoded in (base64.b64encode(text.encode()), base64.urlsafe_b64encode(text.encode())):
            assert canary.finds([("", encoded)])
        assert canary.finds([("", quote(text).encode())])
        assert canary.finds([("", text.encode().hex().encode())])
        assert canary.finds([("", json.dumps({"env": {"A": text}}).encode())])


def test_it_is_found_where_files_are_compressed_and_in_names_of_files(tmp_path: Path):
    canary = Canary()
    secret = canary.secrets["hub token"]
    assert canary.finds([("", gzip.compress(f"x {secret}".encode()))])
    rows = pa.table({"a": [{"b": ["c", f"x {secret}"]}] * 50})
    noted = pa.table({"a": [1]}).replace_schema_metadata({"k": secret})
    for table in (rows, noted):
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd")
        assert canary.finds([("", file.getvalue())])
    (tmp_path / secret).mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert [place for place in canary.finds(in_files(tmp_path)) if "the name of" in place]


def test_it_is_found_in_a_container_that_was_left_half_written():
    canary = Canary()
    file = io.BytesIO()
    with pq.ParquetWriter(file, pa.schema({"a": pa.string()}), compression="zstd") as writer:
        for number in range(3):
            writer.write_table(pa.table({"a": [f"{number} {canary.secrets['hub token']}"] * 50}))
            half = file.getvalue()
    found = canary.finds([("a half", half), ("a quarter", half[: len(half) // 2])])
    assert "hub token, plain in a half (pages)" in found
    assert "hub token, plain in a quarter (pages)" in found
    assert Canary().finds([("a half", half)]) == []


def test_texts_without_it_are_clean(tmp_path: Path):
    (tmp_path / "a.log").write_text("nothing here but " + Canary().secrets["secret key"])
    assert Canary().finds(in_files(tmp_path)) == []
