"""Runs a test in an event loop, around parts of the coordinator that work in the background."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from farm.background import Background

WHOLE_S = 60.0  # for a whole test; generous


class Watched(Protocol):
    """Parts that work in the background, and what failed in it."""

    background: Background
    failures: list[str]


W = TypeVar("W", bound=Watched)


def in_loop(make: Callable[[], W], test: Callable[[W], Awaitable[object]]) -> W:
    """Run a test, after which nothing may have failed unseen but what it takes from `failures`.

    make: makes the parts, in the event loop.
    """

    async def all_of_it() -> W:
        parts = make()
        try:
            await test(parts)
        finally:
            await parts.background.cancel_all()
        assert parts.failures == []
        return parts

    return asyncio.run(asyncio.wait_for(all_of_it(), WHOLE_S))
