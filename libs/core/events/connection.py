"""The connection to NATS: the only module that imports the driver.

The driver's own reconnection is disabled. Whenever the connection breaks, a new client is created and the
subscriptions are created again on it. So nothing buffered for the old one (an acknowledgement, a pull request) reaches
a server that by then may have a different stream of the same name.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as DriverSubscription
from nats.js.errors import APIError, ServiceUnavailableError
from nats.js.manager import JetStreamManager
from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.aio.cancellation import cancellation_kept
from libs.core.config.connection_settings import NatsSettings
from libs.core.errors import Permanent, Retryable
from libs.core.events.credentials import NatsCredentials, credentials_file
from libs.core.http.health import Readiness
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe, record
from libs.core.transport.client_tls import ClientTls
from libs.core.transport.watched_files import FileRejected, WatchedFiles

log = get_logger(__name__)

T = TypeVar("T")

DEPENDENCY = "nats"
"""The name under which readiness shows this connection."""

CONNECTIONS = Counter("runtime_nats_connections_total", "Connections made to NATS; more than one means reconnections.")

_CONNECT_SECONDS = 2.0
_PING_SECONDS = 1.0
_UNANSWERED_PINGS = 2
_CLOSE_SECONDS = 2.0
_HEADER_FRAME_BYTES = 16
_PENDING_MESSAGES = 65_536
_PENDING_BYTES = 256 * 1024 * 1024


class NatsUnavailable(Retryable):
    """NATS is unreachable or did not answer in time; the message may have arrived or not."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"NATS is unavailable: {reason}")
        self.reason = reason


class NobodyListens(NatsUnavailable):
    """NATS is connected, but the subject has no responders."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"no responders on {subject}")


class NatsRejected(Permanent):
    """NATS or its driver rejects the message, for instance because it is too large."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as received."""

    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    reply: str = ""


Callback = Callable[[Message], Awaitable[None]]


class Subscription:
    """A subscription that survives reconnections until it is cancelled."""

    def __init__(
        self, connection: "NatsConnection", subject: str, callback: Callback, on_connect: Callable[[], None] | None
    ) -> None:
        self.subject = subject
        self._connection = connection
        self._callback = callback
        self._on_connect = on_connect
        self._driver: DriverSubscription | None = None

    async def cancel(self) -> None:
        """Stop receiving. May be repeated."""
        await self._connection._forget(self)

    async def _make(self, client: Client) -> None:
        with cancellation_kept():
            self._driver = await client.subscribe(
                self.subject,
                cb=self._receive,
                pending_msgs_limit=_PENDING_MESSAGES,
                pending_bytes_limit=_PENDING_BYTES,
            )
        if self._on_connect is not None:
            self._on_connect()

    async def _receive(self, message: Msg) -> None:
        try:
            await self._callback(Message(message.subject, message.data, message.headers or {}, message.reply))
        except Exception:
            log.exception("a message was not handled", subject=message.subject)


