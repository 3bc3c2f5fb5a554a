"""A bucket as a store: S3, or a server that speaks its protocol.

Endpoint, region and credentials are found the way boto3 finds them: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_PROFILE, the files in ~/.aws, an instance's role.
"""

import mimetypes
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import quote

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.handlers import validate_bucket_name
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_exponential,
    wait_random_exponential,
)

from farm.errors import ConditionsError, ConflictError, StoreError
from farm.store.protocol import Stored, check_key, is_key, probe
from farm.store.s3_errors import (
    CHECKSUMS,
    CONDITIONAL,
    is_missing,
    is_passing,
    may_be_checksums,
    reason,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
        PutObjectRequestTypeDef,
    )

T = TypeVar("T")

ARN_PARTS = 4  # between slashes, at most: arn:...:outpost/ID/accesspoint/NAME
PATIENCE_S = 75.0  # a server that is being restarted is back by then
CHECK_PATIENCE_S = 10.0  # somebody is waiting for the answer
LONGEST_PAUSE_S = 5.0
# From 0.1 s on each pause is twice the one before, of which a random half may be left out.
PAUSES = wait_exponential(0.05, LONGEST_PAUSE_S / 2) + wait_random_exponential(
    0.05, LONGEST_PAUSE_S / 2
)
CONNECT_S = 5.0
READ_S = 30.0  # between two bytes of an answer
WRITER = "writer"  # the metadata that names the `put` an object is of


