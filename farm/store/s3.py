"""A store in a bucket of Amazon S3, or of any server that speaks its protocol.

boto3 finds the endpoint, the region and the credentials in its usual places: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_PROFILE, the files in ~/.aws, or the instance's role.
"""

import mimetypes
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import quote

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_exponential,
    wait_random_exponential,
)

from farm.errors import ConditionsError, ConflictError, StoreError
from farm.store.protocol import Entry, Stored, check_key, is_key, probe
from farm.store.s3_errors import (
    CHECKSUMS,
    CONDITIONAL,
    is_missing,
    is_retryable,
    may_be_checksums,
    reason,
)
from farm.store.s3_urls import parse_s3_url

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
        PutObjectRequestTypeDef,
    )

T = TypeVar("T")

PATIENCE_S = 75.0  # long enough for a server to restart
CHECK_PATIENCE_S = 10.0  # shorter, because a person waits for the result of a check
LONGEST_PAUSE_S = 5.0
# Exponential backoff from 0.1 s, of which up to half is left out at random.
PAUSES = wait_exponential(0.05, LONGEST_PAUSE_S / 2) + wait_random_exponential(
    0.05, LONGEST_PAUSE_S / 2
)
CONNECT_S = 5.0
READ_S = 30.0  # between two bytes of a response
WRITER = "writer"  # the metadata field that holds the unique id of the `put` that wrote an object


class S3Store:
    """A store in a bucket, or below a prefix in it. Requests are retried while a server is down."""

    def __init__(
        self,
        url: str,
        patience_s: float = PATIENCE_S,
        checksums: Literal["when_supported", "when_required"] | None = None,
    ) -> None:
        """Send no request yet. Raises StoreError for a URL that names no bucket.

        patience_s: how long an operation is retried, from its start. The last try may add up to
        min(patience_s, READ_S) seconds. checksums: when to send checksums with requests, if it is
        to differ from boto3's configuration.
        """
        self.bucket, self._base = parse_s3_url(url)
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
            # Bytes would be sent in one call, which the connect timeout bounds.
            request["Body"] = BytesIO(data)
            return client.put_object(**request)["ETag"]

        try:
            return self._ask("write", key, write)
        except ConflictError:
            # If the response to an earlier try was lost, the object is this put's own.
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
            with suppress(client.exceptions.NoSuchKey):  # which S3 itself never raises here
                client.delete_object(Bucket=self.bucket, Key=name)

        self._ask("delete", key, remove)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        return (entry.key for entry in self.entries(prefix, after))

    def entries(self, prefix: str, after: str = "") -> Iterator[Entry]:
        request: ListObjectsV2RequestTypeDef = {
            "Bucket": self.bucket,
            "Prefix": self._base + prefix,
        }
        page = self._page({**request, "StartAfter": self._base + after})
        while True:
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._base)
                # Other programs may have written names that are not keys. SeaweedFS treats the
                # prefix a// like a/. It lists in byte order, except for a folder next to a name
                # that begins with the folder's name.
                if key.startswith(prefix) and is_key(key):
                    yield Entry(key, found["Size"], found["LastModified"].timestamp())
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
        return 0  # S3 writes an object whole or not at all

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

    def server_time(self) -> float:
        """The server's clock, in seconds since 1970 and to the second, as an answer has it."""

        def ask(client: "S3Client") -> float:
            answer = client.list_objects_v2(Bucket=self.bucket, Prefix=self._base, MaxKeys=1)
            date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
            return parsedate_to_datetime(date).timestamp()

        return self._ask("list", "", ask)

    def _takes_writes_without(self, patience_s: float) -> bool:
        """Whether the server accepts writes without the checksums that boto3 adds."""
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
        """The client of all threads, created on first use: finding credentials may be slow."""
        with self._lock:
            if self._made is None:
                self._made = self._make_client(None)
            return self._made

    def _signer(self, endpoint: str) -> "S3Client":
        """A client that signs URLs for another endpoint of the server, and sends no requests."""
        with self._lock:
            if endpoint not in self._signers:
                self._signers[endpoint] = self._make_client(endpoint)
            return self._signers[endpoint]

    def _make_client(self, endpoint: str | None) -> "S3Client":
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                # botocore's retries share a quota, which many threads exhaust within a second
                # when a server is down. So `_ask` retries instead, for patience_s.
                retries={"mode": "standard", "total_max_attempts": 1},
                signature_version="s3v4",  # botocore's default for signed URLs is older
                connect_timeout=min(CONNECT_S, self.patience_s),
                read_timeout=min(READ_S, self.patience_s),
                max_pool_connections=32,
                request_checksum_calculation=self._checksums,
            ),
        )

    def _ask(self, verb: str, key: str, question: Callable[["S3Client"], T]) -> T:
        """Send a request, and retry it for patience_s while the server is unavailable."""
        retrying = Retrying(
            retry=retry_if_exception(is_retryable),
            stop=stop_before_delay(self.patience_s),
            wait=PAUSES,
            reraise=True,
        )
        try:
            return retrying(lambda: question(self._client()))
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: bad endpoint
            raise self._explained(verb, key, error) from error

    def _explained(self, verb: str, key: str, error: Exception) -> StoreError:
        endpoint = self._made.meta.endpoint_url if self._made else "an S3 server"
        conflict, why = reason(error, self.bucket, endpoint)
        public = "its server does not answer" if is_retryable(error) else "its server refuses"
        return (ConflictError if conflict else StoreError)(
            f"cannot {verb} {self.where(key)}: {why}", reason=public
        )
