"""Prompts of the scenes world as a Parquet file: `python -m jobs.scenes.prompts --out FILE`.

Columns: `key` (the row's id), `caption` (the prompt), and the words of the scene as labels: `size`,
`colour`, `shape`, `place`, `background`. The same arguments give the same rows.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.scenes import world


def prompt_table(rows: int, seed: int, *, from_held_out: bool) -> pa.Table:
    """Prompts of uniformly drawn scenes, from one side of the held-out split; all strings."""
    scenes = world.sample_scenes(rows, np.random.default_rng(seed), from_held_out=from_held_out)
    columns = {
        "key": [f"scene-{row:06d}" for row in range(rows)],
        "caption": [world.prompt(scene) for scene in scenes],
    }
    labels = {name: [getattr(scene, name) for scene in scenes] for name in world.ATTRIBUTES}
    return pa.table(columns | labels)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="only triples kept from training")
    parser.add_argument("--row-group", type=int, default=128, help="rows of a row group")
    arguments = parser.parse_args()
    table = prompt_table(arguments.rows, arguments.seed, from_held_out=arguments.held_out)
    pq.write_table(table, arguments.out, row_group_size=arguments.row_group)
    print(f"{arguments.out}: {table.num_rows} prompts")  # noqa: T201 — a command


if __name__ == "__main__":
    main()
