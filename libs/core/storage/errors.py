"""Errors of the object storage, by what the caller can do."""

from libs.core.errors import Permanent, Retryable


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
