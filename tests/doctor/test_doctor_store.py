"""The doctor's checks of stores: folders and a real S3 server, whole and broken."""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from farm.clock import FarmClock
from farm.doctor import store as checks
from farm.doctor.check import Status
from farm.ownership.lease import LeaseRecord
from farm.ownership.owner import Owner
from tests.support.doctoring import content, finding, findings
from tests.support.lacking_s3 import lacking_server
from tests.support.s3_server import BUCKET, S3Server, s3_environment, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server, s3_environment(server):
        yield server


@pytest.fixture(params=["folder", "missing folder", "s3"])
def url(request: pytest.FixtureRequest, place: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('server').url}/{uuid.uuid4().hex}"
    if request.param == "folder":
        (place / "a store").mkdir()
    return str(place / "a store")


def objects() -> list[str]:
    found = boto3.session.Session().client("s3").list_objects_v2(Bucket=BUCKET)
    return [each["Key"] for each in found.get("Contents", ())]


def test_a_store_that_works_is_left_as_it_was(url: str, place: Path) -> None:
    before = content(place)
    for check in (checks.store, checks.signed_urls, checks.clock):
        for found in findings(check, store=url):
            assert found.status == Status.OK, found
    assert content(place) == before
    if url.startswith("s3:"):
        assert objects() == []


def test_who_owns_it_is_told(place: Path) -> None:
    owner = Owner(host="node-7", pid=42, started=1, table="", since=0.0)
    lease = LeaseRecord(owner=owner, beat=1, clock=FarmClock().read())
    (place / "lease.json").write_text(lease.model_dump_json())
    texts = [each.text for each in findings(checks.store, store=str(place))]
    assert "The last farm to own it is process 42 on node-7, since 1970-01-01" in texts[1]


def unwritable(place: Path) -> str:
    if os.getuid() == 0:
        return "/proc/store"  # where not even root may write
    place.chmod(0o500)
    return str(place / "store")


def a_file(place: Path) -> str:
    (place / "file").write_bytes(b"")
    return str(place / "file")


@pytest.mark.parametrize("broken", [unwritable, a_file])
def test_a_folder_that_cannot_be_written(broken: Any, place: Path) -> None:
    url = broken(place)
    found = finding(checks.store, store=url)
    assert found.status == Status.FAILED
    assert "cannot write to" in found.text
    assert "Create the folder, mount its disk" in found.advice
    assert f"the user {os.getuid()}" in found.advice
    assert finding(checks.clock, store=url).status == Status.UNKNOWN


BROKEN = {
    "wrong credentials": ("refuses the credentials", {"AWS_SECRET_ACCESS_KEY": "wrong"}),
    "no credentials": (
        "no credentials: set AWS_ACCESS_KEY_ID",
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    ),
    "no bucket": ("there is no bucket 'absent'", {}),
    "unreachable": ("nobody answers at http://127.0.0.1", {"AWS_ENDPOINT_URL_S3": "closed"}),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_bucket_that_cannot_be_used(
    broken: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, environment = BROKEN[broken]
    monkeypatch.setattr(checks, "PATIENCE_S", 0.5)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        for name, value in environment.items():
            closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
            monkeypatch.setenv(name, closed if value == "closed" else value)
        url = "s3://absent/x" if broken == "no bucket" else server.url
        found = finding(checks.store, store=url)
        assert found.status == Status.FAILED
        assert words in found.text
        for check in (checks.clock, checks.signed_urls):
            assert finding(check, store=url).status == Status.UNKNOWN


@pytest.mark.parametrize("lacks", ["If-Match", "If-None-Match", "writes"])
def test_a_server_that_lacks_something(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)  # of the real server
    with lacking_server(lacks) as fake:
        found = finding(checks.store, store="s3://bucket/prefix")
        assert found.status == Status.FAILED
        assert lacks in found.text or lacks == "writes"
        assert not fake.objects


@pytest.mark.parametrize(
    ("apart", "folder", "bucket"),
    [
        (2, Status.OK, Status.OK),
        (60, Status.WARNING, Status.WARNING),
        (-60, Status.WARNING, Status.WARNING),
        (2000, Status.WARNING, Status.FAILED),
    ],
)
def test_a_clock_that_is_wrong(
    apart: int,
    folder: Status,
    bucket: Status,
    server: S3Server,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = checks.now
    monkeypatch.setattr(checks, "now", lambda: right() + apart)
    for url, status in ((str(place), folder), (server.url, bucket)):
        found = finding(checks.clock, store=url)
        assert found.status == status
        assert status == Status.OK or "NTP" in found.advice


def test_where_clients_reach_the_server(server: S3Server) -> None:
    right = server.env["AWS_ENDPOINT_URL_S3"]
    found = finding(checks.signed_urls, store=server.url, s3_public_endpoint=right)
    assert found.status == Status.OK
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        wrong = f"http://127.0.0.1:{taken.getsockname()[1]}"
        found = finding(checks.signed_urls, store=server.url, s3_public_endpoint=wrong)
    assert found.status == Status.FAILED
    assert wrong in found.text
    assert "X-Amz-Signature" not in found.text
    assert objects() == []
