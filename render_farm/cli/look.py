"""Commands that only look: validate, plan, status, verify, show, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from render_farm.cli import arguments as args
from render_farm.cli.console import (
    STOPPED,
    UNEXPECTED,
    lasting,
    reporting,
    set_up_logging,
    write_file,
)
from render_farm.cli.driving import model_cache, show_status


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for command in (validate, plan, status, verify, show, sample):
        app.command()(command)


def validate(
    job: args.Job,
    overrides: args.Set = None,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Check job file, dataset, columns, model folder and store; renders nothing."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.opening import check_output
        from render_farm.farm.prepare import prepare
        from render_farm.job.load import load_job
        from render_farm.job.resolve import carried_columns

        prepared = prepare(lasting(load_job(job, overrides or ())), model_cache())
        known = check_output(prepared)
        carried = carried_columns(prepared.dataset.schema, prepared.columns)
        models = {name: model.model_dump() for name, model in prepared.models.items()}
        report.data = {
            "ok": True,
            "columns": dict(prepared.columns),
            "carried": carried,
            "files": len(prepared.dataset.files),
            "rows": sum(file.rows for file in prepared.dataset.files),
            **({"models": models} if prepared.job.models else {"model": models[""]}),
            "run_exists": known,
        }
        mapping = ", ".join(f"{field} ← {column}" for field, column in prepared.columns.items())
        report.table(
            [
                ("prompts", f"{report.data['rows']} rows in {report.data['files']} files"),
                ("columns", mapping),
                ("carried", ", ".join(carried) or "none"),
                *(
                    (f"model {name}".rstrip(), f"{model.path} {model.revision or ''}".rstrip())
                    for name, model in prepared.models.items()
                ),
                ("output", prepared.job.output.uri + (" (a run to go on with)" if known else "")),
            ]
        )
        report.say("the job is valid")


def plan(
    job: args.Job,
    probe: Annotated[
        int, typer.Option(min=0, max=10_000, help="Render N samples here and extrapolate.")
    ] = 0,
    hourly_cost: Annotated[
        float, typer.Option(min=0, max=1e6, help="What one worker costs an hour, for --probe.")
    ] = 0.0,
    overrides: args.Set = None,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Shards, rows, samples and bytes of a job; with --probe also hours and cost."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.prepare import prepare
        from render_farm.farm.probe import guessed_bytes_per_sample, probe_job
        from render_farm.job.load import load_job
        from render_farm.job.plan import Plan, limited

        prepared = prepare(load_job(job, overrides or ()), model_cache())
        spec = prepared.job
        rows = [file.rows for file in prepared.dataset.files]
        shards = Plan(limited(rows, spec.prompts.limit), spec.shards.rows)
        samples = shards.rows * spec.defaults.samples
        measured = probe_job(prepared, probe, model_cache()) if probe else None
        size = measured.bytes_per_sample if measured else guessed_bytes_per_sample(spec)
        report.data = {
            "rows": shards.rows,
            "samples": samples,
            "shards": shards.shards,
            "bytes": round(samples * size),
        }
        lines = [
            ("rows", f"{shards.rows:,}"),
            ("samples", f"{samples:,}"),
            ("shards", f"{shards.shards:,}"),
            ("bytes", f"{report.data['bytes']:,} ({'measured' if measured else 'a guess'})"),
        ]
        if measured:
            hours = samples * measured.seconds_per_sample / 3600
            count = spec.workers.count if spec.workers.count != "auto" else 1
            report.data["probe"] = {
                "samples": measured.samples,
                "seconds_per_sample": measured.seconds_per_sample,
                "worker_hours": hours,
                "hours": hours / count,
                "cost": hours * hourly_cost,
            }
            lines += [
                ("probe", f"{measured.seconds_per_sample:.3f} s a sample on {measured.device}"),
                ("time", f"{hours:.2f} worker hours, {hours / count:.2f} h with {count} workers"),
                ("cost", f"{hours * hourly_cost:,.2f} at {hourly_cost:g} a worker hour"),
            ]
        report.table(lines)


def status(run: args.Run, as_json: args.Json = False, verbose: args.Verbose = False) -> None:
    """Rows and shards by state, failed shards with their errors, rate and time to go."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.store.open import open_store
        from render_farm.views.status import read_status

        found = read_status(open_store(run))
        report.data = found.to_json()
        show_status(report, found)


