"""Which idle worker a task goes to, and which others share it. Pure."""

from collections.abc import Collection, Hashable, Iterable, Mapping
from itertools import chain, islice

from farm.plan import Stage, Task
from farm.run import Reason, Run, Worker

Idle = Mapping[Hashable, dict[str, None]]  # workers of one kind, by the model they hold


def choose(
    run: Run, task: Task, idle: Idle, workers: Mapping[str, Worker]
) -> tuple[str, Reason] | None:
    """An idle worker for a task; None where it is worth waiting for one that is busy."""
    avoid: Collection[str] = run.avoid.get(task.key, ())
    same = idle.get(run.model, {})
    if task.stage is Stage.DENOISE and run.home in same and run.home not in avoid:
        return run.home, Reason.STAYS
    for names, reason in ((same, Reason.MODEL), *((n, Reason.NEXT) for n in idle.values())):
        for name in reversed(names):
            if name not in avoid:
                return name, Reason.ELSEWHERE if avoid else reason
    others = (w for w in workers.values() if w.kind is task.kind and not w.draining)
    if any(worker.name not in avoid for worker in others):
        return None
    return next(reversed(next(filter(None, idle.values())))), Reason.ONLY


def choose_helpers(
    run: Run, task: Task, name: str, idle: Idle, waiting: Iterable[object], allowed: int
) -> tuple[str, ...]:
    """Idle workers, at most `allowed`, that share a task with `name`.

    waiting: tasks that are ready for such a worker. While there is one, nobody is spared: so the
    last of several that are ready gets whoever is left.
    """
    most = min(task.most - 1, allowed)
    if most <= 0 or task.key in run.alone or any(True for _ in waiting):
        return ()
    avoid, loaded = run.avoid.get(task.key, ()), idle.get(run.model, {})
    others = (other for names in idle.values() if names is not loaded for other in names)
    free = (other for other in chain(loaded, others) if other != name and other not in avoid)
    return tuple(islice(free, most))
