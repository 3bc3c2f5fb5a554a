"""The audit log in the store: who did what, on lines that nothing breaks."""

import asyncio
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.__main__ import main
from farm.background import Background
from farm.errors import StoreError
from farm.model.audit import AuditEntry, from_lines, short, to_lines
from farm.records import audit_log
from farm.records.audit_log import AuditLog, read_audit
from farm.store import Store, identify, open_store
from farm.store.keys import AUDIT
from farm.store.local import LocalStore

NOON = 1_764_331_200.0  # of 28 November 2025, in UTC
DAY_S = 86_400.0
TEXTS = st.text(st.characters(codec=None, categories=None))  # lone surrogates, too


def entry(at: float = NOON, **changes: Any) -> AuditEntry:
    own = {"action": "cancel", "target": "job-1", "outcome": "done", "tenant": "acme"}
    return AuditEntry(at=at, **{**own, **changes})


@given(texts=st.lists(TEXTS, min_size=4, max_size=4))
def test_hostile_names_break_no_line(texts: list[str]) -> None:
    target, why, client, request_id = map(short, texts)
    hostile = entry(target=target, why=why, client=client, request_id=request_id)
    data = to_lines([hostile, entry()])
    assert len(data.decode("ascii").splitlines()) == 2
    assert list(from_lines(data)) == [hostile, entry()]


@given(data=st.binary())
def test_damage_costs_only_its_own_lines(data: bytes) -> None:
    around = to_lines([entry()]) + data + b"\n" + to_lines([entry(outcome="failed")])
    found = list(from_lines(around))
    assert found[0] == entry()
    assert found[-1] == entry(outcome="failed")


def logged(store: Store, work: Callable[[AuditLog], Any], began: float = NOON) -> None:
    async def all_of_it() -> None:
        background = Background(1)
        try:
            await work(AuditLog(store, background, lambda: began))
        finally:
            await background.cancel_all()

    asyncio.run(all_of_it())


def test_entries_are_kept_in_order_by_day_and_restart(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))

    async def first(log: AuditLog) -> None:
        for second in range(3):
            log.add(entry(NOON + second, request_id=str(second)))
            await log.flush()
        log.add(entry(NOON + 3, request_id="3"))
        log.add(entry(NOON + DAY_S, request_id="4", tenant="other"))
        await log.flush()

    async def second(log: AuditLog) -> None:
        log.add(entry(NOON + DAY_S + 1, request_id="5"))
        await log.flush()

    logged(store, first)
    logged(store, second, NOON + DAY_S)
    assert len(list(store.list(AUDIT))) == 3

    def ids(since: str, tenant: str | None = None) -> str:
        return "".join(e.request_id for e in read_audit(store, date.fromisoformat(since), tenant))

    assert ids("2025-11-28") == "012345"
    assert ids("2025-11-29") == "45"
    assert ids("2025-11-01", "acme") == "01235"
    assert ids("2025-11-30") == ""


def test_an_object_is_full_some_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "FULL", 1000)
    store = LocalStore(str(tmp_path))

    async def work(log: AuditLog) -> None:
        for number in range(40):
            log.add(entry(request_id=f"{number:02}"))
            await log.flush()

    logged(store, work)
    keys = list(store.list(AUDIT))
    assert 3 < len(keys) < 10
    found = read_audit(store, date(2025, 11, 28))
    assert [e.request_id for e in found] == [f"{number:02}" for number in range(40)]


class Refusing(LocalStore):
    refuses = True

    def put(self, key: str, data: bytes, **conditions: Any) -> str:
        if self.refuses:
            raise StoreError("the disk is full")
        return super().put(key, data, **conditions)


def test_entries_wait_for_the_store_and_are_counted_when_too_many_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MOST", 5)
    store = Refusing(str(tmp_path))

    async def work(log: AuditLog) -> None:
        for number in range(8):
            log.add(entry(request_id=str(number)))
        with pytest.raises(StoreError):
            await log.flush()
        store.refuses = False
        await log.flush()

    logged(store, work)
    *kept, lost = read_audit(store, date(2025, 11, 28))
    assert [e.request_id for e in kept] == ["0", "1", "2", "3", "4"]
    assert (lost.action, lost.why) == ("lost", "3 entries were lost: too many waited for the store")


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path))
    identify(store)

    async def work(log: AuditLog) -> None:
        own: Any = {"door": "http", "client": "192.0.2.7", "request_id": "r-1"}
        log.add(entry(action="set_priority", arguments={"priority": 90}, key="0" * 12, **own))
        log.add(entry(NOON + 1, outcome="refused", why="job-1 is\ncompleted", tenant="other"))
        await log.flush()

    logged(store, work)
    (tmp_path / "audit/2025-11-28/.DS_Store").write_bytes(b"not the farm's")
    assert main(["audit", "--store", str(tmp_path), "--since", "2025-11-28"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2025-11-28T12:00:00.000Z  acme  http 192.0.2.7 key 000000000000  "
        "set_priority job-1 priority=90  done  [r-1]",
        "2025-11-28T12:00:01.000Z  other  -  cancel job-1  refused: job-1 is\\ncompleted",
    ]
    assert main(["audit", "--store", str(tmp_path), "--tenant", "acme", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["key"] == "0" * 12
    assert main(["audit", "--store", str(tmp_path / "none")]) == 2
