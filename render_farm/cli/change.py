"""Commands that change a run without rendering: cancel, sweep."""

from __future__ import annotations

import typer

from render_farm.cli import arguments as args
from render_farm.cli.console import reporting, set_up_logging


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command()(cancel)
    app.command()(sweep)


def cancel(run: args.Run, as_json: args.Json = False, verbose: args.Verbose = False) -> None:
    """End every open shard for good. What is done stays; `retry --cancelled` renders the rest."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.ledger.cancel import cancel_run
        from render_farm.ledger.manifest import write_manifest
        from render_farm.ledger.record import read_record
        from render_farm.store.open import open_store

        store = open_store(run)
        record = read_record(store)
        shards = cancel_run(store, record)
        write_manifest(store, record)
        report.data = {"run": store.uri, "shards_cancelled": shards}
        report.say(
            f"{shards} open shards cancelled" if shards else "nothing was open; nothing changed"
        )


def sweep(run: args.Run, as_json: args.Json = False, verbose: args.Verbose = False) -> None:
    """Delete what attempts left behind that lost their shard, and nothing else."""
    set_up_logging(verbose)
    with reporting(as_json) as report:
        from render_farm.ledger.record import read_record
        from render_farm.ledger.sweep import sweep_run
        from render_farm.store.open import open_store

        store = open_store(run)
        swept = sweep_run(store, read_record(store).plan.shards)
        report.data = {
            "run": store.uri,
            "objects": swept.objects,
            "bytes": swept.size_bytes,
            "uploads": swept.uploads,
        }
        report.say(
            f"{swept.objects} orphans deleted ({swept.size_bytes:,} bytes), "
            f"{swept.uploads} unfinished uploads aborted"
        )
