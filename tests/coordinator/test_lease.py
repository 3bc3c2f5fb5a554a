"""The lease of a store, whose owner is alive, silent or dead; and the store's id."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from farm.clock import FarmClock
from farm.errors import LeaseError, StoreError, VanishedError
from farm.ownership.lease import TAKE_S, TRUST_S, Lease, LeaseRecord
from farm.ownership.owner import Owner, is_dead, process_table, this_process
from farm.store import KnownStore, identify, open_store
from farm.store.keys import LEASE
from farm.store.local import LocalStore

ELSEWHERE = Owner(host="there", pid=1, started=5, table="another boot", since=0.0)


class Host:
    """A coordinator with a monotonic clock of its own."""

    def __init__(self, folder: Path, owner: Owner | None = None, began: float = 0.0) -> None:
        store = LocalStore(folder, make=False)
        self.time, self.superseded = began, 0
        store_id = identify(store)
        owner = owner or ELSEWHERE
        self.lease = Lease(
            KnownStore(store, store_id), owner, FarmClock(), self._end, lambda: self.time
        )
        self.store = KnownStore(store, store_id, self.lease.allow_write)

    def _end(self) -> None:
        self.superseded += 1


def other(name: str) -> Owner:
    return ELSEWHERE.model_copy(update={"host": name})


def test_a_living_owner_is_named_to_others_whatever_their_clocks_say(tmp_path: Path) -> None:
    first, second = Host(tmp_path, began=1e9), Host(tmp_path, other("b"), began=7.0)
    assert first.lease.take()
    assert not second.lease.take()  # nobody can tell yet
    first.lease.renew()
    for _ in range(100):
        with pytest.raises(LeaseError, match="process 1 on there"):
            second.lease.take()
        first.time, second.time = first.time + 2, second.time + 2
        first.lease.renew()
    first.store.put("a", b"")
    with pytest.raises(StoreError):
        second.store.put("b", b"")


def test_a_silent_owner_is_replaced_and_then_commits_nothing(tmp_path: Path) -> None:
    first, second = Host(tmp_path), Host(tmp_path, other("b"), began=50.0)
    assert first.lease.take()
    assert not second.lease.take()
    second.time += TAKE_S - 1
    assert not second.lease.take()
    second.time += 1
    assert second.lease.take()
    first.time += TAKE_S
    for write in (lambda: first.store.put("a", b""), lambda: first.store.delete(LEASE)):
        with pytest.raises(LeaseError, match="taken over"):
            write()
    assert first.superseded == 1
    second.store.put("a", b"second's")


def test_a_paused_owner_that_nobody_replaced_goes_on(tmp_path: Path) -> None:
    first = Host(tmp_path)
    assert first.lease.take()
    first.time += 10 * TAKE_S
    assert first.lease.write_error()
    first.store.put("a", b"")
    assert not first.lease.write_error()


def test_an_owner_trusts_its_lease_for_less_time_than_others_wait() -> None:
    assert TRUST_S < TAKE_S / 1.5


def test_a_dead_owner_is_replaced_at_once(tmp_path: Path) -> None:
    code = "from farm.ownership.owner import this_process; print(this_process().model_dump_json())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    dead = Owner.model_validate_json(done.stdout)
    assert is_dead(dead)
    assert Host(tmp_path, dead).lease.take()
    assert Host(tmp_path, this_process()).lease.take()


def test_who_is_provably_dead() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead(me.model_copy(update={"started": me.started - 1}))  # its pid is used again
    assert not is_dead(me.model_copy(update={"started": 0}))  # it could not tell
    gone = me.model_copy(update={"pid": 2**22 + 1})
    assert is_dead(gone)
    # The same host's name is not the same process table: another container, another boot.
    assert not is_dead(gone.model_copy(update={"table": f"{process_table()} other"}))
    assert not is_dead(gone.model_copy(update={"table": ""}))


def test_a_paused_process_is_not_dead_and_a_zombie_is() -> None:
    code = (
        "from farm.ownership.owner import this_process\n"
        "print(this_process().model_dump_json(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        owner = Owner.model_validate_json(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        assert not is_dead(owner)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(owner)


def test_the_coordinator_that_ray_restarts_takes_over_at_once(tmp_path: Path) -> None:
    actor = ELSEWHERE.model_copy(update={"actor": "a1"})
    assert Host(tmp_path, actor).lease.take()
    assert Host(tmp_path, actor.model_copy(update={"host": "another node", "pid": 7})).lease.take()


@pytest.mark.parametrize("data", [b"", b"noise", b'{"version": 1}', b'{"owner": {}'])
def test_a_damaged_lease_is_mended_by_its_owner_or_taken_after_a_while(
    data: bytes, tmp_path: Path
) -> None:
    first, second = Host(tmp_path), Host(tmp_path, other("b"))
    assert first.lease.take()
    (tmp_path / LEASE).write_bytes(data)
    assert not second.lease.take()
    second.time += TAKE_S
    first.lease.renew()
    with pytest.raises(LeaseError):
        second.lease.take()
    assert LeaseRecord.model_validate_json((tmp_path / LEASE).read_bytes()).owner == ELSEWHERE


def test_beats_that_could_not_be_watched_count_for_nothing(tmp_path: Path) -> None:
    first, second = Host(tmp_path), Host(tmp_path, other("b"))
    assert first.lease.take()
    assert not second.lease.take()
    tmp_path.rename(away := tmp_path.with_name("away"))
    second.time += TAKE_S
    with pytest.raises(StoreError):
        second.lease.take()
    away.rename(tmp_path)
    assert not second.lease.take()  # it begins to watch anew


@pytest.mark.parametrize("how", ["moved", "emptied", "replaced"])
def test_a_store_that_vanishes_is_not_made_anew(how: str, tmp_path: Path) -> None:
    folder, away = tmp_path / "store", tmp_path / "away"
    folder.mkdir()
    host = Host(folder)
    assert host.lease.take()
    host.store.put("jobs/a", b"1")
    folder.rename(away)
    if how != "moved":
        folder.mkdir()
    if how == "replaced":
        identify(LocalStore(folder))
    before = sorted(tmp_path.rglob("*"))
    calls = [
        lambda: host.store.put("jobs/b", b""),
        lambda: host.store.put("jobs/a", b"", if_none_match=True),
        lambda: host.store.get("jobs/a"),
        lambda: host.store.exists("jobs/a"),
        lambda: host.store.delete("jobs/a"),
        lambda: list(host.store.list("jobs/")),
        host.lease.renew,
    ]
    for call in calls:
        with pytest.raises(VanishedError, match="Bring the folder"):
            call()
    assert isinstance(host.lease.write_error(), VanishedError)
    assert sorted(tmp_path.rglob("*")) == before
    assert not host.superseded
    shutil.rmtree(folder, ignore_errors=True)
    away.rename(folder)
    host.lease.renew()
    assert host.lease.write_error() is None
    assert host.store.get("jobs/a")


def test_opening_without_making(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "none"), make=False)
    assert store.get("a") is None
    with pytest.raises(StoreError, match="No such file"):
        store.put("a/b", b"")
    assert not (tmp_path / "none").exists()


def test_the_id_is_written_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert identify(store) == identify(store)
    (tmp_path / "store.json").write_bytes(b"")
    with pytest.raises(StoreError, match=r"store\.json does not hold a valid store id"):
        identify(store)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_the_farms_clock_outlasts_steps_and_restarts(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall, up = 1e9, 100.0
    monkeypatch.setattr("farm.clock.uptime", lambda: up)
    monkeypatch.setattr("farm.clock.time.time", lambda: wall)
    monkeypatch.setattr("farm.clock.boot", lambda: "boot")
    clock = FarmClock()
    assert clock.now() == 1e9
    wall, up = wall + step, up + 5
    assert clock.now() == 1e9 + 5
    last = clock.read()
    wall, up = wall + step, up + 20
    again = FarmClock()
    again.go_on(last)
    assert again.now() == pytest.approx(1e9 + 25)
    # After a boot there is the wall clock alone.
    monkeypatch.setattr("farm.clock.boot", lambda: "another")
    up = 3.0
    after = FarmClock()
    after.go_on(last)
    assert after.now() == pytest.approx(last.farm + max(0.0, wall - last.wall))
