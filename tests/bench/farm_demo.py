"""The farm with the demo model on the same task as the rivals; prints the same answer.

    python -m tests.bench.farm_demo '{"prompts": …, "output": …}'

Counted is from the first image to the last commit.
"""

from __future__ import annotations

from render_farm.farm.bench.measuring import Measured
from render_farm.farm.models import build_pinned
from render_farm.job.load import parse_job
from tests.bench.demo_job import demo_job
from tests.bench.rivals.case import Case, say


def main() -> None:
    case = Case.from_arguments()
    run = Measured(parse_job(demo_job(case)), build_pinned, together=case.processes)
    seen = run.drive(lambda progress: None)
    assert seen.end.reason is None, seen.end.reason
    usages = seen.observed.usages.values()
    first_done_at = min(each.first_image_at for each in usages if each.first_image_at is not None)
    say(case, first_done_at, seen.observed.commits[-1].at)


if __name__ == "__main__":
    main()
