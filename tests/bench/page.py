"""The page of results: a line for each bar with what was measured, the rivals, and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.results import Results

PREAMBLE = Path(__file__).parent / "preamble.md"
STORES = {"": "local", "-ceph": "Ceph RGW"}
"""How names of measurements end, and where the pictures went."""
CONTESTS = {
    "contest": "local",
    "contest-ceph": "Ceph RGW",
    "contest-many": "local",
    "contest-many-ceph": "Ceph RGW",
}
WAYS = {"ray_data": "Ray Data", "ray_data_by_block": "Ray Data, a block a call"}


@dataclass(frozen=True)
class Bar:
    """A promise in figures: `value` is to be at least, or at most, `bar`."""

    what: str
    value: float
    bar: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def line(self) -> str:
        sign, verdict = "≤" if self.at_most else "≥", "yes" if self.met else "**no**"
        return f"| {self.what} | {sign} {self.bar:g} | {self.value:.3g} | {verdict} |"


def write_page(results: Results, folder: Path) -> None:
    """Write ``scale.md`` and, where there is anything to be drawn, ``scale.svg``."""
    drawn = draw_plot(results, folder / "scale.svg")
    lines = [PREAMBLE.read_text().rstrip(), "", *_machine(results), ""]
    lines += ["| bar | wanted | measured | met |", "|---|---|---|---|"]
    lines += [bar.line() for bar in bars(results)]
    lines += ["", *_runs(results), ""]
    if drawn:
        lines += ["![rows a second over rows, and memory of the driver](scale.svg)", ""]
    lines += _demo(results)
    (folder / "scale.md").write_text("\n".join(lines).rstrip() + "\n")


def bars(results: Results) -> list[Bar]:
    """The bars for which there are results."""
    return [*_contests(results), *_curve(results), *_duties(results), *_others(results)]


def points(results: Results, store: str = "") -> dict[int, dict[str, float]]:
    """Rows: medians of rate and driver's memory, of the farm with Parquet to one of `STORES`."""
    runs = (results.found(f"curve{store}") or {}).get("farm", [])
    return {
        rows: {
            "rows_per_s": median(runs, "rows_per_s", rows),
            "driver_peak_mb": median(runs, "driver_peak_mb", rows),
        }
        for rows in sorted({run["rows"] for run in runs})
    }


def median(runs: list[dict[str, Any]], key: str, rows: int | None = None) -> float:
    """The median of a figure over runs, those of so many rows alone."""
    return statistics.median(run[key] for run in runs if rows is None or run["rows"] == rows)


