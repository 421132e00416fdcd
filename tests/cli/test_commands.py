"""What each command does, says and ends with."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.conftest import Ended

Farm = Callable[..., Ended]
WriteJob = Callable[..., Path]

STATUS_KEYS = {
    "run",
    "state",
    "rows",
    "samples",
    "shards",
    "failed_shards",
    "rate",
    "eta_s",
}


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_submit_renders_a_job_to_the_end(farm: Farm, write_job: WriteJob, tmp_path: Path):
    ended = farm("submit", write_job(), "--local", "--json")
    assert ended.code == 0
    assert ended.json.keys() >= STATUS_KEYS
    assert ended.json["state"] == "complete"
    assert ended.json["rows"] == {
        "planned": 12,
        "done": 12,
        "filtered": 0,
        "quarantined": 0,
        "cancelled": 0,
        "pending": 0,
    }
    assert ended.json["samples"] == {"planned": 12, "done": 12, "filtered": 0, "rendered": 12}
    assert ended.json["shards"] == {"planned": 3, "done": 3, "failed": 0, "open": 0}
    assert (tmp_path / "run" / "manifest.json").exists()


def test_the_same_job_again_renders_nothing(farm: Farm, write_job: WriteJob):
    job = write_job()
    farm("submit", job, "--local")
    ended = farm("submit", job, "--local", "--json")
    assert ended.code == 0
    assert ended.json["samples"]["rendered"] == 0


def test_without_json_the_summary_is_for_people(farm: Farm, write_job: WriteJob):
    ended = farm("submit", write_job(), "--local")
    assert "12 done, of 12" in ended.out
    assert "rows 12/12" in ended.err


def test_quarantined_rows_end_with_3_and_can_be_retried(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    prompts = [None if row == 5 else f"p{row}" for row in range(12)]
    job = write_job(columns={"prompt": prompts}, limits={"max_quarantined": 0.5})
    ended = farm("submit", job, "--local", "--json")
    assert ended.code == 3
    assert ended.json["rows"]["quarantined"] == 1
    assert (tmp_path / "run" / "quarantine.parquet").exists()
    planned = farm("retry", tmp_path / "run", "--plan-only", "--json")
    assert planned.json["rows"] == 1
    again = farm("retry", tmp_path / "run", "--local", "--json")
    assert again.code == 3
    assert again.json["run"].endswith("retries/001")
    assert again.json["rows"]["quarantined"] == 1


def test_retry_without_such_rows_says_so(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    ended = farm("retry", tmp_path / "run", "--local", "--json")
    assert ended.code == 2
    assert "no quarantined row" in ended.json["errors"][0]["value"]


def test_a_systematic_error_ends_with_4_and_says_what_to_do(farm: Farm, write_job: WriteJob):
    ended = farm("submit", write_job(columns={"width": [7] * 12}, shards={"rows": 12}), "--local")
    assert ended.code == 4
    assert "bad_size (12 rows)" in ended.err
    assert "max_quarantined" in ended.err


def test_status_tells_of_a_run_from_its_uri(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    ended = farm("status", tmp_path / "run", "--json")
    assert ended.code == 0
    assert ended.json["state"] == "complete"
    assert "12 done" in farm("status", tmp_path / "run").out


def test_status_of_nothing_is_wrong_input(farm: Farm, tmp_path: Path):
    ended = farm("status", tmp_path / "nowhere", "--json")
    assert ended.code == 2
    assert ended.fields == ["RUN"]
    assert not (tmp_path / "nowhere").exists()


def test_verify_says_whole(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    ended = farm("verify", tmp_path / "run", "--replay", "3", "--json")
    assert ended.code == 0
    assert {k: ended.json[k] for k in ("ok", "samples", "lost", "duplicated")} == {
        "ok": True,
        "samples": 12,
        "lost": 0,
        "duplicated": 0,
    }
    assert ended.json.keys() >= {"rows", "unexpected", "corrupt", "orphans"}
    assert (ended.json["replayed"], ended.json["replay_mismatches"]) == (3, 0)


def test_verify_finds_a_flipped_byte(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    tar = next((tmp_path / "run" / "data").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    ended = farm("verify", tmp_path / "run", "--json")
    assert ended.code == 1
    assert not ended.json["ok"]
    assert ended.json["corrupt"] >= 1


def test_cancel_is_final_and_names_the_way_on(farm: Farm, write_job: WriteJob, tmp_path: Path):
    job = write_job(columns={"prompt": ["p"] * 12})
    farm("submit", job, "--local", "--set", "prompts.limit=12")
    assert farm("cancel", tmp_path / "run", "--json").json["shards_cancelled"] == 0
    for receipt in sorted((tmp_path / "run" / "receipts").iterdir())[1:]:
        receipt.unlink()  # as if the run had been stopped after its first shard
    (tmp_path / "run" / "manifest.json").unlink()
    assert farm("verify", tmp_path / "run").code == 4
    assert farm("cancel", tmp_path / "run", "--json").json["shards_cancelled"] == 2
    assert farm("status", tmp_path / "run", "--json").json["state"] == "cancelled"
    for command in (("submit", job), ("resume", tmp_path / "run")):
        ended = farm(*command, "--set", "prompts.limit=12", "--local", "--json")
        if command[0] == "submit":
            assert ended.code == 2
            assert "retry" in ended.json["errors"][0]["fix"]
            assert "--cancelled" in ended.json["errors"][0]["fix"]
    assert farm("resume", tmp_path / "run", "--local").code == 2
    retried = farm("retry", tmp_path / "run", "--cancelled", "--local", "--json")
    assert retried.code == 0
    assert retried.json["rows"]["done"] == 8
    whole = farm("verify", tmp_path / "run", "--with-retries", "--json")
    assert whole.code == 0
    assert whole.json["rows"]["done"] == 12


def test_sweep_deletes_orphans_and_nothing_else(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    before = set(files_below(tmp_path / "run"))
    orphan = tmp_path / "run" / "data" / "000001-aaaaaaaaaaaa.tar"
    orphan.write_bytes(b"left behind")
    assert farm("verify", tmp_path / "run", "--json").json["orphans"] == 1
    assert farm("sweep", tmp_path / "run", "--json").json["objects"] == 1
    assert set(files_below(tmp_path / "run")) == before
    assert farm("verify", tmp_path / "run").code == 0


def test_validate_prints_the_mapping_in_force_and_writes_nothing(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    job = write_job(prompts={"columns": {"id": None}})
    ended = farm("validate", job)
    assert ended.code == 0
    assert "prompt ← prompt" in ended.out
    assert "id ←" not in ended.out
    assert files_below(tmp_path / "run") == []
    assert farm("validate", job, "--json").json["columns"] == {"prompt": "prompt"}


def test_plan_tells_rows_samples_shards_and_bytes(farm: Farm, write_job: WriteJob, tmp_path: Path):
    job = write_job(rows=10, defaults={"samples": 3})
    ended = farm("plan", job, "--json")
    assert ended.json["rows"] == 10
    assert ended.json["samples"] == 30
    assert ended.json["shards"] == 3
    assert ended.json["bytes"] > 0
    probed = farm("plan", job, "--probe", "4", "--hourly-cost", "2", "--json")
    assert probed.json["probe"]["samples"] == 4
    assert probed.json["probe"]["cost"] == pytest.approx(2 * probed.json["probe"]["worker_hours"])
    assert not (tmp_path / "run").exists()


def test_show_tells_what_became_of_a_row(farm: Farm, write_job: WriteJob, tmp_path: Path):
    prompts = [None if row == 5 else f"p{row}" for row in range(12)]
    job = write_job(columns={"prompt": prompts}, limits={"max_quarantined": 0.5})
    farm("submit", job, "--local")
    done = farm("show", tmp_path / "run", "7", "--json").json
    assert (done["state"], done["shard"], done["samples"][0]["prompt"]) == ("done", 1, "p7")
    assert farm("show", tmp_path / "run", "5", "--json").json["state"] == "quarantined"
    assert farm("show", tmp_path / "run", "12", "--json").fields == ["ROW"]


def test_sample_makes_a_contact_sheet(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    ended = farm("sample", tmp_path / "run", "--out", tmp_path / "s" / "sheet.png", "--json")
    assert ended.json["samples"] == 12
    assert (tmp_path / "s" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_pinned_key_that_changed_is_refused_with_the_difference(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    farm("submit", write_job(), "--local")
    before = {path: path.read_bytes() for path in files_below(tmp_path / "run")}
    ended = farm("submit", write_job(defaults={"steps": 9}, seed=1), "--local", "--json")
    assert ended.code == 2
    assert ended.fields == ["defaults.steps", "seed"]
    error = ended.json["errors"][0]
    assert error["value"] == "9"
    assert error["allowed"].startswith("4, pinned by the run")
    assert {path: path.read_bytes() for path in files_below(tmp_path / "run")} == before


def test_free_keys_may_change(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    changed = write_job(name="renamed", limits={"attempts": 9}, workers={"count": 7})
    assert farm("submit", changed, "--local").code == 0
    assert farm("resume", tmp_path / "run", "--local", "--set", "limits.attempts=5").code == 0
    ended = farm("resume", tmp_path / "run", "--local", "--set", "seed=5", "--json")
    assert ended.code == 2
    assert ended.fields == ["--set seed"]


def wrong(**sections: Any) -> dict[str, Any]:
    return sections


@pytest.mark.parametrize(
    ("sections", "fields"),
    [
        (wrong(outptu={"uri": "x"}), ["outptu"]),
        (wrong(defaults={"steps": "many"}), ["defaults.steps"]),
        (wrong(defaults={"width": 65}), ["defaults.width"]),
        (wrong(prompts={"columns": {"prompt": "caption"}}), ["prompts.columns.prompt"]),
        (wrong(prompts={"path": "/nowhere/x.parquet"}), ["prompts.path"]),
        (wrong(prompts={"path": "https://x/y.parquet"}), ["prompts.path"]),
        (wrong(layout={"uri": "gs://bucket/x"}), ["output.uri"]),
        (wrong(layout={"uri": "s3://"}), ["output.uri"]),
        (wrong(model={"path": "/no/model", "engine": "auto"}), ["model.path"]),
        (wrong(model={"path": "/no/model", "engine": "steps"}), ["model.path"]),
        (wrong(defaults={"scheduler": "magic"}), ["defaults.scheduler"]),
        (
            wrong(seed=-1, layout={"quality": 101}, shards={"rows": 0}),
            ["output.quality", "seed", "shards.rows"],
        ),
        (
            wrong(prompts={"path": "/nowhere"}, model={"path": "/no/model", "engine": "call"}),
            ["model.path", "prompts.path"],
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else "+".join(value),
)
@pytest.mark.parametrize("command", ["submit", "validate"])
def test_wrong_jobs_end_with_2_and_nothing_written(
    farm: Farm,
    write_job: WriteJob,
    tmp_path: Path,
    command: str,
    sections: dict[str, Any],
    fields: list[str],
):
    job = write_job(**sections)
    local = ["--local"] if command == "submit" else []
    ended = farm(command, job, *local, "--json")
    assert ended.code == 2
    assert sorted(ended.fields) == fields
    assert ended.json["ok"] is False
    assert all(error["allowed"] and error["fix"] for error in ended.json["errors"])
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_rows_is_refused(farm: Farm, write_job: WriteJob):
    ended = farm("submit", write_job(rows=0), "--local", "--json")
    assert ended.code == 2
    assert ended.fields == ["prompts.path"]


def test_errors_for_people_name_value_allowed_and_fix(farm: Farm, write_job: WriteJob):
    ended = farm("validate", write_job(defaults={"stpes": 3}))
    assert ended.code == 2
    assert ended.out == ""
    assert "defaults.stpes" in ended.err
    assert "did you mean steps?" in ended.err


@pytest.mark.parametrize(
    "arguments", [("submit",), ("nonsense",), ("status", "x", "--no-such"), ("show", "x", "y")]
)
def test_wrong_arguments_end_with_2(farm: Farm, arguments: tuple[str, ...]):
    assert farm(*arguments).code == 2
    ended = farm(*arguments, "--json")
    assert ended.code == 2
    assert ended.fields == ["arguments"]


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys, render_farm.cli.main as m\n"
        "heavy = {'torch','ray','diffusers','pyarrow','boto3','numpy','pydantic','PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "render_farm", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("render-farm ")


def test_json_is_alone_on_standard_output_whatever_libraries_print(farm: Farm, write_job: WriteJob):
    ended = farm("submit", write_job(), "--local", "--json", "--verbose")
    assert len(ended.out.strip().splitlines()) == 1
    json.loads(ended.out)


def test_a_detached_driver_goes_on_after_the_command_has_returned(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    command = ["submit", str(write_job()), "--local", "--detach", "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "render_farm", *command],
        capture_output=True,
        check=True,
        timeout=120,
    )
    told = json.loads(ended.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(told["pid"]).wait(timeout=120)
    assert farm("status", tmp_path / "run", "--json").json["state"] == "complete"
    log = Path(told["log"])
    assert "12 done, of 12" in log.read_text()
    log.unlink()


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        (wrong(layout={"uri": "memory://gone"}), "output.uri"),
        (wrong(layout={"uri": "~nosuchuser/x"}), "output.uri"),
        (wrong(prompts={"path": "~nosuchuser/x"}), "prompts.path"),
        (wrong(model={"path": "~nosuchuser/x", "engine": "call"}), "model.path"),
        (wrong(layout={"uri": "a\nb"}), "output.uri"),
        (wrong(workers={"gpus": 1.5}), "workers.gpus"),
        (wrong(workers={"gpus": 0.00001}), "workers.gpus"),
        (wrong(defaults={"negative_prompt": "x" * 100_001}), "defaults.negative_prompt"),
    ],
)
def test_values_that_only_look_harmless_are_refused(
    farm: Farm, write_job: WriteJob, sections: dict[str, Any], field: str
):
    ended = farm("submit", write_job(**sections), "--local", "--json")
    assert (ended.code, ended.fields) == (2, [field])


def test_a_result_inside_the_dataset_is_refused(farm: Farm, write_job: WriteJob, tmp_path: Path):
    """It holds Parquet files, so the second submit would take them for prompts."""
    job = write_job(prompts={"path": str(tmp_path)})
    ended = farm("submit", job, "--local", "--json")
    assert (ended.code, ended.fields) == (2, ["output.uri"])


def test_a_path_spelled_otherwise_is_the_same_dataset(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    farm("submit", write_job(), "--local")
    (tmp_path / "x").mkdir()
    again = write_job(prompts={"path": f"{tmp_path}/x/../prompts.parquet"})
    assert farm("submit", again, "--local").code == 0


def test_a_sheet_that_cannot_be_written_is_wrong_input(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    farm("submit", write_job(), "--local")
    ended = farm("sample", tmp_path / "run", "--out", tmp_path, "--json")
    assert (ended.code, ended.fields) == (2, ["--out"])


def test_brackets_in_arguments_are_no_markup(farm: Farm):
    assert farm("status", "a", "[/b]").code == 2


def test_strange_files_among_the_receipts_stop_nothing(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    job = write_job()
    farm("submit", job, "--local")
    (tmp_path / "run" / "receipts" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "run" / "receipts" / "000099.json").write_bytes(b"{}")
    assert farm("status", tmp_path / "run", "--json").json["state"] == "complete"
    assert farm("submit", job, "--local").code == 0
    assert farm("sweep", tmp_path / "run").code == 0
    assert farm("verify", tmp_path / "run", "--json").json["unexpected"] == 2


def test_a_moved_run_is_driven_where_it_is_now(farm: Farm, write_job: WriteJob, tmp_path: Path):
    farm("submit", write_job(), "--local")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "moved" / "manifest.json").unlink()
    (tmp_path / "moved" / "receipts" / "000001.json").unlink()
    ended = farm("resume", tmp_path / "moved", "--local", "--json")
    assert (ended.code, ended.json["samples"]["rendered"]) == (0, 4)
    assert not (tmp_path / "run").exists()


REHEARSED = {name: {"path": f"none/{name}", "engine": "rehearsal"} for name in ("sd15", "xl")}


def test_a_job_of_several_models_goes_the_whole_way(
    farm: Farm, write_job: WriteJob, tmp_path: Path
):
    chosen = ["sd15", "xl", None] * 4
    job = write_job(columns={"model": chosen}, models=REHEARSED, defaults={"model": "xl"})
    valid = farm("validate", job, "--json").json
    assert valid["models"]["xl"] == {"path": "none/xl", "revision": None, "digest": None}
    assert (valid["columns"]["model"], "model" in valid["carried"]) == ("model", True)
    assert "none/sd15" in farm("validate", job).out
    assert farm("plan", job, "--probe", "4", "--json").json["probe"]["samples"] == 4
    assert farm("submit", job, "--local").code == 0
    assert farm("verify", tmp_path / "run", "--replay", "6", "--json").json["replayed"] == 6
    (shown,) = farm("show", tmp_path / "run", "2", "--json").json["samples"]
    assert (shown["model"], shown["input_model"]) == ("none/xl", None)
    refused = farm("submit", job, "--local", "--set", "models.xl.path=none/other", "--json")
    assert (refused.code, refused.fields) == (2, ["models.xl.path"])
    assert farm("status", tmp_path / "run", "--json").json["state"] == "complete"


def test_rows_that_name_no_model_are_quarantined_by_that_name(farm: Farm, write_job: WriteJob):
    chosen = ["sd15", "sd1.5", "xl"] * 4
    limits = {"max_quarantined": 1.0}
    ended = farm(
        "submit", write_job(columns={"model": chosen}, models=REHEARSED, limits=limits), "--local"
    )
    assert ended.code == 3
    assert "4 rows: unknown_model" in ended.out
