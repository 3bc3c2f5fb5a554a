"""What S3's errors mean: which pass, and what to tell people of the others."""

from botocore.exceptions import (
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)

PASSING_STATUS = (429, 500, 502, 503, 504)
PASSING_CODES = (
    "ConditionalRequestConflict",  # two conditional writes at once: S3 says to try again
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
)
# NoSuchKey answers a conditional write over a version that is gone.
CONFLICTS = ("PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey")
BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidSecurity",
    "AuthFailure",
)
ELSEWHERE = (
    "PermanentRedirect",
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
)
PERMISSIONS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject and s3:ListBucket",  # S3 forbids what is missing, without the latter
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}
SET_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile in ~/.aws"
)

CONDITIONAL = (
    "the farm needs both If-None-Match and If-Match on PutObject, so that two writers never "
    "overwrite each other. Amazon S3, Cloudflare R2, MinIO, Tigris and SeaweedFS have them "
    "(current versions); or give a folder that every node reaches"
)
CHECKSUMS = (
    "it takes the same write without the checksums that boto3 adds: set "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
    "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)


def may_be_checksums(error: BaseException | None) -> bool:
    """Whether a server may have refused a write for a header or a body that it does not know."""
    return isinstance(error, ClientError) and (
        _status(error) in (400, 411, 501) or _code(error) == "SignatureDoesNotMatch"
    )


def is_missing(error: ClientError) -> bool:
    """Whether there is no such object, for questions whose answer has no body to say why."""
    return _status(error) == 404


def is_passing(error: BaseException) -> bool:
    """Whether the same question may be answered in a while."""
    if isinstance(error, ClientError):
        return _status(error) in PASSING_STATUS or _code(error) in PASSING_CODES
    if isinstance(error, SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(
        error, (ConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError)
    )


def reason(error: Exception, bucket: str, endpoint: str) -> tuple[bool, str]:
    """Whether it is a conflict; and what is wrong, with what would be right."""
    if isinstance(error, ClientError):
        return _code(error) in CONFLICTS, _answered(error, bucket, endpoint)
    if isinstance(error, NoCredentialsError):
        return False, f"no credentials: {SET_CREDENTIALS}"
    if isinstance(error, PartialCredentialsError):
        return False, f"{error}: {SET_CREDENTIALS}"
    if isinstance(error, SSLError):
        return False, f"no secure connection to {endpoint}: {error}"
    if isinstance(error, (ConnectionError, HTTPClientError)):
        return False, f"nobody answers at {endpoint}: look at AWS_ENDPOINT_URL ({error})"
    return False, str(error)


def _answered(error: ClientError, bucket: str, endpoint: str) -> str:
    code = _code(error)
    if code in CONFLICTS:
        return "it was written by somebody else meanwhile"
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket!r} at {endpoint}: create it, or give another s3:// URL"
    if code in BAD_CREDENTIALS:
        return f"{endpoint} refuses the credentials ({code}): {SET_CREDENTIALS}"
    if code in ELSEWHERE:
        headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
        region = error.response["Error"].get("Region") or headers.get("x-amz-bucket-region")
        there = f"in the region {region!r}" if region else "in another region"
        return f"the bucket {bucket!r} is {there}: set AWS_DEFAULT_REGION to it"
    if code == "RequestTimeTooSkewed":
        return f"this machine's clock is wrong, says {endpoint}: set it"
    if _status(error) == 403:
        asked = error.operation_name  # of another service too: a role may be refused
        return f"{endpoint} says {code}: the permission is missing, {PERMISSIONS.get(asked, asked)}"
    return f"{endpoint} says {code}: {error.response['Error'].get('Message', '')}"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