def draw_plot(results: Results, path: Path) -> bool:
    """Rate and memory over rows; False if there are not two points."""
    found = points(results)
    if len(found) < 2:
        return False
    import matplotlib  # noqa: PLC0415 - a second, which only a plot is worth

    matplotlib.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    matplotlib.rcParams["svg.hashsalt"] = "scale"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, key, label in zip(
        axes, ("rows_per_s", "driver_peak_mb"), ("rows/s", "driver, MB at its peak"), strict=True
    ):
        axis.plot(list(found), [each[key] for each in found.values()], marker="o", label="farm")
        axis.set(xscale="log", xlabel="rows", ylabel=label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    contest = results.found("contest")
    if contest:
        for (way, label), marker in zip(WAYS.items(), "sd", strict=True):
            rate = median(contest[way], "images_per_s")
            axes[0].plot([contest["rows"]], [rate], marker=marker, linestyle="", label=label)
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True


def _contests(results: Results) -> Iterator[Bar]:
    for name, where in CONTESTS.items():
        found = results.found(name)
        if found:
            theirs = median(found["ray_data"], "images_per_s")
            for container, wanted in (("parquet", 1.5), ("webdataset", 1.0)):
                ours = median(found[container], "rows_per_s")
                what = f"{container} ÷ Ray Data, {found['rows']:,} rows, {where}"
                yield Bar(what, ours / theirs, wanted)


def _curve(results: Results) -> Iterator[Bar]:
    for store, where in STORES.items():
        found = points(results, store)
        if len(found) > 1:
            rates = [each["rows_per_s"] for each in found.values()]
            memory = [each["driver_peak_mb"] for each in found.values()]
            span = f"{min(found):,} to {max(found):,} rows, {where}"
            yield Bar(f"slowest ÷ fastest rows/s, {span}", min(rates) / max(rates), 0.9)
            yield Bar(f"driver's peak memory, {span}", memory[-1] / memory[0], 1.1, at_most=True)


def _duties(results: Results) -> Iterator[Bar]:
    found = results.found("duty")
    if found:
        yield Bar("duty, 30 ms a step, 20 steps", found["20 steps"]["duty"], 0.97)
        yield Bar("duty, 30 ms a step, 4 steps", found["4 steps"]["duty"], 0.93)


def _others(results: Results) -> Iterator[Bar]:
    half = results.found("resume")
    if half:
        what = f"seconds to the first dispatch, {half['rows']:,} rows half done"
        yield Bar(what, half["first_dispatch_s"], 10, at_most=True)
    demo = results.found("demo")
    if demo:
        yield from _of_one_worker(demo["images_per_s"])
    elastic = results.found("elastic")
    if elastic:
        join_s = math.inf if elastic["join_s"] is None else elastic["join_s"]
        yield Bar("seconds until a new raylet has work", join_s, 15, at_most=True)
        yield Bar("makespan ÷ ideal, one joins, one dies", elastic["ratio"], 1.1, at_most=True)


def _of_one_worker(images_per_s: dict[str, list[float]]) -> Iterator[Bar]:
    """A worker beside whoever else is one process of as many threads."""
    for threads in ("", ", 2 threads"):
        rates = {
            name.partition(",")[0]: statistics.median(each)
            for name, each in images_per_s.items()
            if name.endswith(f", 1 process{threads}")
        }
        ours, bare = rates.pop("farm"), rates.pop("bare_engine")
        if not threads:  # two take both cores of the machine, and the rest is at their cost
            yield Bar("demo model, a worker ÷ bare engine", ours / bare, 0.97)
        for name, theirs in rates.items():
            what = f"demo model, a worker{threads} ÷ {name.replace('_', ' ')}"
            yield Bar(what, ours / theirs, 1.0)


def _machine(results: Results) -> list[str]:
    document = results.document
    here = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["libraries"].items())
    size = "" if document["full"] else " **A small form: its figures mean little.**"
    days = sorted({results.day(name) for name in document["results"]})
    where = (
        f"{here['cores']} cores of {here['processor']}, {here['memory_gb']} GB, {here['system']}"
    )
    return [f"Measured {' and '.join(days)} on {where}; {versions}.{size}"]


def _runs(results: Results) -> list[str]:
    """Every run of the farm with the rehearsal engine, medians where there are several."""
    counts = "messages a shard | calls a 1,000 rows"
    lines = [
        f"| run | rows | rows/s | driver MB | worker MB | {counts} | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, label, runs in _farm_runs(results):
        rows = runs[0]["rows"]
        requests = 1000 * sum(runs[0]["store_requests"].values()) / rows
        figures = [median(runs, key) for key in ("rows_per_s", "driver_peak_mb", "worker_peak_mb")]
        cells = " | ".join(f"{figure:,.0f}" for figure in figures)
        messages = f"{median(runs, 'messages_per_shard'):.2f}"
        rest = f"{messages} | {requests:.1f} | {results.day(name)}"
        lines.append(f"| {label} | {rows:,} | {cells} | {rest} |")
    for name, where in CONTESTS.items():
        found = results.found(name)
        if found:
            for way, label in WAYS.items():
                rate = median(found[way], "images_per_s")
                cells = f"{found['rows']:,} | {rate:,.0f} | | | | | {results.day(name)}"
                lines.append(f"| {label}, {where} | {cells} |")
    return lines


def _farm_runs(results: Results) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """The measurement, what the table calls it, and its runs."""
    for store, where in STORES.items():
        name = f"curve{store}"
        curve = (results.found(name) or {}).get("farm", [])
        for rows in points(results, store):
            yield name, f"curve: parquet, {where}", [run for run in curve if run["rows"] == rows]
    for name, where in CONTESTS.items():
        found = results.found(name)
        if found:
            for container in ("parquet", "webdataset"):
                yield name, f"{container}, {where}", found[container]


def _demo(results: Results) -> list[str]:
    found = results.found("demo")
    if not found:
        return []
    lines = [
        f"Demo model, {found['rows']} rows of 64², 20 steps of DDIM, guidance 3, batch 16, PNG:"
    ]
    lines += ["", "| who | images/s |", "|---|---|"]
    for name, rates in found["images_per_s"].items():
        lines.append(f"| {name.replace('_', ' ')} | {statistics.median(rates):.1f} |")
    return lines
