"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Job = Annotated[
    Path, typer.Argument(metavar="JOB", help="The job file (YAML).", show_default=False)
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="The output.uri of a run.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Report as one JSON object.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more to standard error.")]
Local = Annotated[
    bool, typer.Option("--local", help="Render in this process, one worker, without Ray.")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="A running Ray cluster (auto, ray://…, host:port); default: one of our own.",
        envvar="RAY_ADDRESS",
        show_default=False,
    ),
]
AllowOpenCluster = Annotated[
    bool,
    typer.Option(
        "--allow-open-cluster",
        help="Join a cluster that asks for no token though other machines reach it: everybody who "
        "does can run code with its nodes' credentials.",
    ),
]
ShipCode = Annotated[
    bool,
    typer.Option(
        "--ship-code",
        help="Send this very package to the cluster's nodes, which then need only what it depends "
        "on; default: each node's own, which must be of the same version.",
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Return while the driver goes on: with --address (a dashboard's http:// does as well) "
        "as a Ray job on the cluster's head, else as a process of this machine.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the job file; of a run that exists, a free one (limits.…).",
    ),
]
StrictVersions = Annotated[
    bool, typer.Option("--strict-versions", help="Refuse other library versions than before.")
]
AllowNoCas = Annotated[
    bool,
    typer.Option(
        "--allow-no-cas",
        help="Accept a store whose conditional create is not atomic: a second driver or a zombie "
        "worker may then commit a shard twice.",
    ),
]
