"""Keep a consumer of the event stream bound when the stream, the server or the connection changes."""

import asyncio
import time
from collections.abc import Callable

from prometheus_client import Counter

from libs.core.aio.backoff import Backoff
from libs.core.events.connection import Message, NatsConnection, NatsUnavailable
from libs.core.events.copies import CopyReader
from libs.core.events.delivery import Delivery
from libs.core.events.jetstream import JetStreamRefused
from libs.core.events.pull import BindingLost, Puller
from libs.core.events.stream import Binding, EventStream
from libs.core.http.health import Readiness
from libs.core.observability.log import get_logger
from libs.core.process.isolation import unexpected

log = get_logger(__name__)

DEPENDENCY = "events"
"""The name under which readiness shows whether events are read."""

BINDINGS = Counter("runtime_event_bindings_total", "Bindings to a consumer of the event stream, by reason.", ["reason"])

_CHECK_SECONDS = 60.0
_CHECK_MISSING_SECONDS = 2.0
_CHECK_COPIES_SECONDS = 0.2
_HELD_SECONDS = 5.0


class EventConsumer:
    """Passes each message of a service's subjects to *receive*, forever. The receiver acknowledges the deliveries.

    Args:
        in_hand: the number of received messages that are not processed yet.
        copies: notified when the stream is lost, and when it is read again.
        capacity: maximum number of such messages.
        required: whether the process is not ready while NATS is connected but events cannot be read.
    """

    def __init__(
        self,
        connection: NatsConnection,
        stream: EventStream,
        receive: Callable[[Delivery], None],
        in_hand: Callable[[], int],
        copies: CopyReader,
        *,
        capacity: int = 1024,
        readiness: Readiness | None = None,
        required: bool = True,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._receive = receive
        self._in_hand = in_hand
        self._copies = copies
        self._capacity = capacity
        self._readiness = readiness
        self._required = required
        self._puller: Puller | None = None
        self._reported = ""
        self._read_last: int | None = None

    def freed(self) -> None:
        """Note that messages were processed, so that there may be room for more."""
        if self._puller is not None:
            self._puller.freed()

    async def run(self) -> None:
        """Bind and pull; bind again whenever that ends. Does not return."""
        advisories = await self._connection.subscribe(self._stream.advisories, self._advised, self._stream.changed)
        try:
            await self._run()
        finally:
            await advisories.cancel()

    async def _run(self) -> None:
        backoff = Backoff(0.05, 1.0)
        reason = "start"
        while True:
            if not self._connection.connected:
                # Without NATS the process works from MongoDB, so it stays ready.
                self._report_state(False, "waiting for NATS", required=False)
                await self._connection.wait_connected()
            is_new, began_at = False, time.monotonic()
            try:
                binding = await self._stream.bind()
                BINDINGS.labels(reason).inc()
                is_new = self._note_stream(binding)
                self._report(binding)
                await self._pull(binding)
            except BindingLost as error:
                reason = error.kind
                log.warning("the consumer of the event stream was lost", reason=str(error))
                self._report_state(False, f"{error}; binding again", required=False)
                if reason != "reconnected":
                    self._copies.lost()
            except NatsUnavailable as error:
                reason = "unavailable"
                self._report_state(False, str(error), required=False)
            except JetStreamRefused as error:
                reason = "refused"
                self._report_state(False, str(error), required=self._required)
            except Exception as error:  # noqa: BLE001 - after any error the consumer is bound anew
                reason = "error"
                unexpected("consume events", error)
                self._report_state(
                    False, f"internal error, {type(error).__name__}: {error}; binding again", required=False
                )
            if is_new or time.monotonic() - began_at > _HELD_SECONDS:
                backoff.reset()
            if not is_new:  # no delay after a re-creation: it may happen often
                await asyncio.sleep(backoff.next_seconds())

    async def _advised(self, _: Message) -> None:
        self._stream.changed()

    def _note_stream(self, binding: Binding) -> bool:
        """Whether the stream differs from the last one that was read."""
        created_at = binding.stream.created_at
        is_new, is_first = created_at != self._read_last, self._read_last is None
        self._read_last = created_at
        if is_new and not is_first:
            self._copies.lost()
        self._copies.bound(binding.stream.clock_lead)
        return is_new

    async def _pull(self, binding: Binding) -> None:
        """Pull until the binding is lost or the stream was replaced."""
        async with Puller(self._connection, binding, self._receive, self._in_hand, self._capacity) as puller:
            self._puller = puller
            tasks = [
                asyncio.create_task(self._until_changed(binding), name="watch-event-stream"),
                asyncio.create_task(self._pull_if_readable(puller, binding), name="pull-events"),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                self._puller = None
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _pull_if_readable(self, puller: Puller, binding: Binding) -> None:
        if binding.readable:
            await puller.run_until_lost()
        # There is no consumer without subjects; wait until the stream changes.
        await asyncio.Event().wait()

    async def _until_changed(self, binding: Binding) -> None:
        """Check the stream when the server reports a change, soon after an event arrived, and periodically."""
        checking = asyncio.create_task(self._check_on_copies(), name="check-on-copies")
        try:
            while True:
                await self._stream.wait_changed(_CHECK_MISSING_SECONDS if binding.missing_subjects else _CHECK_SECONDS)
                try:
                    stream = await self._stream.state()
                except NatsUnavailable as error:
                    if not self._connection.connected:
                        raise
                    log.debug("the event stream was not checked", reason=str(error))
                    continue
                if stream is None or stream.created_at != binding.stream.created_at:
                    raise BindingLost("stream-replaced", "the stream was deleted or recreated")
                if stream.subjects != binding.stream.subjects:
                    raise BindingLost("stream-changed", "the subjects of the stream changed")
        finally:
            checking.cancel()

    async def _check_on_copies(self) -> None:
        """Treat an arriving event as a reason to check: the server's report may be lost or not permitted."""
        while True:
            await self._copies.arrived.wait()
            await asyncio.sleep(_CHECK_COPIES_SECONDS)
            self._copies.arrived.clear()
            self._stream.changed()

    def _report(self, binding: Binding) -> None:
        if not binding.missing_subjects:
            self._report_state(True, f"reading {binding.stream.name} as {binding.consumer}", required=self._required)
            return
        missing = ", ".join(binding.missing_subjects)
        self._report_state(
            False,
            f"the stream {binding.stream.name} exists without the subject {missing}, which this service needs; "
            f"add it to the stream, or delete the stream: the runtime then creates it with all subjects",
            required=self._required,
            error=True,
        )

    def _report_state(self, ok: bool, detail: str, *, required: bool, error: bool = False) -> None:
        if detail != self._reported:
            self._reported = detail
            (log.error if error else log.info)("events", ok=ok, detail=detail)
        if self._readiness is not None:
            self._readiness.report(DEPENDENCY, ok, detail, required=required)
