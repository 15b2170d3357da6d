"""The connection to MongoDB, and the translation of the driver's errors."""

import asyncio
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pymongo
from bson.errors import BSONError
from pydantic import SecretStr
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from libs.core.aio.backoff import Backoff
from libs.core.aio.cancellation import cancellation_kept
from libs.core.config.connection_settings import MongoSettings
from libs.core.errors import Permanent, Retryable, UserError
from libs.core.http.health import Readiness
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import record
from libs.core.process.isolation import repeat
from libs.core.transport.client_tls import ClientTls
from libs.core.transport.watched_files import FileRejected, WatchedFiles

log = get_logger(__name__)

Document = dict[str, Any]
Database = AsyncDatabase[Document]

DEPENDENCY = "mongodb"
"""The name under which readiness shows this connection."""

_LEASE_SECONDS = 2.0
_DUPLICATE_KEY = 11000
_DENIED_CODES = {
    13,  # Unauthorized
    18,  # AuthenticationFailed
    8000,  # the same, from Atlas
}
_PASSING_CODES = {
    6,  # HostUnreachable
    7,  # HostNotFound
    24,  # LockTimeout
    46,  # LockBusy
    50,  # MaxTimeMSExpired
    64,  # WriteConcernFailed
    89,  # NetworkTimeout
    91,  # ShutdownInProgress
    100,  # UnsatisfiableWriteConcern, while members are missing
    112,  # WriteConflict
    133,  # FailedToSatisfyReadPreference
    134,  # ReadConcernMajorityNotAvailableYet
    175,  # QueryPlanKilled
    189,  # PrimarySteppedDown
    202,  # NetworkInterfaceExceededTimeLimit
    237,  # CursorKilled
    251,  # NoSuchTransaction
    262,  # ExceededTimeLimit
    317,  # ConnectionPoolExpired
    9001,  # SocketException
    10107,  # NotWritablePrimary
    11600,  # InterruptedAtShutdown
    11601,  # Interrupted
    11602,  # InterruptedDueToReplStateChange
    13435,  # NotPrimaryNoSecondaryOk
    13436,  # NotPrimaryOrSecondary
}
_PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError", "UnknownTransactionCommitResult")


class StoreUnavailable(Retryable):
    """MongoDB did not answer, is electing a primary, or rejects the credentials. A write may have happened or not."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"MongoDB is unavailable: {reason}")
        self.reason = reason


class StoreDenied(StoreUnavailable):
    """MongoDB rejects the credentials, or they lack a privilege; both may be corrected while the process runs."""


class StoreConflict(Permanent):
    """The write would duplicate a value of a unique index. *key* is that value, if the server reported it."""

    def __init__(self, reason: str, key: Document | None = None) -> None:
        super().__init__(f"MongoDB already has such a document: {reason}")
        self.key = key or {}


class StoreRejected(Permanent):
    """MongoDB or its driver rejects the request: the same request fails again."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(f"MongoDB rejects the request: {reason}")
        self.code = code


