"""One policy for work that must reach the store: it is retried until the store answers."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from farm.errors import StoreError

log = logging.getLogger("farm")

R = TypeVar("R")

RETRY_S = 2.0  # between two attempts


async def retry_until_stored(work: Callable[[], Awaitable[R]], failing: str) -> R:
    """Await `work()`, again and again while it raises StoreError, and return its result.

    failing: what cannot be done meanwhile, for the log. Other errors are the caller's.
    """

    def warn(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s; trying again in %g s: %s", failing, RETRY_S, error)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreError), wait=wait_fixed(RETRY_S), before_sleep=warn
    )
    return await retrying(work)
