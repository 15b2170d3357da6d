"""Errors of the object storage, by what the caller can do, and their translation from those of the SDK."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from libs.core.config.connection_settings import StorageSettings
from libs.core.errors import Permanent, Retryable

_CREDENTIALS = "MINIO_ACCESS_KEY_ID and MINIO_SECRET_ACCESS_KEY"
_REFUSED_CREDENTIALS = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_MISSING = {"NoSuchKey", "NoSuchVersion", "NoSuchBucket"}
_BUSY = {"RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "OperationAborted", "ConditionalRequestConflict"}
_BUSY_STATUSES = {408, 409, 425, 429}


class StorageUnavailable(Retryable):
    """The storage did not answer, or answered that it is unavailable. A write may have happened or not."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"object storage: {what} failed: {reason}")


class ObjectMissing(Permanent):
    """The object or its bucket does not exist."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"object storage: no object {key!r} in bucket {bucket!r}")
        self.bucket = bucket
        self.key = key


class BucketMissing(ObjectMissing):
    """The bucket does not exist; configured buckets are created at start, so it was removed."""


class ObjectChanged(Retryable):
    """The object is no longer the requested version."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"object storage: {key!r} in bucket {bucket!r} was replaced meanwhile")


class StorageRejected(Permanent):
    """The storage permanently rejects the request; *setting* names what to check."""

    def __init__(self, what: str, reason: str, setting: str) -> None:
        super().__init__(f"object storage: {what} was refused: {reason}; check {setting}")
        self.setting = setting


@contextmanager
def translated(verb: str, bucket: str, key: str, settings: StorageSettings) -> Iterator[None]:
    """Wrap a call of the SDK: raise its errors as those of this module."""
    what = f"{verb} {bucket}/{key}" if key else f"{verb} bucket {bucket}"
    try:
        yield
    except S3Error as error:
        raise _fault(what, bucket, key, error, settings) from error
    except (ServerError, InvalidResponseError, MinioException) as error:
        raise StorageUnavailable(what, f"{error} (is MINIO_ENDPOINT an S3 server?)") from error
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise StorageUnavailable(what, _shortened(error)) from error
    except ValueError as error:
        # The SDK checks names before it sends anything.
        raise StorageRejected(what, str(error), _bucket_setting(bucket, settings)) from error


def _fault(what: str, bucket: str, key: str, error: S3Error, settings: StorageSettings) -> Exception:
    reason = f"{error.code}: {error.message}"
    if error.code == "NoSuchBucket":
        return BucketMissing(bucket, key)
    if error.code in _MISSING:
        return ObjectMissing(bucket, key)
    if error.code == "PreconditionFailed":
        return ObjectChanged(bucket, key)
    if error.code in _REFUSED_CREDENTIALS:
        return StorageRejected(what, reason, _CREDENTIALS)
    if error.code in _BUSY or error.response.status >= 500 or error.response.status in _BUSY_STATUSES:
        return StorageUnavailable(what, reason)
    return StorageRejected(what, reason, _bucket_setting(bucket, settings))


def _bucket_setting(bucket: str, settings: StorageSettings) -> str:
    named = {
        settings.code_bucket: "MINIO_BOTS_BUCKET",
        settings.logs_bucket: "MINIO_LOGS_BUCKET",
        settings.results_bucket: "MINIO_RESULTS_BUCKET",
    }
    return named.get(bucket, f"the bucket name {bucket!r} and the key")


def _shortened(error: Exception) -> str:
    """Return the innermost reason, without the object addresses that urllib3 puts before it."""
    reason = getattr(error, "reason", None) or error
    return re.sub(r"<?urllib3[^>:]*>?:? ?|HTTPS?Connection\([^)]*\): ", "", str(reason))