class NatsConnection:
    """One connection to a NATS server or cluster, maintained by :meth:`run`.

    Args:
        url: one or several addresses, separated by commas; may contain credentials, which are never shown.
        name: the client name in the server's own tools.
        readiness: receives the state of the connection, as an optional dependency.
        tls: the authorities of the servers and the own certificate; None: as *url* says.
        url_file: has another *url* when it is replaced.
        credentials: of the user, in place of those in *url*.
        inbox: the subjects of answers are below `_INBOX.<inbox>`, so that a server can permit a role only its own.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        readiness: Readiness | None = None,
        tls: ClientTls | None = None,
        url_file: WatchedFiles[str] | None = None,
        credentials: WatchedFiles[NatsCredentials] | None = None,
        inbox: str | None = None,
    ) -> None:
        self._credentials = credentials
        self._inbox_prefix = "_INBOX" if inbox is None else f"_INBOX.{inbox}"
        self._tls = tls
        self._url_file = url_file
        self._url = url
        self._servers = _servers(url)
        self._shown = ", ".join(_without_credentials(address) for address in self._servers)
        self._name = name
        self._readiness = readiness
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._subscriptions: set[Subscription] = set()
        self._last_error = ""
        self.generation = 0
        """The number of connections made; a change means that messages may have been missed."""
        if readiness is not None:
            readiness.expect(DEPENDENCY, f"connecting to {self._shown}", required=False)

    @property
    def connected(self) -> bool:
        """Whether messages can be sent, as last known."""
        return self._client is not None and self._client.is_connected

    async def wait_connected(self) -> None:
        """Return when connected, without a time limit."""
        await self._connected.wait()

    async def run(self) -> None:
        """Connect, and reconnect whenever the connection breaks, forever."""
        backoff = Backoff(0.1, 1.0)
        try:
            while True:
                try:
                    await self._connect()
                except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
                    self._report_state(False, str(error) or type(error).__name__)
                    await asyncio.sleep(backoff.next_seconds())
                    continue
                backoff.reset()
                await self._lost.wait()
                await self._drop()
                self._report_state(False, self._last_error or "the connection was lost")
        finally:
            await self._drop()

    async def publish(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a message without delivery confirmation.

        Raises:
            NatsUnavailable: there is no connection.
            NatsRejected: the message can never be sent.
        """
        client = self._client_for(subject, data, headers)
        try:
            with observe("nats", "publish"), cancellation_kept():
                await client.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise NatsRejected(f"cannot send to {subject!r}: {error}") from error
        except (nats.errors.Error, OSError) as error:
            raise NatsUnavailable(str(error)) from error

    async def request(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, timeout_seconds: float = 2.0
    ) -> Message:
        """Send a message and return the answer.

        Raises:
            NobodyListens: the subject has no responders.
            NatsUnavailable: no connection, or no answer in time.
            NatsRejected: the message can never be sent.
        """
        client = self._client_for(subject, data, headers)
        with _answered(subject, timeout_seconds):
            answer = await client.request(
                subject, data, timeout=timeout_seconds, headers=dict(headers) if headers else None
            )
        return Message(answer.subject, answer.data, answer.headers or {}, answer.reply)

    async def manage(
        self, what: str, call: Callable[[JetStreamManager], Awaitable[T]], timeout_seconds: float = 3.0
    ) -> T:
        """Return the result of *call* on the driver's JetStream administration; *what* describes it in errors.

        Raises:
            APIError: JetStream rejects the request.
            NatsUnavailable: no connection, no JetStream, or no answer in time.
        """
        manager = JetStreamManager(self._ready_client(), timeout=timeout_seconds)
        with _answered(what, timeout_seconds):
            return await call(manager)

    async def subscribe(
        self, subject: str, callback: Callback, on_connect: Callable[[], None] | None = None
    ) -> Subscription:
        """Receive messages on *subject*, on the current connection and on each later one.

        Args:
            on_connect: called after each subscription, since messages may have been missed before it.
        """
        subscription = Subscription(self, subject, callback, on_connect)
        self._subscriptions.add(subscription)
        if self.connected and self._client is not None:
            try:
                await subscription._make(self._client)
            except (nats.errors.Error, OSError):
                self._lost.set()  # subscribed again on the next connection
        return subscription

    def new_inbox(self) -> str:
        """Return a unique subject for answers.

        Raises:
            NatsUnavailable: there is no connection.
        """
        return self._ready_client().new_inbox()

    async def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        driver, subscription._driver = subscription._driver, None
        if driver is not None and self.connected:
            # Its connection, and the subscription with it, may be gone by now.
            with contextlib.suppress(nats.errors.Error, OSError, ValueError), cancellation_kept():
                await driver.unsubscribe()

    def _ready_client(self) -> Client:
        if self._client is None or not self._client.is_connected:
            raise NatsUnavailable(self._last_error or "not connected")
        return self._client

    def _client_for(self, subject: str, data: bytes, headers: Mapping[str, str] | None) -> Client:
        """Return the client to send a message with. Check the size first: the server disconnects oversized senders."""
        client = self._ready_client()
        size_bytes = len(data)
        if headers:
            size_bytes += _HEADER_FRAME_BYTES + sum(
                len(f"{name}: {value}\r\n".encode()) for name, value in headers.items()
            )
        if size_bytes > client.max_payload:
            raise NatsRejected(f"cannot send {size_bytes} bytes to {subject!r}: the server allows {client.max_payload}")
        return client

    @classmethod
    def of(
        cls, settings: NatsSettings, *, name: str, readiness: Readiness | None = None, inbox: str | None = None
    ) -> Self | None:
        """Return the connection by *settings*; None when they name no server.

        Raises:
            FileRejected: a file is missing or invalid.
        """
        if settings.url is None:
            if settings.url_file is not None:
                log.info("NATS is not used: NATS_URL_FILE is not there", file=settings.url_file)
            return None
        tls = ClientTls.of("NATS", settings)
        credentials = None
        if settings.credentials_file is not None:
            credentials = credentials_file(Path(settings.credentials_file))
        return cls(
            settings.url,
            name=name,
            readiness=readiness,
            tls=tls,
            url_file=url_file_of(settings),
            credentials=credentials,
            inbox=inbox,
        )

    async def _connect(self) -> None:
        if self._url_file is not None and (url := self._url_file.value) != self._url:
            self._url = url
            self._servers = _servers(url)
        credentials = self._credentials.value if self._credentials is not None else None
        client = Client()
        self._lost = lost = asyncio.Event()

        async def closed() -> None:
            lost.set()

        async def failed(error: Exception) -> None:
            reason = str(error) or type(error).__name__
            if isinstance(error, nats.errors.SlowConsumerError):
                log.warning("messages were dropped because they arrived faster than they were handled")
            elif reason != self._last_error:
                # For instance a subject that the server does not permit this user.
                log.warning("nats reports an error", reason=reason)
            self._last_error = reason

        try:
            with cancellation_kept():
                await client.connect(
                    servers=list(self._servers),
                    tls=self._tls.context() if self._tls is not None else None,
                    user_jwt_cb=(lambda: bytearray(credentials.jwt.encode())) if credentials is not None else None,
                    signature_cb=credentials.sign if credentials is not None else None,
                    name=self._name,
                    inbox_prefix=self._inbox_prefix,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # of each address, before the next
                    reconnect_time_wait=0.05,  # type: ignore[arg-type]  # between two attempts at one address
                    connect_timeout=_CONNECT_SECONDS,  # type: ignore[arg-type]  # any number of seconds does
                    ping_interval=_PING_SECONDS,  # type: ignore[arg-type]
                    max_outstanding_pings=_UNANSWERED_PINGS,
                    closed_cb=closed,
                    error_cb=failed,
                )
                for subscription in list(self._subscriptions):
                    await subscription._make(client)
                await client.flush(timeout=2)
        except BaseException:
            await self._close(client)
            raise
        for found in client.discovered_servers:
            if (address := found.geturl()) not in self._servers:
                self._servers.append(address)
        self._client = client
        self._last_error = ""
        self.generation += 1
        CONNECTIONS.inc()
        self._report_state(True, _without_credentials(client.connected_url.geturl()) if client.connected_url else "")
        self._connected.set()

    async def _drop(self) -> None:
        self._connected.clear()
        client, self._client = self._client, None
        for subscription in self._subscriptions:
            subscription._driver = None
        if client is not None:
            await self._close(client)

    @staticmethod
    async def _close(client: Client) -> None:
        try:
            with cancellation_kept():
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await client.close()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("the old connection to nats did not close", reason=str(error))

    def _report_state(self, ok: bool, detail: str) -> None:
        if ok:
            log.info("connected to nats", server=detail)
        elif self._readiness is None or (state := self._readiness.states.get(DEPENDENCY)) is None or state.ok:
            log.warning("nats cannot be used", servers=self._shown, reason=detail)
        if self._readiness is not None:
            self._readiness.report(DEPENDENCY, ok, detail if ok else f"{self._shown}: {detail}", required=False)


