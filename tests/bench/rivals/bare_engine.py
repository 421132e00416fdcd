"""Our own engine with nothing around it: requests in, pixels out. What the farm may not lose."""

from __future__ import annotations

import time

from render_farm.farm.models import build_here
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import prepare
from render_farm.job.load import parse_job
from render_farm.job.plan import Plan
from render_farm.job.prompts import ShardReader
from render_farm.job.resolve import resolve_row
from render_farm.job.rows import rows_of
from tests.bench.demo_job import demo_job
from tests.bench.rivals.case import Case, say


def main() -> None:
    case = Case.from_arguments()
    record = new_run_record(prepare(parse_job(demo_job(case)), "/dev/null/no-folder"))
    sampler = build_here(record, "/dev/null/no-folder")
    (shard,) = Plan([case.rows], case.rows)
    table = ShardReader(record.prompts.dataset()).read(shard)
    mapping = record.prompts.request_columns()
    requests = [
        request
        for row in rows_of(table, shard, record.prompts.files[0].path, mapping)
        for request in resolve_row(row, record.job, mapping)
    ]
    first_done_at = 0.0
    for outcome in sampler.render(requests, case.batch):
        del outcome
        first_done_at = first_done_at or time.time()
    say(case, first_done_at, time.time())


if __name__ == "__main__":
    main()