class StoreMisconfigured(UserError):
    """The connection string is invalid; the user must correct it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"MONGO_URI (or --mongo-uri) is not a MongoDB connection string: {reason}; "
            "write mongodb://[user:password@]host[:port][,host…]/[?options] with user and password percent-encoded"
        )


class Mongo:
    """A pool of connections to one MongoDB deployment. Connects on first use; writes wait for a majority.

    Args:
        timeout_seconds: how long an operation waits for a usable server. It waits for a free connection to that server
            as long as others use all of them, each at most *answer_timeout_seconds*.
        answer_timeout_seconds: how long it waits for each answer.
        check_interval_seconds: how often the servers are checked; one that does not answer a check loses all
            connections.
        purpose: what it is for, as MongoDB shows it behind the name of the application.
        tls: the authorities of the server and the own certificate; None: as *uri* says.
        uri_file: has *uri* with another user or password when it is replaced; None: they stay.

    Raises:
        StoreMisconfigured: *uri* cannot be parsed.
    """

    def __init__(
        self,
        uri: SecretStr | str,
        *,
        timeout_seconds: float = 2.0,
        answer_timeout_seconds: float = 10.0,
        check_interval_seconds: float = 10.0,
        purpose: str = "",
        tls: ClientTls | None = None,
        uri_file: WatchedFiles[str] | None = None,
    ) -> None:
        text = uri.get_secret_value() if isinstance(uri, SecretStr) else uri
        self._timeout_seconds = timeout_seconds
        self._tls = tls
        self._loaded: tuple[object, int] | None = None
        encryption: dict[str, Any] = {"tls": True} if tls is not None else {}
        if tls is not None and tls.authorities_path is not None:
            encryption["tlsCAFile"] = str(tls.authorities_path)
        self._uri_file = uri_file
        self._login: tuple[object, int] | None = None

        def client_of(connection_string: str) -> AsyncMongoClient[Document]:
            return self._client_of(
                connection_string, purpose, answer_timeout_seconds, check_interval_seconds, encryption
            )

        self._new_client = client_of
        self._client = client_of(text)
        self._load_files()

    def _client_of(
        self, text: str, purpose: str, answer_timeout_seconds: float, check_interval_seconds: float, encryption: Any
    ) -> AsyncMongoClient[Document]:
        milliseconds = int(self._timeout_seconds * 1000)
        try:
            return AsyncMongoClient(
                text,
                appname=f"the0-runtime {purpose}".rstrip(),
                tz_aware=True,
                w="majority",
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                # No waitQueueTimeoutMS: with a limit, PyMongo 4.20 waits for a connection in a task of wait_for. In
                # Python 3.11 a second cancellation leaves that task behind, and it locks the pool for ever.
                socketTimeoutMS=int(answer_timeout_seconds * 1000),
                heartbeatFrequencyMS=int(check_interval_seconds * 1000),
                # Polled, not streamed: half the connections; and a second connection that is closed while it opens is
                # only garbage-collected (PyMongo 4.20). An error triggers a check of the servers anyway.
                serverMonitoringMode="poll",
                event_listeners=[CommandMetrics()],
                **encryption,
            )
        except (InvalidURI, ConfigurationError, ValueError, TypeError) as error:
            raise StoreMisconfigured(_without_credentials(str(error), text)) from None

    @classmethod
    def for_leases(
        cls,
        uri: SecretStr | str,
        *,
        timeout_seconds: float = 2.0,
        tls: ClientTls | None = None,
        uri_file: WatchedFiles[str] | None = None,
    ) -> Self:
        """Return a pool that serves leases alone, so that no other work delays a renewal.

        It closes connections without answers within the time that a lease allows. Raises as the constructor.
        """
        return cls(
            uri,
            timeout_seconds=min(timeout_seconds, _LEASE_SECONDS),
            answer_timeout_seconds=_LEASE_SECONDS,
            check_interval_seconds=_LEASE_SECONDS,
            purpose="leases",
            tls=tls,
            uri_file=uri_file,
        )

    def database(self, name: str) -> Database:
        """Return the database *name*. Its operations raise the driver's errors: wrap them in :func:`translated`."""
        return self._client[name]

    async def ping(self) -> None:
        """Return when a primary answers and accepts the credentials.

        Raises:
            StoreUnavailable: it does not; with the reason.
        """
        self._load_files()
        # If no answer arrives, this ends long before the limit of other operations, whose answers may be large.
        with translated(), pymongo.timeout(2 * self._timeout_seconds):
            # Unlike "ping", this requires a successful login.
            await self._client.admin.command("listDatabases", nameOnly=True, filter={"name": "admin"})

    async def wait_until_up(self, readiness: Readiness) -> None:
        """Return when MongoDB can be used, without a time limit; *readiness* shows the reason meanwhile."""
        backoff = Backoff(initial_seconds=0.1, cap_seconds=5.0)
        while True:
            if await self._check(readiness):
                return
            await asyncio.sleep(backoff.next_seconds())

    async def watch(self, readiness: Readiness, interval_seconds: float = 5.0) -> None:
        """Report to *readiness* every *interval_seconds* whether MongoDB can be used. Does not return."""

        async def one_round() -> None:
            await self._check(readiness)

        await repeat("watch mongodb", one_round, interval_seconds)

    async def follow_files(self, interval_seconds: float = 5.0) -> None:
        """Use replaced certificates, users and passwords for new connections. Does not return."""

        async def one_round() -> None:
            self._load_files()

        await repeat("follow mongodb's files", one_round, interval_seconds)

    def _load_files(self) -> None:
        """Load what is new in the files. May be repeated."""
        self._load_certificates()
        self._load_credentials()

    def _load_credentials(self) -> None:
        """Have new connections log in as the current connection string says; those that are open stay logged in."""
        if self._uri_file is None:
            return
        version, text = self._uri_file.versioned()
        # PyMongo reads them once, or again for mongodb+srv, and offers no way to replace them.
        options: Any = self._client.options.pool_options
        if (options, version) == self._login:
            return
        self._login = (options, version)
        try:
            # It never connects.
            read: Any = self._new_client(text).options.pool_options
        except StoreMisconfigured as error:
            log.warning("the replaced connection string is not used", reason=str(error))
            return
        if read._credentials != options._credentials:
            options._PoolOptions__credentials = read._credentials
            log.info("new connections to mongodb use the replaced user and password")

    def _load_certificates(self) -> None:
        """Load the certificates that are new. May be repeated."""
        if self._tls is None:
            return
        # PyMongo makes its context from paths, once, or again for mongodb+srv. It offers no way to replace the files.
        context: Any = self._client.options.pool_options._ssl_context
        current = (context, self._tls.version)
        if current != self._loaded and isinstance(context, ssl.SSLContext):
            self._loaded = current
            self._tls.load_into(context)

    async def close(self) -> None:
        """Close all connections. The object cannot be used afterwards; closing twice is harmless."""
        await self._client.close()

    async def _check(self, readiness: Readiness) -> bool:
        known = readiness.states.get(DEPENDENCY)
        try:
            await self.ping()
        except (StoreUnavailable, StoreRejected) as error:
            if known is None or known.ok or known.detail != str(error):
                log.warning("mongodb cannot be used", reason=str(error))
            readiness.report(DEPENDENCY, False, str(error))
            return False
        if known is None or not known.ok:
            log.info("mongodb is up")
        readiness.report(DEPENDENCY, True)
        return True


