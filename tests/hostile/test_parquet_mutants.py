"""Thousands of spoiled Parquet files: each refused, or read as what it is and pinned like that.

They are opened by our own code in child processes with bounded memory, so that a crash inside a
library, a hang or a demand for memory is a failure with the name of the file that did it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.hostile.children import verdicts
from tests.hostile.judge import OTHER_ROWS, REFUSED, SAME_ROWS, VERDICTS
from tests.hostile.mutants import DAMAGES, mutant
from tests.hostile.parquet_flavours import flavours

TURNS = 18
MUTANTS = TURNS * len(DAMAGES) * len(flavours())


def test_no_mutant_crashes_us_or_is_taken_for_the_file_that_was_pinned(
    figure: Callable[[str, object], None], tmp_path: Path
) -> None:
    """Without checksums a file of other values is a file: it is pinned by its digest as it is."""
    found = verdicts("tests.hostile.judge:judge", range(MUTANTS), tmp_path)
    defects = {
        f"{seed}: {mutant(seed).flavour}, {mutant(seed).damage}": verdict
        for seed, verdict in found.items()
        if verdict not in VERDICTS
    }
    assert not defects
    counts = Counter(found.values())
    assert min(counts[verdict] for verdict in VERDICTS) > 50, counts
    figure("Parquet mutants: all refused where the whole file was pinned", len(found))
    figure("Parquet mutants at first submit: refused", counts[REFUSED])
    figure("Parquet mutants at first submit: read, the rows unchanged", counts[SAME_ROWS])
    figure("Parquet mutants at first submit: other rows, pinned and rendered", counts[OTHER_ROWS])
    figure("Parquet mutants that crashed, hung or exhausted memory", len(defects))


def test_every_flavour_meets_every_damage_and_a_number_always_names_the_same_mutant() -> None:
    met = {(mutant(seed).flavour, mutant(seed).damage) for seed in range(MUTANTS)}
    assert len(met) == len(flavours()) * len(DAMAGES)
    assert MUTANTS >= 3000
    assert mutant(1234) == mutant(1234)


def ends_badly(case: int) -> str:
    """For the test below: dies, hangs, demands memory or raises, by its number."""
    if case == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == 4:
        os._exit(7)
    if case == 5:
        signal.alarm(1)
        time.sleep(600)
    if case == 6:
        bytearray(2**40)
    return "well"


def test_a_bad_end_is_laid_to_the_case_that_met_it_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    found = verdicts(f"{__name__}:ends_badly", range(1, 8), tmp_path)
    assert "MemoryError" in found.pop(6)
    assert found == {
        1: "well",
        2: "died by SIGSEGV",
        3: "well",
        4: "died by exit code 7",
        5: "died by SIGALRM",
        7: "well",
    }
