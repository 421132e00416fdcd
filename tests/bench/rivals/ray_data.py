"""Ray Data: `read_parquet → map_batches(actors) → write_parquet`, with its best honest settings.

Order is not kept, progress bars are off, and the rows are cut into blocks of `rows_a_file`, so
that pictures are written while others are drawn: of what was tried (one file or twenty, three
actors) this was the fastest. Actors reserve half a logical CPU, since on two cores whole ones would
leave none to readers and writers. A call gets a batch, as in Ray's documentation, or a whole block:
tuned by hand, one table is made of so many rows.
"""

from __future__ import annotations

import logging
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from render_farm.engine.rehearsal import draw
from tests.bench.rivals.case import Case, finished_rows, in_batches, say

LOGICAL_CPUS = 4
OBJECT_STORE_BYTES = 2 << 30


class Renderer:
    """The actor: pictures of a block of rows, in batches of the case's size."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._mark = Path(case.marks) / uuid.uuid4().hex
        self._render = _drawn(case) if case.model is None else _modelled(case)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = []
        for batch in in_batches(block.to_pylist(), self._case.batch):
            pictures = self._render(batch)
            if not self._mark.exists():
                self._mark.write_text(str(time.time()))
            rows += finished_rows(self._case, batch, pictures)
        return pa.Table.from_pylist(rows, schema=self._case.schema)


def _drawn(case: Case):
    def render(rows) -> list[np.ndarray]:
        return [draw(row[case.prompt_column], row["seed"], case.width, case.height) for row in rows]

    return render


def _modelled(case: Case):
    from tests.bench.rivals.pipeline import Pipeline  # noqa: PLC0415 - torch, where it is used

    return Pipeline(case)


def main() -> None:
    case = Case.from_arguments()
    ray.init(
        address="local",
        num_cpus=LOGICAL_CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    filesystem, folder = case.filesystem()
    (
        ray.data.read_parquet(case.prompts)
        .repartition(target_num_rows_per_block=case.rows_a_file)
        .map_batches(
            Renderer,
            fn_constructor_args=(case,),
            batch_size=None if case.by_block else case.batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=case.processes),
            num_cpus=0.5,
        )
        .write_parquet(folder, filesystem=filesystem)
    )
    ended_at = time.time()
    say(case, min(float(each.read_text()) for each in Path(case.marks).iterdir()), ended_at)
    ray.shutdown()


if __name__ == "__main__":
    main()
