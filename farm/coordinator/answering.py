"""How the coordinator answers calls: each has a caller, and those that change something are noted.

A call from another process brings its caller along; in one process the context has it.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from farm.caller import Caller, called_by, current_caller
from farm.errors import FarmError, PictureMissingError, StoreError, WorkerError
from farm.logs import bound
from farm.model.audit import AuditEntry, Outcome, short
from farm.model.farm_api import FarmApi
from farm.model.job import JobView, Submission
from farm.ownership.renewal import Holder, writes
from farm.records.audit_log import AuditLog

P = ParamSpec("P")
R = TypeVar("R")


class Audited(Holder, Protocol):
    """An object whose methods `changes` decorates."""

    _audit: AuditLog

    async def _tenant_of(self, job: str) -> str:
        """A job's tenant; empty if that is unknown."""


A = TypeVar("A", bound=Audited)
Call = Callable[Concatenate[A, P], Coroutine[Any, Any, R]]


class Answering:
    """What a coordinator has besides FarmApi's methods, to be called as an actor."""

    async def called(self, caller: Caller, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of FarmApi for a caller, whom everything that it does is known by."""
        if method.startswith("_") or not hasattr(FarmApi, method):
            raise AttributeError(f"a farm has no method {method}")
        with called_by(caller):
            return await getattr(self, method)(*arguments, **keywords)


def changes(call: Call[A, P, R]) -> Call[A, P, R]:
    """Decorate a method that changes jobs: it is noted, and behaves as with `writes`.

    A call that `writes` refuses, because the store cannot be written to, changes nothing, and is
    not noted: a job's tenant, and the note, need the store.
    """
    return writes(audited(call))


def audited(call: Call[A, P, R]) -> Call[A, P, R]:
    """Decorate a method that changes something: who calls it is noted in the audit log."""
    signature = inspect.signature(call)

    @wraps(call)
    async def noted(self: A, /, *arguments: P.args, **named: P.kwargs) -> R:
        given = dict(signature.bind(self, *arguments, **named).arguments)
        entry = await _begin(self, call.__name__, given)
        with bound(**{"worker" if "worker" in given else "job": entry.target}):
            try:
                answer = await call(self, *arguments, **named)
            except PictureMissingError:  # the caller writes it and calls again
                raise
            except BaseException as error:
                self._audit.add(_ended(entry, *_outcome_of(error)))
                raise
        job = answer.job.id if isinstance(answer, JobView) else entry.target
        self._audit.add(_ended(entry, "done", "", target=job))
        return answer

    return noted


async def _begin(self: Audited, method: str, given: dict[str, Any]) -> AuditEntry:
    """The entry of a call that begins. given: its arguments by name."""
    submission: Submission | None = given.get("submission")
    target, tenant = str(given.get("job") or given.get("worker") or ""), ""
    if submission is not None:
        target, tenant = submission.id, submission.tenant
    caller = current_caller()
    if caller is None or not caller.tenant:
        tenant = tenant or (await self._tenant_of(target) if "job" in given else "")
    own = {} if caller is None else asdict(caller)
    own.pop("traceparent", None)
    plain = {n: v for n, v in given.items() if n not in ("job", "worker", "digest")}
    return AuditEntry(
        at=0.0,
        action=method.removesuffix("_stored"),
        target=short(target),
        arguments={n: v for n, v in plain.items() if isinstance(v, (bool, int)) and abs(v) < 2**63},
        outcome="unanswered",
        **own | {"tenant": own.get("tenant") or tenant},
    )


def _ended(entry: AuditEntry, outcome: Outcome, why: str, **changes: Any) -> AuditEntry:
    changes |= {"at": time.time(), "outcome": outcome, "why": short(why)}
    return entry.model_copy(update=changes)


def _outcome_of(error: BaseException) -> tuple[Outcome, str]:
    if isinstance(error, asyncio.CancelledError):
        return "unanswered", ""
    refused = isinstance(error, FarmError) and not isinstance(error, (StoreError, WorkerError))
    return "refused" if refused else "failed", str(error)