def uri_file_of(settings: MongoSettings) -> WatchedFiles[str] | None:
    """Return the file of the connection string; None without one.

    Raises:
        FileRejected: the file is missing.
    """
    if settings.uri_file is None:
        return None
    return WatchedFiles([("MONGO_URI_FILE", Path(settings.uri_file))], _uri_in)


def _uri_in(contents: Sequence[bytes]) -> str:
    text = contents[0].decode(errors="replace").strip()
    if not text.startswith("mongodb"):
        raise FileRejected("MONGO_URI_FILE", "it has no connection string of MongoDB")
    return text


@contextmanager
def translated() -> Iterator[None]:
    """Translate the driver's errors; wrap every use of a database or collection.

    Raises:
        StoreUnavailable: it may work later; a write may have happened or not.
        StoreConflict: a unique index forbids the write.
        StoreRejected: the request is wrong.
    """
    try:
        with cancellation_kept():
            yield
    except PyMongoError as error:
        raise _translation(error) from error
    except (BSONError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise StoreRejected(f"the document cannot be stored: {error}") from error


def met_existing(error: BulkWriteError) -> set[int]:
    """Return the indexes of writes in a bulk that failed only because a document with their unique key exists.

    Raises:
        BulkWriteError: there were other errors; *error* unchanged.
    """
    failures: list[Document] = (error.details or {}).get("writeErrors", [])
    if not failures or any(failure.get("code") != _DUPLICATE_KEY for failure in failures):
        raise error
    return {int(failure["index"]) for failure in failures}


def _translation(error: PyMongoError) -> StoreUnavailable | StoreConflict | StoreRejected:
    if isinstance(error, BulkWriteError):
        return _bulk_translation(error)
    if isinstance(error, DuplicateKeyError):
        details = error.details or {}
        return StoreConflict(_shortened(error), details.get("keyValue"))
    code = error.code if isinstance(error, OperationFailure) else None
    if code in _DENIED_CODES:
        return StoreDenied(f"it refuses the credentials ({_shortened(error)}); check user and password in MONGO_URI")
    if isinstance(error, ConfigurationError):
        # Raised while connecting, for instance for a name of mongodb+srv:// that DNS does not know (yet).
        return StoreUnavailable(f"{_shortened(error)}; check MONGO_URI")
    passing = isinstance(error, ConnectionFailure) or error.timeout or code in _PASSING_CODES
    if passing or any(error.has_error_label(label) for label in _PASSING_LABELS):
        return StoreUnavailable(_shortened(error))
    return StoreRejected(_shortened(error), code)


def _bulk_translation(error: BulkWriteError) -> StoreUnavailable | StoreConflict | StoreRejected:
    details = error.details or {}
    failures: list[Document] = details.get("writeErrors", [])
    if not failures or any(failure.get("code") in _PASSING_CODES for failure in failures):
        return StoreUnavailable(_shortened(error))
    first = failures[0]
    if all(failure.get("code") == _DUPLICATE_KEY for failure in failures):
        return StoreConflict(str(first.get("errmsg")), first.get("keyValue"))
    return StoreRejected(str(first.get("errmsg")), first.get("code"))


def _shortened(error: Exception) -> str:
    """Return the driver's reason without its descriptions of topology and timeouts, which fill a screen."""
    if isinstance(error, ServerSelectionTimeoutError):
        return re.split(r", Timeout: |, Topology Description: | \(configured timeouts: ", str(error))[0]
    return re.split(r", full error: | \(configured timeouts: ", str(error))[0]


def _without_credentials(reason: str, uri: str) -> str:
    user_info = uri.partition("://")[2].rpartition("@")[0]
    for part in re.split(r"[:@/]", user_info):
        if part:
            reason = reason.replace(part, "***")
    return reason


class CommandMetrics(CommandListener):
    """Records each command as an operation of the system ``mongodb``, by the command's name."""

    def started(self, event: CommandStartedEvent) -> None:
        """Do nothing: the outcome is unknown yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Record an answer; it may still contain write errors, which the caller counts."""
        record("mongodb", event.command_name, "ok", event.duration_micros / 1e6)

    def failed(self, event: CommandFailedEvent) -> None:
        """Record a rejection or a broken connection."""
        record("mongodb", event.command_name, "error", event.duration_micros / 1e6)