@contextlib.contextmanager
def _answered(subject: str, timeout_seconds: float) -> Iterator[None]:
    """Wrap one request: translate the driver's errors and measure the request."""
    begun, outcome = time.perf_counter(), "error"
    try:
        with cancellation_kept():
            yield
        outcome = "ok"
    except nats.errors.NoRespondersError as error:
        raise NobodyListens(subject) from error
    except ServiceUnavailableError as error:
        raise NatsUnavailable(
            error.description or "JetStream is disabled on the server, or has no leader now"
        ) from error
    except APIError:
        # An answer; the caller interprets it.
        outcome = "ok"
        raise
    except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
        raise NatsRejected(f"cannot send to {subject!r}: {error}") from error
    except nats.errors.TimeoutError as error:
        raise NatsUnavailable(f"no answer on {subject} within {timeout_seconds:g} s") from error
    except (nats.errors.Error, OSError) as error:
        raise NatsUnavailable(str(error)) from error
    finally:
        record("nats", "request", outcome, time.perf_counter() - begun)


def _servers(url: str) -> list[str]:
    return [address.strip() for address in url.split(",") if address.strip()]


def url_file_of(settings: NatsSettings) -> WatchedFiles[str] | None:
    """Return the file of the address; None without one.

    Raises:
        FileRejected: the file is missing or invalid.
    """
    if settings.url_file is None:
        return None
    return WatchedFiles([("NATS_URL_FILE", Path(settings.url_file))], _url_in)


def _url_in(contents: Sequence[bytes]) -> str:
    try:
        return NatsSettings(url=contents[0].decode().strip()).url or ""
    except ValueError:
        raise FileRejected("NATS_URL_FILE", "it has no address of NATS") from None


def _without_credentials(address: str) -> str:
    parts = urlsplit(address if "://" in address else f"nats://{address}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
