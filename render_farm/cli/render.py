"""Commands that render: submit, resume, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli import arguments as args
from render_farm.cli.console import err, lasting, reporting, set_up_logging
from render_farm.cli.detaching import detach as start_detached
from render_farm.cli.driving import drive, model_cache
from render_farm.errors import InputError

if TYPE_CHECKING:
    from render_farm.farm.session import Where
    from render_farm.ledger.record import RunRecord


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command()(submit)
    app.command()(resume)
    app.command()(retry)


def submit(
    job: args.Job,
    address: args.Address = None,
    allow_open_cluster: args.AllowOpenCluster = False,
    ship_code: args.ShipCode = False,
    local: args.Local = False,
    detach: args.Detach = False,
    overrides: args.Set = None,
    strict_versions: args.StrictVersions = False,
    allow_no_cas: args.AllowNoCas = False,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Validate a job, plan it and render it to the end; the same job again resumes."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.opening import open_run
        from render_farm.farm.prepare import prepare
        from render_farm.farm.session import free_keys
        from render_farm.job.load import load_job
        from render_farm.ledger import keys
        from render_farm.store.base import exists

        spec = lasting(load_job(job, overrides or ()))
        store, record = open_run(prepare(spec, model_cache()), allow_no_cas=allow_no_cas)
        _warn_of_versions(record, strict=strict_versions)
        free = free_keys(spec)
        where = _where(local, address, allow_open=allow_open_cluster, ship_code=ship_code)
        if detach and not exists(store, keys.MANIFEST):
            start_detached(store, record, where, free, report, strict_versions=strict_versions)
            return
        drive(store, record, where, free, report)


def resume(
    run: args.Run,
    address: args.Address = None,
    allow_open_cluster: args.AllowOpenCluster = False,
    ship_code: args.ShipCode = False,
    local: args.Local = False,
    detach: args.Detach = False,
    overrides: args.Set = None,
    strict_versions: args.StrictVersions = False,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Go on with a run from its URI alone; shards that failed are tried again."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.session import free_keys
        from render_farm.ledger import keys
        from render_farm.ledger.cancel import refuse_cancelled
        from render_farm.ledger.record import read_record
        from render_farm.store.base import exists
        from render_farm.store.open import open_store

        store = open_store(run)
        record = read_record(store)
        refuse_cancelled(store)
        free = free_keys(record.job, tuple(overrides or ()))
        _warn_of_versions(record, strict=strict_versions)
        where = _where(local, address, allow_open=allow_open_cluster, ship_code=ship_code)
        if detach and not exists(store, keys.MANIFEST):
            start_detached(store, record, where, free, report, strict_versions=strict_versions)
            return
        drive(store, record, where, free, report)


def retry(
    run: args.Run,
    cancelled: Annotated[
        bool, typer.Option("--cancelled", help="Take the rows of cancelled shards too.")
    ] = False,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only", help="Write the child's dataset, to be mended; render nothing."
        ),
    ] = False,
    address: args.Address = None,
    allow_open_cluster: args.AllowOpenCluster = False,
    ship_code: args.ShipCode = False,
    local: args.Local = False,
    overrides: args.Set = None,
    as_json: args.Json = False,
    verbose: args.Verbose = False,
) -> None:
    """Render the quarantined rows of a run in a child run below it."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.farm.opening import open_run
        from render_farm.farm.prepare import prepare
        from render_farm.farm.retry import make_child
        from render_farm.farm.session import free_keys
        from render_farm.ledger.record import read_record
        from render_farm.store.open import open_store

        parent = open_store(run)
        child = make_child(parent, read_record(parent), cancelled=cancelled)
        if plan_only:
            report.data = {"run": child.uri, "rows": child.rows}
            report.say(f"{child.uri}/prompts.parquet: {child.rows} rows to retry")
            report.say(f"mend them there if they need it; then: render-farm retry {run}")
            return
        free = free_keys(child.job, tuple(overrides or ()))
        # The parent's store was probed when it was submitted, and this is the same one.
        store, record = open_run(prepare(child.job, model_cache()), allow_no_cas=True)
        where = _where(local, address, allow_open=allow_open_cluster, ship_code=ship_code)
        drive(store, record, where, free, report)


def _where(local: bool, address: str | None, *, allow_open: bool, ship_code: bool) -> Where:
    from render_farm.farm.session import Where

    if ship_code and (local or address in {None, "local"}):
        raise InputError.of(
            "--ship-code",
            "without a cluster to send it to",
            "with --address",
            "leave it out: on this machine this very package is used",
        )
    return Where(local, address, model_cache(), allow_open, ship_code)


def _warn_of_versions(record: RunRecord, *, strict: bool) -> None:
    from render_farm.farm.session import check_versions

    for name, (then, now) in check_versions(record, strict=strict).items():
        err.print(
            f"[bold yellow]warning[/]: {name} is {now} here and was {then} at the first submit; "
            "pictures may differ in the last bits (--strict-versions refuses)"
        )
