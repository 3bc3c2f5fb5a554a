"""What the coordinator notes in its audit log, of calls that come by different doors."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from farm.caller import Caller, called_by, this_caller
from farm.coordinator.answering import audited as audited_by
from farm.coordinator.coordinator import Coordinator
from farm.errors import FarmError, PictureMissingError
from farm.ingress.app import make_app
from farm.model.audit import AuditEntry
from farm.model.farm_api import FarmApi
from farm.model.job import Submission
from farm.model.usage import FIRST_DAY
from farm.records.audit_log import read_audit
from farm.settings import Key, load_settings
from tests.support.asgi import bearer, client
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, inline  # noqa: F401

DIGEST = hashlib.sha256(b"sesame").hexdigest()
KEYS = {DIGEST: Key(tenant="acme", operator=True)}
FORM = {"size": "32x16", "num_frames": "2", "steps": "2", "model": "nano"}
FILES = {"input_reference": ("a.png", picture_bytes())}

pytestmark = pytest.mark.usefixtures("inline")


def audited(folder: Path, test: Callable[[Coordinator], Awaitable[None]]) -> list[AuditEntry]:
    """What is in the audit log after calls of a coordinator."""

    async def all_of_it() -> list[AuditEntry]:
        async with coordinator(folder, keys=KEYS) as one:
            await test(one)
            await one._audit.flush()
            return list(read_audit(await one.store(), FIRST_DAY))

    return asyncio.run(all_of_it())


def short(entry: AuditEntry) -> tuple[str, str, str, str]:
    return entry.action, entry.target, entry.outcome, entry.tenant


def test_over_http_the_key_the_client_and_the_request_are_noted(tmp_path: Path) -> None:
    jobs: list[str] = []

    async def test(one: Coordinator) -> None:
        app = make_app(one, load_settings(store=str(tmp_path), keys=KEYS))
        async with client(app) as http:
            http.headers.update(bearer("sesame") | {"X-Request-ID": "r-1"})
            jobs.append((await http.post("/v1/videos", files=FILES, data=FORM)).json()["id"])
            await http.get(f"/v1/videos/{jobs[0]}")  # changes nothing
            await http.post("/v1/farm/workers/decoder-0/drain")
            await http.delete(f"/v1/videos/{jobs[0]}")

    submit, drain, *_, delete = entries = audited(tmp_path, test)
    assert short(submit) == ("submit", jobs[0], "done", "acme")
    assert short(drain) == ("drain", "decoder-0", "done", "acme")
    assert drain.arguments == {"draining": True}
    assert short(delete) == ("delete", jobs[0], "done", "acme")
    for entry in entries:
        assert (entry.door, entry.client, entry.request_id) == ("http", "127.0.0.1", "r-1")
        assert entry.key == DIGEST[:12]
    assert "sesame" not in "".join(p.read_text() for p in (tmp_path / "audit").rglob("*.jsonl"))


def test_programs_are_noted_with_their_user_and_the_jobs_tenant(tmp_path: Path) -> None:
    async def test(one: Coordinator) -> None:
        with called_by(this_caller("batch")):
            job = (await one.submit(Submission(tenant="other", id="j"), picture_bytes())).job
            for call in (one.pause, one.resume, one.cancel):
                with suppress(FarmError):
                    await call(job.id)
            with pytest.raises(FarmError):
                await one.set_priority("j", 101)

    entries = audited(tmp_path, test)
    assert [entry.action for entry in entries[:1]] == ["submit"]
    assert {short(entry)[1::2] for entry in entries} == {("j", "other")}
    assert {entry.door for entry in entries} == {"batch"}
    assert all("@" in entry.client and not entry.key for entry in entries)
    assert (entries[-1].outcome, entries[-1].arguments) == ("refused", {"priority": 101})
    assert entries[-1].why == "priority: must be from 0 to 100, got 101"


def test_what_is_refused_and_what_is_no_outcome(tmp_path: Path) -> None:
    async def test(one: Coordinator) -> None:
        with called_by(Caller("python", "r-2")):
            with pytest.raises(PictureMissingError):  # it is written, and submitted again
                await one.submit_stored(Submission(), "0" * 64)
            with pytest.raises(FarmError):
                await one.pause("x" * 500 + "\ud800\n")

    (entry,) = audited(tmp_path, test)
    assert (entry.action, entry.outcome) == ("pause", "refused")
    assert len(entry.target) == 200


def test_every_call_that_changes_something_is_noted() -> None:
    """A new method of FarmApi is either here or audited."""
    changing = {"submit", "submit_stored", "cancel", "delete", "pause", "resume", "set_priority"}
    changing |= {"drain", "collect_garbage"}
    reading = {"ready", "describe", "check", "find", "find_all", "show", "jobs", "views", "watch"}
    reading |= {"events", "usage", "garbage", "status", "store"}
    methods = {name for name in dir(FarmApi) if not name.startswith("_")}
    assert methods == changing | reading

    def codes_of(name: str) -> set[Any]:
        """The code of a method, and of all that it wraps."""
        found, method = set(), getattr(Coordinator, name)
        while method is not None:
            found.add(method.__code__)
            method = getattr(method, "__wrapped__", None)
        return found

    async def nothing(_: Any) -> None: ...

    noted = audited_by(nothing).__code__
    assert {name for name in methods if noted in codes_of(name)} == changing
