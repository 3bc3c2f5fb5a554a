"""Background work of an asyncio process: supervised tasks, and threads for calls that block."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

log = logging.getLogger("farm")

R = TypeVar("R")
T = TypeVar("T")

CHUNK = 100  # objects of the store that a thread reads in one turn


def end_process(why: str) -> None:
    """End this process at once. Ray restarts its actor, which resumes from the store."""
    log.critical("this process ends: %s", why)
    os._exit(1)


class Background:
    """Starts tasks that run beside their caller, and calls blocking functions in threads.

    No task fails unnoticed: an error that no caller handles is logged and ends the process. The
    next process resumes from the store, which is better than to wait in vain for a worker or a
    clip.
    """

    def __init__(self, threads: int, on_failure: Callable[[str], None] = end_process) -> None:
        """threads: for `call`, and as many again for `read`, so that neither waits for the other.

        on_failure: called with what failed, and why.
        """
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="background")
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()  # asyncio itself keeps only weak references

    def start(
        self, work: Coroutine[Any, Any, R], handled: tuple[type[Exception], ...] = ()
    ) -> "asyncio.Task[R]":
        """Run a coroutine as a task.

        handled: errors that the caller who awaits the task handles. Any other is a failure.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if Exception not in handled:
            task.add_done_callback(lambda done: self._supervise(done, handled))
        return task

    def run_forever(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a loop that must never end; it is also a failure if it returns."""
        task = self.start(work)
        task.add_done_callback(self._report_end)

    async def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a blocking function in a thread, with this context; return its result."""
        loop, context = asyncio.get_running_loop(), copy_context()
        return await loop.run_in_executor(self._threads, context.run, function, *arguments)

    async def read(self, function: Callable[..., R], *arguments: Any) -> R:
        """Like `call`, for reads, of which many may come at once: no write waits behind them."""
        loop, context = asyncio.get_running_loop(), copy_context()
        return await loop.run_in_executor(self._readers, context.run, function, *arguments)

    async def read_in_chunks(
        self, function: Callable[[Sequence[T]], R], of: Sequence[T]
    ) -> list[R]:
        """Like `read`, for thousands of small objects: CHUNK of them at a time, in order."""
        chunks = (of[start : start + CHUNK] for start in range(0, len(of), CHUNK))
        return await asyncio.gather(*(self.read(function, chunk) for chunk in chunks))

    async def cancel_all(self) -> None:
        """Cancel all tasks, wait until they have ended, and shut the threads down."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)
        self._readers.shutdown(wait=False)

    def _supervise(self, task: "asyncio.Task[Any]", handled: tuple[type[Exception], ...]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, handled):
            name = _name_of(task)
            log.critical("background task %s failed", name, exc_info=error)
            self._on_failure(f"{name} failed: {error!r}")

    def _report_end(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and task.exception() is None:
            self._on_failure(f"{_name_of(task)} returned, but must run for ever")


def _name_of(task: "asyncio.Task[Any]") -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


def in_daemon_thread(work: Callable[[], T]) -> Future[T]:
    """Run blocking work in a thread that, unlike a pool's, does not delay the process's exit."""
    future = Future[T]()
    future.set_running_or_notify_cancel()  # it can no longer be cancelled

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
