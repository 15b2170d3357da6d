"""Object storage over S3: the only module that calls the MinIO SDK, which blocks and therefore runs in threads.

Every operation has socket timeouts, because a thread cannot be cancelled. A cancelled caller leaves its call running;
it ends by itself, with an unknown outcome. Errors have four kinds, by what the caller can do.
"""

import asyncio
import io
import itertools
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import minio
import urllib3
from minio.commonconfig import ComposeSource
from minio.datatypes import Object
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from libs.core.aio.backoff import Backoff
from libs.core.config.connection_settings import StorageSettings
from libs.core.http.health import Readiness
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import SpanKind, span
from libs.core.storage.credentials import StorageCredentials
from libs.core.storage.errors import BucketMissing, ObjectChanged, ObjectMissing, StorageRejected, StorageUnavailable
from libs.core.transport.client_tls import ClientTls

log = get_logger(__name__)

MIN_COMPOSED_PART_BYTES = 5 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_LIST_PAGE = 500
_NO_OBJECT = ".the0/now"
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

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectInfo:
    """An object at the time of the request: *etag* without quotes changes with the content, *size* is in bytes."""

    key: str
    size: int
    etag: str
    modified_at: datetime


@dataclass(frozen=True)
class Piece:
    """A part of an object to compose from: *length* bytes (None: the rest) from *offset* on, of version *etag*."""

    key: str
    offset: int = 0
    length: int | None = None
    etag: str | None = None


