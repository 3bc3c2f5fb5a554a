"""Nothing that runs in the background dies in silence; and calls that would block have threads."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from farm.background import Background
from farm.coordinator.inbox import Inbox
from farm.errors import StoreError


def failures_of(test: Callable[[Background], Awaitable[None]]) -> list[str]:
    """What a background has reported by the end of a test."""
    failures: list[str] = []

    async def run() -> None:
        background = Background(2, failures.append)
        try:
            await test(background)
        finally:
            await background.cancel_all()

    asyncio.run(asyncio.wait_for(run(), 60))
    return failures


async def broken(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


async def settled(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait({task})
    await asyncio.sleep(0)


def test_a_task_that_fails_is_logged_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def test(background: Background) -> None:
        await settled(background.start(broken(KeyError("x"))))

    with caplog.at_level(logging.CRITICAL, "farm"):
        assert failures_of(test) == ["broken failed: KeyError('x')"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert repr(record.exc_info[1]) == "KeyError('x')"


def test_errors_that_somebody_handles_are_his() -> None:
    async def test(background: Background) -> None:
        task = background.start(broken(StoreError("away")), handled=(StoreError,))
        with pytest.raises(StoreError):
            await task
        task = background.start(broken(KeyError("x")), handled=(StoreError,))
        with pytest.raises(KeyError):
            await task
        task = background.start(broken(KeyError("x")), handled=(Exception,))
        with pytest.raises(KeyError):
            await task

    assert failures_of(test) == ["broken failed: KeyError('x')"]


def test_a_loop_that_ends_is_a_failure_and_one_that_is_cancelled_is_not() -> None:
    async def returns() -> None: ...

    async def goes_on() -> None:
        await asyncio.Event().wait()

    async def test(background: Background) -> None:
        background.run_forever(returns())
        background.run_forever(broken(KeyError("x")))
        background.run_forever(goes_on())
        for _ in range(5):
            await asyncio.sleep(0)

    returned, failed = failures_of(test)
    assert returned.endswith("returns returned, but must run for ever")
    assert failed == "broken failed: KeyError('x')"


def test_a_task_that_is_done_is_no_failure() -> None:
    async def test(background: Background) -> None:
        assert await background.start(background.call(divmod, 7, 3)) == (2, 1)

    assert failures_of(test) == []


def test_readers_do_not_hold_up_writers() -> None:
    async def test(background: Background) -> None:
        go = threading.Event()
        reads = [background.start(background.read(go.wait, 30)) for _ in range(20)]
        await asyncio.wait_for(background.call(time.sleep, 0), 10)
        go.set()
        await asyncio.gather(*reads)

    assert failures_of(test) == []


def test_an_inbox_gives_messages_in_order_and_wakes_its_reader() -> None:
    async def run() -> None:
        inbox = Inbox[int]()
        assert await inbox.take(0.01) == []
        for number in range(3):
            inbox.put(number)
        assert await inbox.take() == [0, 1, 2]
        reader = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        assert not reader.done()
        inbox.wake()
        assert await reader == []
        reader = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        inbox.put(3)
        inbox.put(4)
        assert await reader == [3, 4]

    asyncio.run(asyncio.wait_for(run(), 60))
