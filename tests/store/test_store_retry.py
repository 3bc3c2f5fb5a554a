"""`retry_until_stored` retries after errors of the store until they end, and after no others."""

import asyncio
import logging
from collections.abc import Iterable

import pytest

import farm.store.retry
from farm.errors import ConflictError, FarmError, JobError, StoreError
from farm.store.retry import retry_until_stored


def retried(monkeypatch: pytest.MonkeyPatch, errors: Iterable[Exception]) -> tuple[str, list[int]]:
    """The result and the attempts of work that raises the errors in turn and then succeeds."""
    monkeypatch.setattr(farm.store.retry, "RETRY_S", 0.0)
    left, attempts = iter(errors), list[int]()

    async def work() -> str:
        attempts.append(len(attempts) + 1)
        for error in left:
            raise error
        return "stored"

    return asyncio.run(retry_until_stored(work, "job-1: its record cannot be written")), attempts


def test_store_errors_are_retried_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "farm"):
        result = retried(monkeypatch, [StoreError("the disk is full"), ConflictError("taken")])
    assert result == ("stored", [1, 2, 3])
    assert [record.getMessage() for record in caplog.records] == [
        "job-1: its record cannot be written; trying again in 0 s: the disk is full",
        "job-1: its record cannot be written; trying again in 0 s: taken",
    ]


@pytest.mark.parametrize("error", [JobError("no such job"), ValueError("a mistake")])
def test_other_errors_are_raised_as_they_are(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        retried(monkeypatch, [StoreError("down"), error, FarmError("never reached")])
    assert caught.value is error


def test_cancelling_ends_the_retries() -> None:
    async def fail() -> None:
        raise StoreError("down")

    async def run() -> None:
        task = asyncio.create_task(retry_until_stored(fail, "nothing can be written"))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(run(), 10))
