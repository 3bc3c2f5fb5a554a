"""The store: one contract, on a folder and on a real S3 server; then what only one of them has."""

import errno
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, SSLError
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import ConflictError, StoreError
from farm.store import Store, Stored, open_store
from farm.store.local import LocalStore
from farm.store.s3 import S3Store
from farm.store.s3_errors import is_passing, reason
from tests.s3_server import S3Server, s3_server

ROOT = Path(__file__).parent.parent
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
    with (
        s3_server(tmp_path_factory.mktemp("s3") / "server") as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(server: S3Server) -> S3Store:
    """A prefix of its own in the server's bucket."""
    return S3Store(f"{server.url}/{uuid.uuid4().hex}")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "a store")
    return request.getfixturevalue("bucket")


def increment(store: Store, key: str) -> None:
    """Add one to a number that others are adding to as well."""
    while True:
        data, etag = store.get(key) or Stored(b"0", "")
        try:
            store.put(key, b"%d" % (int(data) + 1), if_match=etag)
        except ConflictError:
            continue
        return


# The contract


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


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_sizes(size: int, store: Store) -> None:
    data = os.urandom(size)
    etag = store.put("latents", data)
    assert store.get("latents") == (data, etag)


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


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys(key: str, store: Store) -> None:
    store.put(key, key.encode())
    stored = store.get(key)
    assert stored is not None
    assert stored.data == key.encode()
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
        ("s3://Bucket/x", "small letters"),
        ("s3://ab", "3 to 63"),
        ("s3://a..b", "no bucket"),
        ("s3://192.168.0.1/x", "no bucket"),
        ("s3://farm/a/../b", "not a prefix"),
        ("s3://farm//b", "not a prefix"),
    ],
)
def test_broken_urls(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        open_store(url)


# A folder


@pytest.mark.parametrize(
    "url", ["{}/a store", "file://{}/a%20store", "file://localhost{}/a%20store", "file:{}/a store"]
)
def test_folder_urls(url: str, tmp_path: Path) -> None:
    store = open_store(url.format(tmp_path))
    store.put("clips/a.bin", b"")
    assert [p.name for p in (tmp_path / "a store/clips").iterdir()] == ["a.bin"]
    assert store.where() == str(tmp_path / "a store")
    assert store.where("clips/a.bin") == str(tmp_path / "a store/clips/a.bin")
    assert store.presign("clips/a.bin") is None


def test_folder_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make the folder.*Not a directory"):
        open_store(str(tmp_path / "file/below"))
    store = LocalStore(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*folder: Is a directory"):
        store.put("folder", b"")
    with pytest.raises(StoreError, match="File name too long"):
        store.put("x" * 300, b"")
    with pytest.raises(StoreError, match=r"cannot write .*file/x"):
        store.put("file/x", b"")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put("kept", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*kept: No space left"):
        store.put("kept", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "kept"]


@given(
    keys=st.sets(st.from_regex(r"[a!0é]{1,2}(/[a!0é]{1,2}){0,2}", fullmatch=True), max_size=12),
    prefix=st.from_regex(r"[a!0/]{0,3}", fullmatch=True),
    after=st.from_regex(r"[a!0/]{0,4}", fullmatch=True),
)
def test_folder_lists_in_byte_order(
    keys: set[str], prefix: str, after: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where `a!` and `a/` are both there too: `!` comes before the slash."""
    keys = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    store = LocalStore(tmp_path_factory.mktemp("list"))
    for key in keys:
        path = store.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [key for key in sorted(keys) if key.startswith(prefix) and key > after]
    assert [*store.list(prefix, after)] == sorted(found, key=str.encode)


def test_folder_may_shrink_while_it_is_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("a/1", "a/2", "b/1", "c/1"):
        store.put(key, b"")
    (tmp_path / ".farm-left-by-a-crash").write_bytes(b"")
    (tmp_path / "broken").symlink_to("nowhere")
    keys = store.list("")
    assert next(keys) == "a/1"
    shutil.rmtree(tmp_path / "b")
    assert [*keys] == ["a/2", "c/1"]


def test_folder_is_shared_by_processes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("count", b"0")
    code = (
        "import sys; from farm.store import open_store; from tests.test_store import increment\n"
        f"for _ in range(25): increment(open_store({store.url!r}), 'count')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_bytes() == b"100"


def test_plain_puts_wait_for_conditional_ones(tmp_path: Path) -> None:
    """Or a plain put, acknowledged between comparison and renaming, would be overwritten."""
    store = LocalStore(tmp_path)
    store.put("a", b"", if_none_match=True)
    with ThreadPoolExecutor(1) as threads:
        with store._locked():
            written = threads.submit(store.put, "a", b"new")
            time.sleep(0.1)
            assert (tmp_path / "a").read_bytes() == b""
        written.result()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_check_finds_a_store_that_ignores_conditions(tmp_path: Path) -> None:
    class Careless(LocalStore):
        def put(self, key: str, data: bytes, **_: object) -> str:
            return super().put(key, data)

    with pytest.raises(StoreError, match="ignores the conditions"):
        Careless(tmp_path).check()
    assert not [*tmp_path.iterdir()]


def test_a_folder_needs_no_boto3() -> None:
    code = "import sys, farm.store; farm.store.open_store('.'); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


# S3


def test_s3_where() -> None:
    assert open_store("s3://farm/p/q/").where("a/b") == "s3://farm/p/q/a/b"
    assert open_store("s3://farm/p/q/").where() == "s3://farm/p/q/"
    assert open_store("S3://farm/p#?").url == "s3://farm/p#?"
    assert open_store("s3://farm").url == "s3://farm"
    assert open_store("s3://farm").where("a") == "s3://farm/a"


def test_presigned_urls_play_in_browsers(bucket: S3Store) -> None:
    bucket.put("a clip.mp4", b"frames")
    with urllib.request.urlopen(bucket.presign("a clip.mp4", expires_s=60)) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"frames", "video/mp4")
    url = bucket.presign("a clip.mp4", expires_s=1)
    time.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match="403"), urllib.request.urlopen(url):
        pass


def test_a_prefix_is_a_store_of_its_own(server: S3Server, bucket: S3Store) -> None:
    other = S3Store(f"{bucket.url}-other")
    other.put("x", b"")
    bucket.put("a", b"")
    bucket._client().put_object(Bucket="farm", Key=bucket._base + "folder/", Body=b"")
    assert [*bucket.list("")] == ["a"]


def test_a_missing_bucket(server: S3Server) -> None:
    store = S3Store("s3://no-such-bucket/x")
    message = f"no bucket 'no-such-bucket' at {server.env['AWS_ENDPOINT_URL_S3']}: create it"
    for use in (store.check, lambda: store.get("a"), lambda: [*store.list("")]):
        with pytest.raises(StoreError, match=message):
            use()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "wrong"}, r"refuses the credentials \(InvalidAccessKeyId\)"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, r"refuses the credentials \(SignatureDoesNotMatch\)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials: set AWS_ACCESS"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "missing: AWS_SECRET_ACCESS_KEY: set"),
        ({"AWS_PROFILE": "nobody"}, r"profile \(nobody\) could not be found"),
        ({"AWS_ENDPOINT_URL_S3": "no url"}, "Invalid endpoint: no url"),
    ],
)
def test_wrong_settings(
    changes: dict[str, str], message: str, bucket: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    with pytest.raises(StoreError, match=f"cannot write s3://farm/.*{message}"):
        bucket.check()


def test_nobody_answers(bucket: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        store, before = S3Store(bucket.url, patience_s=1), time.monotonic()
        with pytest.raises(StoreError, match=f"nobody answers at {endpoint}"):
            store.check()
    assert 0.5 < time.monotonic() - before < 5


def refusal(status: int, code: str, **more: str) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "no"} | more,
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
        },
        "PutObject",
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            refusal(403, "AccessDenied"),
            "says AccessDenied: the permission is missing, s3:PutObject",
        ),
        (refusal(403, "403"), "missing, s3:PutObject"),
        (refusal(301, "PermanentRedirect"), "in another region: set AWS_DEFAULT_REGION"),
        (refusal(400, "AuthorizationHeaderMalformed", Region="eu-west-1"), "region 'eu-west-1'"),
        (refusal(403, "ExpiredToken"), "refuses the credentials"),
        (refusal(403, "RequestTimeTooSkewed"), "clock"),
        (refusal(400, "EntityTooLarge"), "says EntityTooLarge: no"),
        (SSLError(endpoint_url="x", error="CERTIFICATE_VERIFY_FAILED"), "no secure connection"),
    ],
)
def test_what_people_are_told(error: Exception, message: str) -> None:
    conflict, why = reason(error, "farm", "http://s3")
    assert not conflict
    assert not is_passing(error)
    assert re.search(message, why)


@pytest.mark.parametrize(
    ("status", "code"),
    [(412, "PreconditionFailed"), (404, "NoSuchKey"), (409, "ConditionalRequestConflict")],
)
def test_what_is_a_conflict(status: int, code: str) -> None:
    """AWS answers 404 to a write over a version that is gone; seaweedfs 412."""
    assert reason(refusal(status, code), "farm", "http://s3")[0]


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (429, ""), (409, "ConditionalRequestConflict")],
)
def test_what_passes(status: int, code: str) -> None:
    assert is_passing(refusal(status, code))


def pump(source: socket.socket, sink: socket.socket, loses: threading.Semaphore | None) -> None:
    """Carry what one side says to the other, until an end or an answer that gets lost."""
    with suppress(OSError):
        while data := source.recv(65536):
            is_final = not data.startswith(b"HTTP/1.1 100")
            if loses and is_final and loses.acquire(blocking=False):
                break
            sink.sendall(data)
    hang_up(source)
    hang_up(sink)


def hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def lossy(server: S3Server) -> Iterator[Callable[[], None]]:
    """A proxy before the server; after each call of what it gives, one answer gets lost."""
    loses = threading.Semaphore(0)
    listener = socket.create_server(("127.0.0.1", 0))
    clients = [listener]

    def carry(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            asking = threading.Thread(target=pump, args=(client, upstream, None))
            asking.start()
            pump(upstream, client, loses)
            asking.join()

    def serve() -> None:
        with suppress(OSError):
            while True:
                clients.append(listener.accept()[0])
                threads.submit(carry, clients[-1])

    with (
        listener,
        ThreadPoolExecutor(32) as threads,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listener.getsockname()[1]}")
        threads.submit(serve)
        try:
            yield loses.release
        finally:
            for client in clients:
                hang_up(client)


def test_lost_answers(server: S3Server, bucket: S3Store) -> None:
    with lossy(server) as lose:
        store = S3Store(bucket.url)
        lose()
        first = store.put("a", b"1", if_none_match=True)
        assert bucket.get("a") == (b"1", first)
        lose()
        second = store.put("a", b"2", if_match=first)
        assert bucket.get("a") == (b"2", second)
        for conditions in ({"if_none_match": True}, {"if_match": first}):
            lose()
            with pytest.raises(ConflictError):
                store.put("a", b"2", **conditions)
        lose()
        assert store.get("a") == (b"2", second)
        lose()
        assert [*store.list("")] == ["a"]
        lose()
        store.delete("a")
        lose()
        assert not store.exists("a")


def test_a_server_that_is_away_is_waited_for(server: S3Server, bucket: S3Store) -> None:
    stop = threading.Event()
    known = bucket.put("known", b"all the time")

    def write(number: int) -> list[str]:
        keys: list[str] = []
        while not stop.is_set():
            key = f"{number:02}/{len(keys):04}"
            bucket.put(key, key.encode(), if_none_match=True)
            keys.append(key)
        return keys

    def read(_: int) -> None:
        while not stop.is_set():
            assert bucket.get("known") == (b"all the time", known)
            assert [*bucket.list("known")] == ["known"]

    with ThreadPoolExecutor(16) as threads:
        writers = [threads.submit(write, number) for number in range(12)]
        readers = [threads.submit(read, number) for number in range(4)]
        try:
            time.sleep(0.3)
            server.stop()
            time.sleep(2)
            server.start()
            time.sleep(0.3)
        finally:
            stop.set()
        written = [key for writer in writers for key in writer.result()]
        for reader in readers:
            reader.result()
    assert [*bucket.list("")] == [*sorted(written), "known"]
