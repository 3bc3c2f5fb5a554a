"""Names of S3 stores, and the checks that find what a server lacks."""

import string
from typing import Any

import boto3
import pytest
from botocore.exceptions import ParamValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.batch import __main__ as batch
from farm.batch.source import SourceLocator
from farm.errors import ConditionsError, StoreError
from farm.store import open_store
from farm.store.s3 import S3Store
from tests.support.lacking_s3 import lacking_server
from tests.support.programs import exit_status
from tests.test_exits import PICTURE

ARN = "arn:aws:s3:us-west-2:123456789012:accesspoint"
OUTPOST = "arn:aws:s3-outposts:us-west-2:123456789012:outpost"
BUCKETS = [
    *(
        "my_bucket",
        "MyBucket",
        "a",
        "a.b.c",
        "a..b",
        "192.168.0.1",
        "b" * 255,
        "-",
        "x--use1--x-s3",
    ),
    *(f"{ARN}/name", f"{ARN}:name", "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/name"),
    "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/name",
    *(f"{OUTPOST}/op-01/accesspoint/name", f"{OUTPOST}:op-01:accesspoint:name"),
]
NO_BUCKETS = ["", "a b", "b" * 256, "ü", "a\n", f"{ARN}/", f"{OUTPOST}/op-01", "arn:aws:sqs:x"]


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("prefix", ["", "p", "p/q"])
def test_every_bucket_that_boto3_takes(bucket: str, prefix: str) -> None:
    store = open_store(f"s3://{bucket}/{prefix}")
    assert isinstance(store, S3Store)
    assert store.bucket == bucket
    assert store.url == f"s3://{bucket}/{prefix}".rstrip("/")
    assert open_store(store.url).where("a/b") == store.where("a/b")
    if prefix:
        source = SourceLocator().locate(f"s3://{bucket}/{prefix}")
        assert (source.path, str(source)) == (prefix, f"s3://{bucket}/{prefix}")


@pytest.mark.parametrize("bucket", NO_BUCKETS)
def test_what_is_no_bucket(bucket: str) -> None:
    with pytest.raises(StoreError, match="no bucket in"):
        open_store(f"s3://{bucket}/p")


@pytest.fixture(scope="module")
def client() -> Any:
    return boto3.session.Session().client(
        "s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )


@given(st.text(string.ascii_letters + string.digits + ".-_:é \n", max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_name_is_taken_that_boto3_refuses_nor_the_other_way(client: Any, name: str) -> None:
    try:
        client.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "k"})
        taken = bool(name) and not name.endswith("\n")
    except ParamValidationError:
        taken = False
    try:
        ours = open_store(f"s3://{name}/p").url == f"s3://{name}/p"
    except StoreError:
        ours = False
    assert ours == taken


LACKING = {
    ("If-None-Match",): "it ignores If-None-Match;",
    ("If-Match",): "it ignores If-Match;",
    ("If-Match", "If-None-Match"): "it ignores If-None-Match; it ignores If-Match;",
    ("501 If-None-Match",): r"it does not accept If-None-Match \(.*NotImplemented",
    ("501 If-Match",): r"it does not accept If-Match \(.*NotImplemented",
    ("501 If-Match", "501 If-None-Match"): r"not accept If-None-Match .*not accept If-Match \(",
    ("501 If-None-Match", "If-Match"): r"not accept If-None-Match .*it ignores If-Match",
    ("holds",): "refuses writes whose If-None-Match holds; .*whose If-Match holds",
}


@pytest.mark.parametrize("lacks", LACKING, ids=" and ".join)
def test_a_store_without_conditional_writes_is_told(lacks: tuple[str, ...]) -> None:
    with lacking_server(*lacks) as server:
        with pytest.raises(ConditionsError, match=LACKING[lacks]) as caught:
            open_store("s3://my_bucket/p").check()
        assert "s3://my_bucket/p/ has no conditional writes: it " in str(caught.value)
        assert "Amazon S3, Cloudflare R2, MinIO, Tigris and SeaweedFS support" in str(caught.value)

        assert server.objects == {}  # the check leaves nothing


def test_a_store_that_lacks_nothing_is_fine() -> None:
    with lacking_server() as server:
        store = open_store("s3://my_bucket/p")
        store.check()
        assert server.objects == {}
        etag = store.put("a", b"1")
        assert store.get("a") == (b"1", etag)


def test_a_store_that_refuses_checksums_is_told_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with lacking_server("checksums") as server:
        store = open_store("s3://my_bucket/p")
        words = "InvalidArgument.*AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        with pytest.raises(StoreError, match=words):
            store.check()
        assert server.objects == {}
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        open_store("s3://my_bucket/p").check()  # what it was told helps
        assert server.objects == {}


def test_a_store_that_refuses_every_write_is_not_told_of_checksums() -> None:
    with lacking_server("writes"), pytest.raises(StoreError, match="InvalidRequest") as caught:
        open_store("s3://my_bucket/p").check()
    assert "CHECKSUM" not in str(caught.value)
    assert "conditional" not in str(caught.value)


def test_a_batch_needs_conditions_of_the_farms_store_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # none is started: the store is looked at first
    with lacking_server("If-Match", "If-None-Match"):
        given = [PICTURE, "--out", "s3://clips/out", "--store", "s3://farms/farm"]
        assert exit_status(batch.main, given) == 2
    errors = capsys.readouterr().err
    assert "s3://farms/farm/ has no conditional writes: it ignores If-None-Match" in errors
    assert errors.count("\n") == 1
