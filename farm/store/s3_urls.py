"""Parses s3:// URLs, whose buckets may be named by ARNs."""

from botocore.exceptions import ParamValidationError
from botocore.handlers import validate_bucket_name

from farm.errors import StoreError
from farm.store.protocol import is_key

ARN_PARTS = 4  # the most parts between slashes, as in arn:...:outpost/ID/accesspoint/NAME


def parse_s3_url(url: str) -> tuple[str, str]:
    """The bucket, and the prefix of its object names. Raises StoreError if there is no bucket."""
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
    """Split `bucket/rest`; both are empty if it does not begin with a valid bucket name.

    An ARN may contain slashes, so the bucket is the shortest beginning that boto3 accepts.
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
    return not text.endswith("\n")  # botocore's pattern overlooks a trailing line break