class S3Store:
    """A bucket, or what is below a prefix in it. A server that is away is waited for."""

    def __init__(
        self,
        url: str,
        patience_s: float = PATIENCE_S,
        checksums: Literal["when_supported", "when_required"] | None = None,
    ) -> None:
        """Ask nobody yet; StoreError for a URL that names no bucket.

        patience_s: how long to try again, counted from an operation's start. One try may take as
        long, and READ_S at most: an operation ends within the sum of both. checksums: of requests,
        where not as boto3 is set up.
        """
        self.bucket, self._base = _parse(url)
        self.patience_s = patience_s
        self._lock = threading.Lock()
        self._checksums = checksums
        self._made: S3Client | None = None
        self._signers: dict[str, S3Client] = {}

    def __reduce__(self) -> tuple[type["S3Store"], tuple[str, float]]:
        return S3Store, (self.url, self.patience_s)

    @property
    def url(self) -> str:
        return self.where().rstrip("/")

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        writer = uuid.uuid4().hex
        request: PutObjectRequestTypeDef = {
            "Bucket": self.bucket,
            "Key": self._name(key),
            "ContentType": mimetypes.guess_type(key)[0] or "application/octet-stream",
            "Metadata": {WRITER: writer},
        }
        if if_match is not None:
            request["IfMatch"] = if_match
        if if_none_match:
            request["IfNoneMatch"] = "*"

        def write(client: "S3Client") -> str:
            # Not the bytes: they would be sent in one call, which the connect timeout bounds.
            request["Body"] = BytesIO(data)
            return client.put_object(**request)["ETag"]

        try:
            return self._ask("write", key, write)
        except ConflictError:
            # Where an answer was lost, the next attempt meets what the former one wrote.
            met = self._head(key)
            if met is None or met["Metadata"].get(WRITER) != writer:
                raise
            return met["ETag"]

    def get(self, key: str) -> Stored | None:
        name = self._name(key)

        def read(client: "S3Client") -> Stored | None:
            try:
                answer = client.get_object(Bucket=self.bucket, Key=name)
            except client.exceptions.NoSuchKey:
                return None
            with answer["Body"] as body:
                return Stored(body.read(), answer["ETag"])

        return self._ask("read", key, read)

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def size(self, key: str) -> int | None:
        head = self._head(key)
        return head["ContentLength"] if head else None

    def delete(self, key: str) -> None:
        name = self._name(key)

        def remove(client: "S3Client") -> None:
            with suppress(client.exceptions.NoSuchKey):  # S3 itself does not mind
                client.delete_object(Bucket=self.bucket, Key=name)

        self._ask("delete", key, remove)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        request: ListObjectsV2RequestTypeDef = {
            "Bucket": self.bucket,
            "Prefix": self._base + prefix,
        }
        page = self._page({**request, "StartAfter": self._base + after})
        while True:
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._base)
                # Others may write names that are no keys. seaweedfs takes a prefix a// for a/; its
                # order is that of bytes, but for a folder beside a name that its own name begins.
                if key.startswith(prefix) and is_key(key):
                    yield key
            if not page["IsTruncated"]:
                return
            page = self._page({**request, "ContinuationToken": page["NextContinuationToken"]})

    def presign(
        self, key: str, expires_s: int = 3600, endpoint: str | None = None, filename: str = ""
    ) -> str:
        params = {"Bucket": self.bucket, "Key": self._name(key)}
        if filename:
            named = f"inline; filename*=utf-8''{quote(filename, safe='')}"
            params["ResponseContentDisposition"] = named

        def sign(client: "S3Client") -> str:
            signer = client if endpoint is None else self._signer(endpoint)
            return signer.generate_presigned_url("get_object", Params=params, ExpiresIn=expires_s)

        return self._ask("sign a URL for", key, sign)

    def where(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{self._name(key) if key else self._base}"

    def sweep(self) -> int:
        return 0  # an object is put in one call, whole or not at all

    def check(self) -> None:
        patience_s = min(self.patience_s, CHECK_PATIENCE_S)
        try:
            probe(S3Store(self.url, patience_s))
        except ConditionsError as error:
            raise ConditionsError(f"{error}; {CONDITIONAL}") from error
        except StoreError as error:
            if not may_be_checksums(error.__cause__) or not self._takes_writes_without(patience_s):
                raise
            raise StoreError(f"{error}; {CHECKSUMS}", reason=error.reason) from error

    def _takes_writes_without(self, patience_s: float) -> bool:
        """Whether a write that failed is taken without the checksums that boto3 adds to it."""
        plain = S3Store(self.url, patience_s, checksums="when_required")
        key = f"probe-{uuid.uuid4().hex}"
        try:
            plain.put(key, b"A check of the store left this; it may be deleted.")
            plain.delete(key)
        except StoreError:
            return False
        return True

    def _name(self, key: str) -> str:
        return self._base + check_key(key)

    def _page(self, request: "ListObjectsV2RequestTypeDef") -> "ListObjectsV2OutputTypeDef":
        return self._ask("list", "", lambda client: client.list_objects_v2(**request))

    def _head(self, key: str) -> "HeadObjectOutputTypeDef | None":
        name = self._name(key)

        def look(client: "S3Client") -> "HeadObjectOutputTypeDef | None":
            try:
                return client.head_object(Bucket=self.bucket, Key=name)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

        return self._ask("read", key, look)

    def _client(self) -> "S3Client":
        """One for all threads, made late: looking for credentials may ask the network."""
        with self._lock:
            if self._made is None:
                self._made = self._make_client(None)
            return self._made

    def _signer(self, endpoint: str) -> "S3Client":
        """A client that signs for the server's other URL; it asks nobody."""
        with self._lock:
            if endpoint not in self._signers:
                self._signers[endpoint] = self._make_client(endpoint)
            return self._signers[endpoint]

    def _make_client(self, endpoint: str | None) -> "S3Client":
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                # botocore's retries share a quota: threads that all meet a server that is away
                # have spent it in a second. So `_ask` tries again, by the clock.
                retries={"mode": "standard", "total_max_attempts": 1},
                signature_version="s3v4",  # its default for signed URLs is older
                connect_timeout=min(CONNECT_S, self.patience_s),
                read_timeout=min(READ_S, self.patience_s),
                max_pool_connections=32,
                request_checksum_calculation=self._checksums,
            ),
        )

    def _ask(self, verb: str, key: str, question: Callable[["S3Client"], T]) -> T:
        """The answer; asked again and again while the server is away and patience lasts."""
        retrying = Retrying(
            retry=retry_if_exception(is_passing),
            stop=stop_before_delay(self.patience_s),
            wait=PAUSES,
            reraise=True,
        )
        try:
            return retrying(lambda: question(self._client()))
        except (BotoCoreError, ClientError, ValueError) as error:  # an endpoint that is no URL
            raise self._explained(verb, key, error) from error

    def _explained(self, verb: str, key: str, error: Exception) -> StoreError:
        endpoint = self._made.meta.endpoint_url if self._made else "an S3 server"
        conflict, why = reason(error, self.bucket, endpoint)
        public = "its server does not answer" if is_passing(error) else "its server refuses"
        return (ConflictError if conflict else StoreError)(
            f"cannot {verb} {self.where(key)}: {why}", reason=public
        )


def _parse(url: str) -> tuple[str, str]:
    """The bucket, and what the names of objects in it begin with; StoreError if it has none."""
    scheme, _, place = url.partition("://")
    bucket, prefix = split_bucket(place)
    if scheme.lower() != "s3" or not bucket:
        raise StoreError(
            f"no bucket in {url!r}: give s3://bucket/prefix; a bucket is a name of letters, "
            "digits, and . - _, or the ARN of an access point"
        )
    prefix = prefix.rstrip("/")
    if prefix and not is_key(prefix):
        raise StoreError(f"not a prefix in {url!r}: give s3://bucket/prefix, without '.' and '..'")
    return bucket, f"{prefix}/" if prefix else ""


def split_bucket(place: str) -> tuple[str, str]:
    """What boto3 takes for a bucket, and the rest after a slash; empty where it takes nothing.

    An ARN may have slashes of its own: the bucket is the shortest beginning that will do.
    """
    parts = place.split("/")
    for end in range(1, min(len(parts), ARN_PARTS) + 1):
        bucket = "/".join(parts[:end])
        if _is_bucket(bucket):
            return bucket, "/".join(parts[end:])
    return "", ""


def _is_bucket(text: str) -> bool:
    try:
        validate_bucket_name({"Bucket": text})
    except ParamValidationError:
        return False
    return not text.endswith("\n")  # which botocore's pattern passes over
