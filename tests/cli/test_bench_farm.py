"""`render-farm bench farm`: what it says, and what it ends with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from render_farm.store.open import open_store
from render_farm.views.status import read_status
from tests.cli.conftest import Ended

Farm = Callable[..., Ended]

KEYS = (
    "rows",
    "seconds",
    "rows_per_s",
    "driver_peak_mb",
    "worker_peak_mb",
    "messages_per_shard",
    "store_requests",
    "duty",
)


@pytest.mark.ray
def test_the_json_has_its_keys_and_they_mean_what_they_say(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[..., None]
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = farm("bench", "farm", "--rows", 2000, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert tuple(found) == KEYS
    assert found["rows"] == 2000
    # 40 shards of 50 rows, and the first of each worker is not counted
    assert found["rows_per_s"] * found["seconds"] == pytest.approx(1900, rel=0.01)
    assert 0 < found["duty"] <= 1.01
    assert 50 < found["driver_peak_mb"] < 1000
    assert 50 < found["worker_peak_mb"] < 1000
    assert 2 <= found["messages_per_shard"] < 2.2  # abandonings at the end may come on top
    assert found["store_requests"]["upload"] >= 40
    assert found["store_requests"]["create"] >= 40
    assert list(tmp_path.glob("render-farm-bench-*")) == []
    figure("bench farm, 2,000 rows of 64² PNG: rows/s", found["rows_per_s"])


@pytest.mark.ray
def test_with_a_store_the_run_is_kept_there_and_the_table_is_for_people(farm: Farm, tmp_path: Path):
    options = {"rows": 12, "shard-rows": 2, "sleep-ms": 1, "steps": 2, "batch": 2}
    options |= {"size": "16x24", "container": "webdataset", "workers": 1, "store": tmp_path / "s"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    ended = farm("bench", "farm", *arguments)
    assert ended.code == 0, ended.err
    for label in ("rows/s", "duty", "driver's peak memory", "messages a shard", " upload"):
        assert label in ended.out
    assert "12 rows of 16x24 jpeg, 1 ms a step, webdataset, workers: 1" in ended.out
    (run,) = (tmp_path / "s").iterdir()
    status = read_status(open_store(str(run)), 0)
    assert (status.state, status.rows["done"]) == ("complete", 12)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--rows", "2"], ["--rows"]),
        (["--rows", "10", "--shard-rows", "5"], ["--rows"]),
        (["--rows", "100", "--size", "64"], ["--size"]),
        (["--rows", "100", "--size", "60x64"], ["--size"]),
        (["--rows", "100", "--store", "ftp://somewhere"], ["--store"]),
        (["--rows", "100", "--store", "memory://here"], ["--store"]),
        (["--rows", "0"], ["arguments"]),
        (["--rows", "100", "--image", "gif"], ["arguments"]),
        (["--rows", "100", "--container", "zip"], ["arguments"]),
        (["--rows", "100", "--sleep-ms", "-1"], ["arguments"]),
        ([], ["arguments"]),
    ],
    ids=" ".join,
)
def test_wrong_options_end_with_2_and_are_named(farm: Farm, options: list[str], fields: list[str]):
    ended = farm("bench", "farm", *options, "--json")
    assert ended.code == 2
    assert ended.fields == fields
    assert all(error["allowed"] and error["fix"] for error in ended.json["errors"])
