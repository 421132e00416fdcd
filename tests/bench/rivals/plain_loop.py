"""A plain loop over the stock pipeline in one process: what one writes first."""

from __future__ import annotations

import time

from tests.bench.rivals.case import Case, Files, finished_rows, in_batches, say
from tests.bench.rivals.pipeline import Pipeline


def main() -> None:
    case = Case.from_arguments()
    pipeline, files = Pipeline(case), Files(case, "part")
    first_done_at = 0.0
    for batch in in_batches(case.read(), case.batch):
        pictures = pipeline(batch)
        first_done_at = first_done_at or time.time()
        files.add(finished_rows(case, batch, pictures))
    files.flush()
    say(case, first_done_at, time.time())


if __name__ == "__main__":
    main()
