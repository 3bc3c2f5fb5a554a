"""The S3 store: URLs, error messages, lost responses, and a server that goes down."""

import re
import socket
import tarfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, SSLError

from farm.__main__ import main
from farm.errors import ConflictError, StoreError
from farm.store import open_store
from farm.store.s3 import S3Store
from farm.store.s3_errors import is_retryable, reason
from tests.old_stores import STORES
from tests.support.s3_server import S3Server, lossy, s3_environment, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server, s3_environment(server):
        yield server


@pytest.fixture
def bucket(server: S3Server) -> S3Store:
    """A prefix of its own in the server's bucket."""
    return S3Store(f"{server.url}/{uuid.uuid4().hex}")


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


def test_jobs_are_read_without_a_farm(
    bucket: S3Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(max(STORES.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = open_store(str(tmp_path / "store"))
    for key in folder.list(""):
        stored = folder.get(key)
        assert stored is not None
        bucket.put(key, stored.data)
    before = {key: bucket.get(key) for key in bucket.list("")}
    assert main(["jobs", "--all", "--store", bucket.url]) == 0
    jobs = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(jobs) == 3
    for command in ("show", "logs"):
        assert main([command, jobs[0], "--store", bucket.url]) == 0
        assert jobs[0] in capsys.readouterr().out
    assert {key: bucket.get(key) for key in bucket.list("")} == before
    assert main(["jobs", "--store", f"{bucket.url}/nothing"]) == 2
    assert "no farm keeps its jobs at s3://farm/" in capsys.readouterr().err


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
    assert 0.2 < time.monotonic() - before < 5  # the pauses between the tries are random


def refusal(status: int, code: str, **more: str) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "no"} | more,
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return ClientError(response, "PutObject")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            refusal(403, "AccessDenied"),
            "says AccessDenied: the credentials lack the permission s3:PutObject",
        ),
        (refusal(403, "403"), "lack the permission s3:PutObject"),
        (refusal(301, "PermanentRedirect"), "in another region: set AWS_DEFAULT_REGION"),
        (refusal(400, "AuthorizationHeaderMalformed", Region="eu-west-1"), "region 'eu-west-1'"),
        (refusal(403, "ExpiredToken"), "refuses the credentials"),
        (refusal(403, "RequestTimeTooSkewed"), "clock"),
        (refusal(400, "EntityTooLarge"), "says EntityTooLarge: no"),
        (
            SSLError(endpoint_url="x", error=OSError("CERTIFICATE_VERIFY_FAILED")),
            "no secure connection",
        ),
    ],
)
def test_what_people_are_told(error: Exception, message: str) -> None:
    conflict, why = reason(error, "farm", "http://s3")
    assert not conflict
    assert not is_retryable(error)
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
    assert is_retryable(refusal(status, code))


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
