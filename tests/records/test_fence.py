"""The conditional writes: who was later, or too late, changes nothing."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.errors import ConflictError
from farm.model.job import ClipResult
from farm.records.commits import Claim, claim, commit, take_fence, unclaim
from farm.store import Stored
from farm.store.keys import COORDINATOR, QUARANTINE, result_key
from farm.store.local import LocalStore
from farm.store.records import SCHEMA
from tests.model.test_job import result
from tests.model.test_plan import request

KEY = "idempotency/acme/one"


class Raced(LocalStore):
    """A folder. After each read, `meanwhile` is called once: somebody else writes then."""

    meanwhile: Callable[[], object] | None = None

    def get(self, key: str) -> Stored | None:
        stored = super().get(key)
        if self.meanwhile is not None:
            other, self.meanwhile = self.meanwhile, None
            other()
        return stored


@pytest.fixture
def store(tmp_path: Path) -> Raced:
    return Raced(tmp_path)


def read(store: LocalStore, key: str) -> bytes:
    stored = store.get(key)
    assert stored is not None
    return stored.data


def committed(store: LocalStore) -> ClipResult:
    return ClipResult.model_validate_json(read(store, result_key(request().digest)))


def test_coordinators_are_counted(store: Raced) -> None:
    assert [take_fence(store) for _ in range(3)] == [1, 2, 3]
    assert read(store, COORDINATOR) == b"3"


@pytest.mark.parametrize("before", [0, 4])
def test_two_coordinators_never_have_the_same_number(before: int, store: Raced) -> None:
    for _ in range(before):
        take_fence(store)
    other: list[int] = []
    store.meanwhile = lambda: other.append(take_fence(store))
    mine = take_fence(store)
    assert (other, mine) == ([before + 1], before + 2)


@pytest.mark.parametrize("bad", [b"", b"4x", b"-4", b"1" * 19, "٣".encode()])
def test_a_count_that_cannot_be_read_is_kept_and_surpassed(bad: bytes, store: Raced) -> None:
    store.put(COORDINATOR, bad)
    assert take_fence(store) >= int(time.time()) - 60
    kept = {key.rpartition("/")[2]: read(store, key) for key in store.list(QUARANTINE)}
    assert kept["object"] == bad
    assert b'"it is not a number of coordinators"' in kept["reason.json"]


def test_the_longest_count_that_is_read(store: Raced) -> None:
    store.put(COORDINATOR, b"9" * 18)
    assert take_fence(store) == 10**18
    assert not list(store.list(QUARANTINE))


def test_a_result_is_written_where_there_is_none(store: Raced) -> None:
    assert commit(store, result(), force=False) == result() == committed(store)


def test_the_first_result_stands(store: Raced) -> None:
    commit(store, result("1-1"), force=False)
    assert commit(store, result("2-2"), force=False) == result("1-1") == committed(store)


def test_a_forced_result_replaces_the_one_that_was_there(store: Raced) -> None:
    commit(store, result("1-1"), force=False)
    assert commit(store, result("2-2"), force=True) == result("2-2") == committed(store)


@pytest.mark.parametrize("force", [False, True])
def test_a_result_written_meanwhile_stands(force: bool, store: Raced) -> None:
    store.meanwhile = lambda: commit(store, result("9-9"), force=False)
    assert commit(store, result("1-1"), force) == result("9-9") == committed(store)


def test_a_forced_result_written_meanwhile_stands(store: Raced) -> None:
    commit(store, result("1-1"), force=False)
    store.meanwhile = lambda: commit(store, result("9-9"), force=True)
    assert commit(store, result("2-2"), force=True) == result("9-9") == committed(store)


def test_a_conflict_over_a_result_that_is_gone_is_an_error(store: Raced) -> None:
    commit(store, result("1-1"), force=False)
    store.meanwhile = lambda: store.delete(result_key(request().digest))
    with pytest.raises(ConflictError):
        commit(store, result("2-2"), force=True)


def test_a_key_names_the_first_job_for_as_long_as_it_lasts(store: Raced) -> None:
    first = claim(store, KEY, Claim(job="job-1", at=100.0), lasts_s=10.0)
    assert (first.job, first.at, first.key, first.own_key) == ("job-1", 100.0, KEY, KEY)
    assert claim(store, KEY, Claim(job="job-2", at=109.9), lasts_s=10.0) == first
    later = claim(store, KEY, Claim(job="job-3", at=110.0), lasts_s=10.0)
    assert (later.job, later.at) == ("job-3", 110.0)
    kept = Claim.model_validate_json(read(store, KEY))
    assert (kept.job, kept.key, kept.schema_version) == ("job-3", KEY, SCHEMA)


@pytest.mark.parametrize("before", [False, True])
def test_of_two_jobs_that_claim_a_key_at_once_one_has_it(before: bool, store: Raced) -> None:
    if before:
        claim(store, KEY, Claim(job="old", at=1.0), lasts_s=10.0)
    store.meanwhile = lambda: claim(store, KEY, Claim(job="other", at=100.0), lasts_s=10.0)
    assert claim(store, KEY, Claim(job="mine", at=100.0), lasts_s=10.0).job == "other"


def test_a_claim_says_whose_key_it_is_only_from_schemas_on() -> None:
    assert Claim(job="job-1", at=1.0).own_key is None
    assert Claim(job="job-1", at=1.0, key=KEY, schema_version=SCHEMA).own_key == KEY
    assert Claim(job="job-1", at=1.0, schema_version=SCHEMA).own_key == ""


def test_only_the_job_that_a_key_names_gives_it_back(store: Raced) -> None:
    claim(store, KEY, Claim(job="job-1", at=1.0), lasts_s=10.0)
    unclaim(store, KEY, "job-2")
    assert store.exists(KEY)
    unclaim(store, KEY, "job-1")
    assert not store.exists(KEY)
    unclaim(store, KEY, "job-1")  # again
