"""What diffusers and transformers say while they work: silenced, or listened to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers

_LOGGERS = ("diffusers", "transformers")


def quiet_libraries() -> None:
    """Let the two libraries log errors only, and draw no progress bars, in the whole process.

    They warn of every prompt that is too long; the farm records `cut_tokens` instead.
    """
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Collect what the libraries warn of, instead of showing it, until the block ends."""
    heard: list[str] = []
    ear = _Ear(heard)
    before = []
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        before.append((logger, logger.level, logger.handlers[:], logger.propagate))
        logger.handlers[:] = [ear]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    try:
        yield heard
    finally:
        for logger, level, handlers, propagate in before:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)


class _Ear(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())
