"""The contract of a store, for a folder and for a real S3 server."""

import os
import pickle
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farm.errors import ConflictError, StoreError
from farm.store import Store, Stored, open_store
from farm.store.local import LocalStore
from farm.store.s3 import S3Store
from tests.support.s3_server import S3Server, s3_environment, s3_server

ODD_KEYS = [
    "a b",
    "ü/é 猫.bin",
    "#",
    "what?.png",
    "a+b&c=d",
    "100%25",
    "..a",
    ".hidden",
    "~",
    "'\"",
]
NOT_KEYS = [
    "",
    "/",
    "../x",
    "/etc/x",
    "a/../../x",
    "a//b",
    "a/",
    "./a",
    "a\0b",
    "\ud800",
    ".farm-x",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server, s3_environment(server):
        yield server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "a store")
    return S3Store(f"{request.getfixturevalue('server').url}/{uuid.uuid4().hex}")


def increment(store: Store, key: str) -> None:
    """Add one to a number that others are adding to as well."""
    while True:
        data, etag = store.get(key) or Stored(b"0", "")
        try:
            store.put(key, b"%d" % (int(data) + 1), if_match=etag)
        except ConflictError:
            continue
        return


def test_round_trip(store: Store) -> None:
    key = "clips/a.bin"
    assert store.get(key) is None
    assert not store.exists(key)
    first = store.put(key, b"one")
    assert store.get(key) == (b"one", first)
    second = store.put(key, b"two")
    assert second != first
    assert store.get(key) == Stored(b"two", second)
    assert store.exists(key)
    assert store.get("clips") is None
    assert not store.exists("clips")
    assert store.size("clips") is None


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_sizes(size: int, store: Store) -> None:
    data = os.urandom(size)
    etag = store.put("latents", data)
    assert store.get("latents") == (data, etag)
    assert store.size("latents") == size
    assert store.size("latent") is None


def test_delete(store: Store) -> None:
    store.put("a/b/c", b"")
    store.delete("a/b/c")
    store.delete("a/b/c")
    store.delete("a/b")
    assert store.get("a/b/c") is None
    assert not store.exists("a/b/c")
    assert [*store.list("")] == []
    store.put("a/b/d", b"")
    assert [*store.list("a")] == ["a/b/d"]


def test_odd_keys(store: Store) -> None:
    for key in ODD_KEYS:
        etag = store.put(key, key.encode())
        assert store.get(key) == (key.encode(), etag)
        assert store.exists(key)
        assert [*store.list("")] == [*store.list(key)] == [key]
        store.delete(key)
        assert not store.exists(key)


@pytest.mark.parametrize("key", NOT_KEYS)
def test_refuses_keys_outside_itself(key: str, store: Store) -> None:
    for use in (store.get, store.exists, store.delete, store.presign):
        with pytest.raises(StoreError, match="not a key"):
            use(key)
    with pytest.raises(StoreError, match="not a key"):
        store.put(key, b"")


def test_put_only_where_there_is_none(store: Store) -> None:
    etag = store.put("once", b"mine", if_none_match=True)
    for data in (b"theirs", b"mine"):  # equal content is somebody else's all the same
        with pytest.raises(ConflictError, match=r"once.*somebody else"):
            store.put("once", data, if_none_match=True)
    assert store.get("once") == (b"mine", etag)


def test_put_only_over_a_version(store: Store) -> None:
    first = store.put("record", b"1")
    second = store.put("record", b"2", if_match=first)
    with pytest.raises(ConflictError, match=r"record.*somebody else"):
        store.put("record", b"3", if_match=first)
    assert store.get("record") == (b"2", second)
    store.delete("record")
    with pytest.raises(ConflictError):
        store.put("record", b"3", if_match=second)
    assert not store.exists("record")


def test_one_of_many_wins(store: Store) -> None:
    start = threading.Barrier(16)

    def claim(number: int) -> int | None:
        start.wait()
        try:
            store.put("lease", b"the same of all", if_none_match=True)
        except ConflictError:
            return None
        return number

    with ThreadPoolExecutor(16) as threads:
        assert sum(winner is not None for winner in threads.map(claim, range(16))) == 1


def test_no_update_is_lost(store: Store) -> None:
    store.put("count", b"0")
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(increment, store, "count") for _ in range(160)]:
            done.result()
    stored = store.get("count")
    assert stored is not None
    assert stored.data == b"160"


def test_list(store: Store) -> None:
    keys = ["a", "jobs/1.json", "jobs/10.json", "jobs/2.json", "open/1", "open/x/y", "z", "é"]
    for key in reversed(keys):
        store.put(key, b"")
    assert [*store.list("")] == keys
    assert [*store.list("jobs/")] == keys[1:4]
    assert [*store.list("jobs/1")] == keys[1:3]
    assert [*store.list("o")] == keys[4:6]
    assert [*store.list("", after="jobs/10.json")] == keys[3:]
    assert [*store.list("", after="jobs/11")] == keys[3:]
    assert [*store.list("jobs/", after="jobs/2.json")] == []
    assert [*store.list("jobs/", after="a")] == keys[1:4]
    assert [*store.list("open/x", after="open/1")] == ["open/x/y"]
    for prefix in ("nothing/", "jobs/1.json/", "/", "../", "jobs//", "jobs/../"):
        assert [*store.list(prefix)] == []


def test_entries_are_a_list_with_sizes_and_times(store: Store) -> None:
    began = time.time()
    for key, data in (("jobs/1.json", b"{}"), ("jobs/2.json", b""), ("open/1", b"abc")):
        store.put(key, data)
    found = list(store.entries(""))
    assert [entry.key for entry in found] == [*store.list("")]
    assert [entry.size for entry in found] == [2, 0, 3]
    assert [entry.key for entry in store.entries("jobs/1")] == ["jobs/1.json"]
    # A server's time is of whole seconds, and a file's of the kernel's last tick.
    assert all(began - 2 < entry.written_at < time.time() + 2 for entry in found)


def test_list_pages(store: Store) -> None:
    keys = [f"events/{number:05d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as threads:
        [*threads.map(lambda key: store.put(key, b""), keys)]
    assert [*store.list("events/")] == keys
    assert [*store.list("events/", after=keys[2])] == keys[3:]
    assert [*store.list("events/0100")] == keys[1000:]


def test_opens_again(store: Store) -> None:
    etag = store.put("a", b"a")
    for other in (open_store(store.url), pickle.loads(pickle.dumps(store))):
        assert other.get("a") == (b"a", etag)
        assert (other.url, other.where("a")) == (store.url, store.where("a"))


def test_check(store: Store) -> None:
    store.check()
    assert [*store.list("")] == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no store for ''"),
        (" ", "no store"),
        ("ftp://host/x", "no store for 'ftp://host/x'.*s3://bucket/prefix"),
        ("file://host/x", "without a host"),
        ("file://", "file:///folder"),
        ("file:x", "file:///folder"),
        ("s3://", "no bucket in 's3://'"),
        ("s3:///x", "no bucket"),
        ("s3:bucket", "no bucket"),
        ("s3://a b/x", "no bucket in 's3://a b/x'.* access point"),
        ("s3://" + "b" * 256, "no bucket"),
        ("s3://bucket\n/x", "no bucket"),
        ("arn:aws:s3:us-west-2:123456789012:accesspoint/mine", "give s3://arn:aws:s3"),
        ("s3://farm/a/../b", "not a prefix"),
        ("s3://farm//b", "not a prefix"),
    ],
)
def test_broken_urls(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        open_store(url)