def verify(
    run: args.Run,
    replay: Annotated[
        int, typer.Option(min=0, help="Render N samples again here and compare their bytes.")
    ] = 0,
    with_retries: Annotated[
        bool, typer.Option("--with-retries", help="Count rows that child runs rendered.")
    ] = False,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Read everything back: nothing lost, duplicated, unexpected or corrupt."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.models import build_here
        from render_farm.farm.retry import child_runs
        from render_farm.ledger.record import read_record
        from render_farm.store.open import open_store
        from render_farm.views.replay import replay_samples
        from render_farm.views.verify import verify_run

        store = open_store(run)
        record = read_record(store)
        verdict = verify_run(store, record)
        for child in child_runs(store) if with_retries else ():
            verdict = verdict.with_child(verify_run(child, read_record(child)))
        replays = []
        if replay:
            replays = replay_samples(
                store,
                record,
                replay,
                lambda compiled: build_here(record, model_cache(), compiled=compiled),
            )
        mismatches = [result for result in replays if result.mismatch]
        report.data = verdict.to_json() | {
            "replayed": len(replays),
            "replay_mismatches": len(mismatches),
        }
        whole = verdict.findings.whole and not mismatches
        report.data["ok"] = verdict.complete and whole
        report.code = UNEXPECTED if not whole else 0 if verdict.complete else STOPPED
        rows = verdict.rows
        counts = report.data
        report.table(
            [
                ("samples", f"{verdict.samples} read back"),
                ("rows", ", ".join(f"{count} {end}" for end, count in rows.items() if count)),
                *(
                    (kind, str(counts[kind]))
                    for kind in ("lost", "duplicated", "unexpected", "corrupt", "orphans")
                ),
            ]
        )
        for problem in verdict.findings.problems:
            report.say(problem)
        for result in replays:
            if not result.same:
                where = "" if result.comparable else ", rendered on another device model"
                report.say(f"replay of {result.key}: PSNR {result.psnr_db:.1f} dB{where}")
        if replays:
            same = sum(result.same for result in replays)
            report.say(f"{same} of {len(replays)} replays identical")
        verdicts = {0: "whole", UNEXPECTED: "NOT whole", STOPPED: "whole so far, not complete"}
        report.say(verdicts[report.code])


def show(
    run: args.Run,
    row: Annotated[int, typer.Argument(help="The row's ordinal in the dataset, from 0.")],
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """What became of one row: its samples with their metadata, or its error."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.ledger.record import read_record
        from render_farm.store.open import open_store
        from render_farm.views.row import show_row

        store = open_store(run)
        report.data = show_row(store, read_record(store), row)
        listed = {"samples", "failures"}
        report.table([(k, str(v)) for k, v in report.data.items() if k not in listed])
        for error in report.data.get("failures", ()):
            report.say(error)
        for line in report.data["samples"]:
            report.say("")
            report.table([(key, str(value)) for key, value in line.items() if value is not None])


def sample(
    run: args.Run,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("sheet.png"),
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many samples at most.")] = 48,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """A contact sheet: samples from all over the run, each with its prompt."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.ledger.record import read_record
        from render_farm.store.open import open_store
        from render_farm.views.sheet import make_sheet

        store = open_store(run)
        sheet = make_sheet(store, read_record(store), count)
        write_file("--out", out, sheet.png)
        report.data = {"run": store.uri, "sheet": str(out), "samples": sheet.samples}
        report.say(f"{out}: {sheet.samples} samples")
