"""When a run stops instead of quarantining on: one mistake must not cost a million rows."""

from __future__ import annotations

import threading

from render_farm.farm.messages import Answer, Assignment, ShardClosed, Tally
from render_farm.ledger.receipt import Receipt

MIN_ROWS_FOR_FRACTION = 200
MIN_QUARANTINED_FOR_FRACTION = 20
MIN_ROWS_ALL_FAILED = 8


def over_limit(tally: Tally, max_quarantined: float) -> tuple[str, str] | None:
    """Why and with what fix the run should stop instead of quarantining on, or None.

    One mistake that spoils every row must not quarantine a million of them: the run stops once
    the fraction is above its limit (of at least 200 decided rows, at least 20 quarantined), or
    when all rows so far, at least 8, failed with one error.
    """
    if not tally.decided or tally.quarantined / tally.decided <= max_quarantined:
        return None
    commonest, count = max(tally.errors_by_type.items(), key=lambda item: (item[1], item[0]))
    enough = (
        tally.decided >= MIN_ROWS_FOR_FRACTION and tally.quarantined >= MIN_QUARANTINED_FOR_FRACTION
    )
    all_alike = tally.decided == count >= MIN_ROWS_ALL_FAILED
    if not enough and not all_alike:
        return None
    reason = (
        f"{tally.quarantined} of {tally.decided} rows could not be rendered, more than "
        f"limits.max_quarantined={max_quarantined:g} allows; the commonest error is {commonest} "
        f"({count} rows)"
    )
    fix = (
        "Correct the dataset or the job; or, if such rows are expected, go on with "
        "resume --set limits.max_quarantined=1."
    )
    return reason, fix


class Tallies:
    """What one worker knows of how the rows decided so far ended: its driver's word and its own.

    The driver counts a shard when it hears of it; what this worker has closed since is added here,
    so that it does not go on past a limit while it has several shards in hand.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers = 0
        self._own: list[tuple[int, Receipt]] = []

    def answered(self, answer: Answer) -> None:
        """An answer goes to the driver."""
        with self._lock:
            self._answers += 1
            if isinstance(answer, ShardClosed) and answer.own:
                self._own.append((self._answers, answer.receipt))

    def with_own(self, assignment: Assignment) -> Tally:
        """The driver's tally, and what it had not heard of when it wrote it."""
        with self._lock:
            unheard = [receipt for number, receipt in self._own if number > assignment.heard]
        tally = assignment.tally
        for receipt in unheard:
            tally = tally.plus(receipt)
        return tally

    def forget_heard(self, heard: int) -> None:
        """The driver has counted so many answers: an assignment says so, and later ones too."""
        with self._lock:
            self._own = [(number, receipt) for number, receipt in self._own if number > heard]
