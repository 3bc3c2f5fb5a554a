"""The choice of an idle worker for a task, and of others that share it. Pure."""

from collections.abc import Collection, Hashable, Mapping
from itertools import chain, islice
from math import ceil, inf

from farm.model.plan import Stage, Task
from farm.scheduling.state import Reason, Run, WorkerState

PASSING = 5  # frames for which a decode needs room besides its own share; see `decoded_bytes`

Idle = Mapping[Hashable, dict[str, None]]  # idle workers of one kind, by their loaded model


def choose(
    run: Run, task: Task, idle: Idle, workers: Mapping[str, WorkerState]
) -> tuple[str, Reason] | None:
    """An idle worker for a task, and the reason; None to wait for a busy one instead."""
    avoid: Collection[str] = run.avoid.get(task.key, ())
    same = idle.get(run.model, {})
    if task.stage is Stage.DENOISE and run.last_renderer in same and run.last_renderer not in avoid:
        return run.last_renderer, Reason.STAYS
    for names, reason in ((same, Reason.MODEL), *((n, Reason.NEXT) for n in idle.values())):
        for name in reversed(names):
            if name not in avoid:
                return name, Reason.ELSEWHERE if avoid else reason
    others = (w for w in workers.values() if w.kind is task.kind and not w.draining)
    if any(worker.name not in avoid for worker in others):
        return None
    return next(reversed(next(filter(None, idle.values())))), Reason.ONLY


def choose_helpers(
    run: Run, task: Task, name: str, idle: Idle, workers: Mapping[str, WorkerState], allowed: int
) -> tuple[str, ...]:
    """Idle workers that have the memory to share a task with `name`, at most `allowed`."""
    most = min(task.most - 1, allowed)
    if task.key in run.unshared:
        return ()
    avoid, loaded = run.avoid.get(task.key, ()), idle.get(run.model, {})
    others = (other for names in idle.values() if names is not loaded for other in names)
    free = (other for other in chain(loaded, others) if other != name and other not in avoid)
    chosen = [workers[other] for other in islice(free, most)]
    while chosen:
        least = min(chosen, key=lambda worker: inf if worker.memory is None else worker.memory)
        frames = ceil((task.span[1] - task.span[0]) / (len(chosen) + 1))
        if least.memory is None or (frames + PASSING) * task.frame_bytes <= least.memory:
            break
        chosen.remove(least)
    return tuple(worker.name for worker in chosen)
