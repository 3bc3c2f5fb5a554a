"""Runs a task on its workers: on one, or on several (a gang) that share it and end together."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from farm.model.task_order import Order, Part, Ref, Step
from farm.scheduling.state import Fault
from farm.workers.faults import TaskError
from farm.workers.protocol import Workers


async def run_members(
    workers: Workers,
    members: Sequence[str],
    order: Order,
    inputs: Sequence[Ref | None],
    on_step: Callable[[Step], None],
) -> tuple[list[Ref], list[float]]:
    """Run a task; returns each worker's result, in the order of `members`, and its seconds.

    If one of several workers fails, the others are asked to stop, and have ended once this raises.
    Raises the TaskError of the first worker that failed by its own fault.
    """
    if len(members) == 1:
        ref, seconds = await workers.run(members[0], order, inputs, on_step)
        return [ref], [seconds]
    address = await workers.rendezvous(members[0])
    runs: dict[asyncio.Task[tuple[Ref, float]], str] = {}
    for rank, name in enumerate(members):
        part = Part(rank, len(members), address)
        own = replace(order, part=part, attempt=member_attempt(order.attempt, members, name))
        runs[asyncio.create_task(workers.run(name, own, inputs, on_step))] = name
    _, pending = await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
    for run in pending:
        workers.stop(runs[run], member_attempt(order.attempt, members, runs[run]))
    await asyncio.gather(*pending, return_exceptions=True)
    errors = {name: error for run, name in runs.items() if (error := run.exception())}
    if errors:
        raise _first_cause(errors)
    results = [run.result() for run in runs]
    return [ref for ref, _ in results], [seconds for _, seconds in results]


def member_attempt(attempt: str, members: Sequence[str], name: str) -> str:
    """The name of one worker's part in an attempt."""
    return attempt if len(members) == 1 else f"{attempt}-{list(members).index(name)}"


def _first_cause(errors: dict[str, BaseException]) -> TaskError:
    """The first error that was not caused by another worker's failure, with its worker."""
    own = {
        name: error
        for name, error in errors.items()
        if not isinstance(error, TaskError) or error.fault not in (Fault.GANG, Fault.STOPPED)
    }
    name, error = next(iter((own or errors).items()))
    if isinstance(error, TaskError):
        return TaskError(error.fault, str(error), name)
    return TaskError(Fault.ERROR, repr(error), name)
