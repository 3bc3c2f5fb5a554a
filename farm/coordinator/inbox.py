"""A queue of messages for a single reader."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Any number of writers and one reader, all in the same asyncio loop."""

    def __init__(self) -> None:
        self._messages: list[T] = []
        self._woken = asyncio.Event()

    def put(self, message: T) -> None:
        """Add a message, and wake the reader."""
        self._messages.append(message)
        self._woken.set()

    def wake(self) -> None:
        """Wake the reader without a message."""
        self._woken.set()

    async def take(self, timeout_s: float | None = None) -> list[T]:
        """Wait for a message, for `wake` or for the timeout; returns all messages in order."""
        if not self._woken.is_set():
            try:
                await asyncio.wait_for(self._woken.wait(), timeout_s)
            except TimeoutError:
                return []
        return self.take_now()

    def take_now(self) -> list[T]:
        """All messages, without waiting."""
        self._woken.clear()
        messages, self._messages = self._messages, []
        return messages
