"""The text of a job file, from a file or a pipe, within bounds of size and time."""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path
from typing import BinaryIO

from render_farm.errors import InputError, first_line

MAX_JOB_FILE_BYTES = 256_000
"""The longest negative prompt and much beside it; PyYAML takes two seconds for the worst."""

PIPE_PATIENCE_S = 10


def read_text(path: Path) -> str:
    """What a job file holds. Raises: `InputError` if it cannot be read, or is no such file."""
    allowed = f"a readable YAML file in UTF-8 of at most {MAX_JOB_FILE_BYTES:,} bytes"
    try:
        with _opened(path) as file:
            text = file.read(MAX_JOB_FILE_BYTES + 1)
        if len(text) > MAX_JOB_FILE_BYTES:
            raise InputError.of("JOB", str(path), allowed, "check that this is the job file")
        return text.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        raise InputError.of(
            "JOB",
            f"{path} ({first_line(error)})",
            allowed,
            "check the path and the file",
        ) from error


def _opened(path: Path) -> BinaryIO:
    """The file, or the pipe once there is something in it: one without a writer would never end."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115, PTH123
    is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    if is_pipe and not select.select([file], [], [], PIPE_PATIENCE_S)[0]:
        file.close()
        raise TimeoutError(f"nothing was written to this pipe in {PIPE_PATIENCE_S} s")
    os.set_blocking(file.fileno(), True)
    return file
