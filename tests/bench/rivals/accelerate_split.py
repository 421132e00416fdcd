"""The script of diffusers' documentation: `split_between_processes`, a process a device.

    torchrun --nproc-per-node 2 -m tests.bench.rivals.accelerate_split '{…}'

The documentation's loop, with a batch of prompts a call instead of all of them. On CPUs several
processes are started by torchrun: `accelerate launch` wants MPI for it.
"""

from __future__ import annotations

import time
from pathlib import Path

from accelerate import PartialState

from tests.bench.rivals.case import Case, Files, finished_rows, in_batches, say
from tests.bench.rivals.pipeline import Pipeline


def main() -> None:
    case = Case.from_arguments()
    state = PartialState(cpu=True)
    pipeline, files = Pipeline(case), Files(case, f"rank-{state.process_index}")
    mark = Path(case.marks) / f"rank-{state.process_index}"
    with state.split_between_processes(case.read()) as rows:
        for batch in in_batches(rows, case.batch):
            pictures = pipeline(batch)
            if not mark.exists():
                mark.write_text(str(time.time()))
            files.add(finished_rows(case, batch, pictures))
    files.flush()
    state.wait_for_everyone()
    if state.is_main_process:
        marks = [float(each.read_text()) for each in Path(case.marks).iterdir()]
        say(case, min(marks), time.time())
    state.destroy_process_group()


if __name__ == "__main__":
    main()