class ObjectStore:
    """Buckets and objects of one S3 endpoint.

    Args:
        threads: maximum number of concurrent calls; further ones wait.
        connect_timeout_seconds, read_timeout_seconds: limits of each wait on a socket.
    """

    def __init__(
        self,
        settings: StorageSettings,
        *,
        threads: int = 8,
        connect_timeout_seconds: float = 3.0,
        read_timeout_seconds: float = 20.0,
    ) -> None:
        self.settings = settings
        self.bytes_sent = 0
        """Bytes of object content sent to the network, by puts of any kind."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="object-store")
        self._threads = threads
        self._timeout = urllib3.Timeout(connect=connect_timeout_seconds, read=read_timeout_seconds)
        self._tls = ClientTls.of("MINIO", settings)
        self._credentials = StorageCredentials(settings)
        self._opening = threading.Lock()
        self._opened_with = -1
        self._open()

    @property
    def _client(self) -> minio.Minio:
        """The SDK's client; another one when the certificates were replaced."""
        if self._tls is not None and self._tls.version != self._opened_with:
            self._open()
        return self._minio

    def _open(self) -> None:
        with self._opening:
            version = self._tls.version if self._tls is not None else 0
            if version == self._opened_with:
                return
            self._http = urllib3.PoolManager(
                timeout=self._timeout,
                maxsize=self._threads,
                # One retry for a connection that went stale while idle. Real retries are the callers', with backoff.
                retries=urllib3.Retry(
                    total=1, connect=0, read=1, redirect=2, status=0, respect_retry_after_header=False
                ),
                ssl_context=self._tls.context() if self._tls is not None else None,
            )
            self._minio = minio.Minio(
                self.settings.endpoint,
                credentials=self._credentials,
                secure=self.settings.secure,
                http_client=self._http,
            )
            self._opened_with = version

    async def close(self) -> None:
        """Close the connections, without waiting for running calls; they end within their timeouts."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    # --- reading

    async def stat(self, bucket: str, key: str) -> ObjectInfo:
        """Return the object's current version and size."""

        def call() -> ObjectInfo:
            found = self._client.stat_object(bucket, key)
            return _info(key, found.size, found.etag, found.last_modified)

        return await self._run("stat", bucket, key, call)

    async def get(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> bytes:
        """Return the object's bytes from *offset* on, at most *length*; empty when *offset* is at or past the end.

        Raises:
            ObjectChanged: it is no longer the version *etag*.
        """
        if length == 0:
            return b""

        def call() -> bytes:
            try:
                with self._opened(bucket, key, offset, length, etag) as response:
                    return bytes(response.read())
            except S3Error as error:
                if error.code == "InvalidRange":
                    return b""
                raise

        return await self._run("get", bucket, key, call)

    async def get_to_file(self, bucket: str, key: str, path: Path, *, etag: str, max_bytes: int) -> int:
        """Write version *etag* of the object to the new file *path*; return its size in bytes.

        Raises:
            ObjectChanged: it is no longer that version; nothing useful is in *path*.
            StorageRejected: it is larger than *max_bytes*.
        """

        def call() -> int:
            written = 0
            with self._opened(bucket, key, 0, None, etag) as response, path.open("xb") as file:
                for chunk in response.stream(_CHUNK_BYTES):
                    written += len(chunk)
                    if written > max_bytes:
                        raise StorageRejected(f"get {bucket}/{key}", f"over {max_bytes} bytes", "the object's size")
                    file.write(chunk)
            return written

        return await self._run("get", bucket, key, call)

    async def list(self, bucket: str, prefix: str, *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield every object whose key begins with *prefix*, in key order, after *start_after*."""
        pages: Iterator[Object] | None = None

        def some() -> list[ObjectInfo]:
            nonlocal pages
            if pages is None:
                pages = iter(self._client.list_objects(bucket, prefix, True, start_after or None))
            return [
                _info(item.object_name or "", item.size, item.etag, item.last_modified)
                for item in itertools.islice(pages, _LIST_PAGE)
            ]

        while page := await self._run("list", bucket, prefix, some):
            for info in page:
                yield info

    async def now(self, bucket: str) -> datetime:
        """Return the storage's clock, by which objects have their times, in whole seconds.

        Falls back to this machine's clock: a storage that checks signatures has nearly the same time.
        """

        def call() -> datetime:
            try:
                headers = self._client.stat_object(bucket, _NO_OBJECT).metadata
            except S3Error as error:
                if error.code != "NoSuchKey":
                    raise
                headers = error.response.headers
            date = (headers or {}).get("Date")
            return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

        return await self._run("stat", bucket, _NO_OBJECT, call)

    # --- writing

    async def put(self, bucket: str, key: str, content: bytes, content_type: str = "application/octet-stream") -> str:
        """Create or replace the object with *content*; return its ETag. May be repeated."""

        def call() -> str:
            made = self._client.put_object(
                bucket, key, io.BytesIO(content), len(content), content_type, num_parallel_uploads=1
            )
            return made.etag or ""

        self.bytes_sent += len(content)
        return await self._run("put", bucket, key, call)

    async def put_file(self, bucket: str, key: str, path: Path, content_type: str = "application/octet-stream") -> str:
        """Create or replace the object with the content of the file *path*, in parts when large; return its ETag."""

        def call() -> tuple[str, int]:
            size = path.stat().st_size
            with path.open("rb") as file:
                made = self._client.put_object(bucket, key, file, size, content_type, num_parallel_uploads=1)
            return made.etag or "", size

        etag, size = await self._run("put", bucket, key, call)
        self.bytes_sent += size
        return etag

    async def compose(
        self, bucket: str, key: str, pieces: Sequence[Piece], content_type: str = "application/octet-stream"
    ) -> str:
        """Create or replace the object from *pieces* of objects in the same bucket, on the server; return its ETag.

        Every piece except the last has at least ``MIN_COMPOSED_PART_BYTES``; *key* may be among them.

        Raises:
            ObjectChanged: a piece is no longer the version that it names.
        """

        def call() -> str:
            sources = [
                ComposeSource(bucket, piece.key, offset=piece.offset or None, match_etag=piece.etag) for piece in pieces
            ]
            made = self._client.compose_object(bucket, key, sources, metadata={"Content-Type": content_type})
            return made.etag or ""

        return await self._run("compose", bucket, key, call)

    async def remove(self, bucket: str, key: str) -> None:
        """Remove the object; no error when it does not exist."""
        try:
            await self._run("remove", bucket, key, lambda: self._client.remove_object(bucket, key))
        except ObjectMissing:
            return

    # --- buckets and start

    async def ensure_bucket(self, bucket: str) -> None:
        """Create the bucket if it is missing; another process may do so at the same time."""

        def call() -> None:
            if self._client.bucket_exists(bucket):
                return
            try:
                self._client.make_bucket(bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

        await self._run("make", bucket, "", call)

    async def wait_until_up(self, readiness: Readiness, buckets: Iterable[str]) -> None:
        """Return when the storage answers and *buckets* exist; until then *readiness* shows the reason.

        A rejection is waited out too: a starting server rejects valid credentials, and wrong ones can be corrected
        on the server's side.
        """
        wanted = list(dict.fromkeys(buckets))
        backoff = Backoff(initial_seconds=0.2, cap_seconds=5.0)
        last = ""
        while True:
            try:
                for bucket in wanted:
                    await self.ensure_bucket(bucket)
            except (StorageUnavailable, StorageRejected) as error:
                if str(error) != last:
                    log.warning("object storage is not usable yet", reason=str(error), endpoint=self.settings.endpoint)
                last = str(error)
                readiness.report("storage", False, last)
                await asyncio.sleep(backoff.next_seconds())
            else:
                readiness.report("storage", True)
                return

    # --- inside

    async def _run(self, verb: str, bucket: str, key: str, call: Callable[[], T]) -> T:
        def carried_out() -> T:
            with _translated(verb, bucket, key, self.settings):
                return call()

        about = {"aws.s3.bucket": bucket, "aws.s3.key": key}
        with (
            span(f"storage {verb}", kind=SpanKind.CLIENT, attributes=about),
            observe("storage", verb, refused=lambda error: isinstance(error, ObjectMissing | ObjectChanged)),
        ):
            return await asyncio.get_running_loop().run_in_executor(self._executor, carried_out)

    @contextmanager
    def _opened(
        self, bucket: str, key: str, offset: int, length: int | None, etag: str | None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        headers: dict[str, str | list[str] | tuple[str]] = {"If-Match": f'"{etag}"'} if etag else {}
        response = self._client.get_object(bucket, key, offset, length or 0, request_headers=headers)
        try:
            yield response
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()


@contextmanager
def _translated(verb: str, bucket: str, key: str, settings: StorageSettings) -> Iterator[None]:
    """Wrap a call of the SDK, and translate its errors."""
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
        settings.state_bucket: "MINIO_STATE_BUCKET",
    }
    return named.get(bucket, f"the bucket name {bucket!r} and the key")


def _shortened(error: Exception) -> str:
    """Return the innermost reason, without the object addresses that urllib3 puts before it."""
    reason = getattr(error, "reason", None) or error
    return re.sub(r"<?urllib3[^>:]*>?:? ?|HTTPS?Connection\([^)]*\): ", "", str(reason))


def _info(key: str, size: int | None, etag: str | None, modified_at: datetime | None) -> ObjectInfo:
    return ObjectInfo(key, size or 0, (etag or "").strip('"'), modified_at or datetime.fromtimestamp(0, UTC))
