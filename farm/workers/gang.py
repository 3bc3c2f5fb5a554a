"""A task on its workers: on one, or on several that share it and end together."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from farm.model.task_order import Order, Part, Step
from farm.scheduling.state import Fault
from farm.workers.pool import Pool, TaskError


async def run_members(
    pool: Pool,
    members: Sequence[str],
    order: Order,
    given: Sequence[Any],
    on_step: Callable[[Step], None],
) -> tuple[list[Any], list[float]]:
    """A ref to each worker's result, in their order, and the seconds each took.

    TaskError: the first fault that is not of another's making. Should one of several fail, the
    others are asked to stop, and have ended once this raises.
    """
    if len(members) == 1:
        ref, seconds = await pool.run(members[0], order, given, on_step)
        return [ref], [seconds]
    address = await pool.meeting(members[0])
    runs: dict[asyncio.Task[tuple[Any, float]], str] = {}
    for rank, name in enumerate(members):
        part = Part(rank, len(members), address)
        own = replace(order, part=part, attempt=member_attempt(order.attempt, members, name))
        runs[asyncio.create_task(pool.run(name, own, given, on_step))] = name
    _, pending = await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
    for run in pending:
        name = runs[run]
        pool.stop(name, member_attempt(order.attempt, members, name))
    await asyncio.gather(*pending, return_exceptions=True)
    faults = [(name, run.exception()) for run, name in runs.items() if run.exception()]
    if not faults:
        results = [run.result() for run in runs]
        return [ref for ref, _ in results], [seconds for _, seconds in results]
    own_faults = [
        (name, error)
        for name, error in faults
        if not isinstance(error, TaskError) or error.fault not in (Fault.GANG, Fault.STOPPED)
    ]
    name, error = (own_faults or faults)[0]
    if isinstance(error, TaskError):
        raise TaskError(error.fault, str(error), name) from error
    raise TaskError(Fault.ERROR, repr(error), name) from error


def member_attempt(attempt: str, members: Sequence[str], name: str) -> str:
    """The name of a worker's own part of an attempt."""
    return attempt if len(members) == 1 else f"{attempt}-{list(members).index(name)}"
