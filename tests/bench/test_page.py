"""The page of results: what it says of made-up figures, and that a cut run keeps what it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import results as results_module
from tests.bench.elastic import ideal_s
from tests.bench.page import Bar, bars, points, write_page
from tests.bench.results import Results


def run(rows: int, rows_per_s: float, driver_peak_mb: float = 200.0) -> dict[str, Any]:
    return {
        "rows": rows,
        "rows_per_s": rows_per_s,
        "driver_peak_mb": driver_peak_mb,
        "worker_peak_mb": 180.0,
        "messages_per_shard": 2.0,
        "store_requests": {"get": rows // 10},
        "duty": 0.98,
    }


def contest(ray_data: float) -> dict[str, Any]:
    return {
        "rows": 100,
        "parquet": [run(100, rate) for rate in (50.0, 60.0, 400.0)],
        "webdataset": [run(100, 30.0)],
        "ray_data": [{"images_per_s": ray_data}],
        "ray_data_by_block": [{"images_per_s": ray_data * 2}],
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results.at(tmp_path / "scale.json", full=True, keep=False)


def line_of(results: Results, start: str) -> Bar:
    (found,) = [bar for bar in bars(results) if bar.what.startswith(start)]
    return found


def test_nothing_measured_is_a_page_without_bars(results: Results, tmp_path: Path):
    assert bars(results) == []
    write_page(results, tmp_path)
    assert "| wanted |" in (tmp_path / "scale.md").read_text()
    assert not (tmp_path / "scale.svg").exists()


def test_a_contest_is_held_by_medians(results: Results):
    results.add("contest", contest(ray_data=40.0), 1.0)
    assert line_of(results, "parquet ÷").value == pytest.approx(60 / 40)
    assert line_of(results, "parquet ÷").met
    assert line_of(results, "webdataset ÷").value == pytest.approx(30 / 40)
    assert not line_of(results, "webdataset ÷").met


def test_every_rate_has_the_day_on_which_it_was_measured(results: Results, tmp_path: Path):
    for name, day in (("contest", "2026-01-02"), ("curve", "2026-03-04")):
        found = contest(40.0) if name == "contest" else {"farm": [run(10, 1.0), run(100, 1.0)]}
        results.add(name, found, 1.0)
        results.document["results"][name]["at"] = f"{day}T05:06:07+00:00"
    write_page(results, tmp_path)
    text = (tmp_path / "scale.md").read_text()
    assert "Measured 2026-01-02 and 2026-03-04 on" in text
    table = [line for line in text.splitlines() if line.startswith("|") and "local | 10" in line]
    days = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip(" |") for line in table}
    assert days == {
        "curve: parquet, local": "2026-03-04",
        "parquet, local": "2026-01-02",
        "webdataset, local": "2026-01-02",
        "Ray Data, local": "2026-01-02",
        "Ray Data, a block a call, local": "2026-01-02",
    }
    header = next(line for line in text.splitlines() if line.startswith("| run |"))
    assert {line.count("|") for line in table} == {header.count("|")}


def test_the_curve_is_of_medians(results: Results, tmp_path: Path):
    few = [run(10, rate) for rate in (1.0, 50.0, 90.0)]
    some = [run(100, rate) for rate in (50.0, 60.0, 400.0)]
    many = [run(1000, 66.0, driver_peak_mb=230.0)]
    results.add("curve", {"farm": [*many, *few, *some]}, 1.0)
    results.add("contest", contest(40.0), 1.0)
    rates = {rows: each["rows_per_s"] for rows, each in points(results).items()}
    assert rates == {10: 50, 100: 60, 1000: 66}
    assert line_of(results, "slowest ÷ fastest").value == pytest.approx(50 / 66)
    assert line_of(results, "driver's peak memory").value == pytest.approx(1.15)
    results.add("curve-ceph", {"farm": [run(10, 1.0), run(1000, 2.0)]}, 1.0)
    slowest = [bar.value for bar in bars(results) if bar.what.startswith("slowest")]
    assert slowest == [pytest.approx(50 / 66), 0.5]
    assert not line_of(results, "driver's peak memory, 10 to 1,000 rows, local").met
    write_page(results, tmp_path)
    text = (tmp_path / "scale.md").read_text()
    assert "](scale.svg)" in text
    assert (tmp_path / "scale.svg").read_text().count("<svg") == 1
    assert "driver's peak memory, 10 to 1,000 rows, local | ≤ 1.1 | 1.15 | **no** |" in text


def test_a_worker_is_held_against_each_rival_of_as_many_threads(results: Results):
    rates = {
        "bare_engine, 1 process": [20.0, 25.0, 30.0],
        "farm, 1 process": [24.0, 24.5, 40.0],
        "farm, 2 processes": [48.0],
        "plain_loop, 1 process": [20.0],
        "accelerate_split, 1 process": [22.0],
        "ray_data, 2 processes": [60.0],
        "bare_engine, 1 process, 2 threads": [40.0],
        "farm, 1 process, 2 threads": [30.0],
        "plain_loop, 1 process, 2 threads": [32.0],
    }
    results.add("demo", {"rows": 64, "images_per_s": rates}, 1.0)
    said = {bar.what.removeprefix("demo model, a worker"): bar.value for bar in bars(results)}
    assert said == {
        " ÷ bare engine": pytest.approx(24.5 / 25),
        " ÷ plain loop": pytest.approx(24.5 / 20),
        " ÷ accelerate split": pytest.approx(24.5 / 22),
        ", 2 threads ÷ plain loop": pytest.approx(30 / 32),
    }


def test_a_raylet_that_never_got_work_is_a_bar_that_was_missed(results: Results):
    results.add("elastic", {"join_s": None, "ratio": 1.05}, 1.0)
    assert not line_of(results, "seconds until a new raylet").met
    assert line_of(results, "makespan").met


def test_one_thing_measured_anew_keeps_the_others(results: Results, tmp_path: Path):
    results.add("curve", {"farm": [run(10, 1.0)]}, 1.0)
    again = Results.at(tmp_path / "scale.json", full=True, keep=True)
    again.add("resume", {"rows": 10, "first_dispatch_s": 3.0}, 1.0)
    assert set(json.loads((tmp_path / "scale.json").read_text())["results"]) == {"curve", "resume"}
    assert Results.at(tmp_path / "scale.json", full=True, keep=False).found("curve") is None


def test_results_of_another_size_or_machine_are_never_mixed(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results.add("curve", {"farm": [run(10, 1.0)]}, 1.0)
    assert Results.at(tmp_path / "scale.json", full=False, keep=True).found("curve") is None
    monkeypatch.setattr(results_module, "machine", lambda: {"cores": 64})
    assert Results.at(tmp_path / "scale.json", full=True, keep=True).found("curve") is None


def test_the_ideal_makespan_uses_the_capacity_that_was_there():
    # two from 0 to 10, three from 10 to 20, two from then on
    assert ideal_s(10, 0, 10, 20) == 5
    assert ideal_s(35, 0, 10, 20) == 15
    assert ideal_s(60, 0, 10, 20) == 25
    assert ideal_s(60, 100, 110, 120) == 25
