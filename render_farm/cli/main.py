"""The command `render-farm`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from render_farm import __version__
from render_farm.cli import bench, change, look, render
from render_farm.cli.console import BAD_INPUT, err, problems_json
from render_farm.errors import Problem

# typer carries a click of its own or uses the installed one, depending on its version
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="render-farm",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Render Parquet datasets of prompts into images, exactly once, on one machine or on a "
    "Ray cluster, into S3-compatible storage.",
    epilog="Exit codes of submit, resume and retry: 0 every row done; 1 unexpected error; 2 wrong "
    "input, nothing rendered; 3 complete with quarantined rows; 4 stopped before the end, or "
    "cancelled. Of verify: 0 whole, 1 not, 4 incomplete. Of status: 0 if it could be read.",
)
for commands in (render, look, change, bench):
    commands.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"render-farm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point: arguments that are wrong end like every other wrong input."""
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        fix = "see render-farm --help"
        if error.ctx is not None:
            fix = f"see {error.ctx.command_path} --help"
        problem = Problem("arguments", error.format_message(), "as --help shows", fix)
        if "--json" in sys.argv:
            typer.echo(problems_json((problem,)))
        err.print(
            f"[bold red]arguments[/]: {escape(error.format_message())}\n  [dim]fix:[/]     {fix}"
        )
        raise SystemExit(BAD_INPUT) from None
    except typer.Abort:
        raise SystemExit(4) from None
    raise SystemExit(code or 0)
