"""Trying again against transient faults, for a bounded time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 15.0


class Patience(Protocol):
    """`patiently` for one store and key; `operation` is for the log."""

    def __call__(self, operation: str, call: Callable[[], Any]) -> Any: ...


def patiently(
    call: Callable[[], T],
    *,
    patience_s: float,
    is_transient: Callable[[BaseException], bool],
    operation: str,
    key: str,
) -> T:
    """Call until it succeeds or fails for good; no try begins after `patience_s`.

    Waits exponentially with full jitter in between, so that a thousand workers do not come back
    at once, and logs each wait. What is raised is the last try's own exception.
    """

    def log_wait(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        fields = {
            "operation": operation,
            "key": key,
            "attempt": state.attempt_number,
            "wait_s": round(state.upcoming_sleep, 3),
            "error": repr(error),
        }
        logger.warning("the store failed, waiting to %s again", operation, extra=fields)

    return Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_before_delay(patience_s),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        before_sleep=log_wait,
        reraise=True,
    )(call)
