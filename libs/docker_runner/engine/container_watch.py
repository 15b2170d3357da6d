"""Read an engine's container events over one connection, renew it when it breaks, and call the listeners."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from libs.core.aio.backoff import Backoff
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated, unexpected
from libs.docker_runner.containers.container import Label
from libs.docker_runner.engine.events import ContainerEvent, EventKind, EventSource

log = get_logger(__name__)

Listener = Callable[[ContainerEvent], object]
"""Handles an event and returns at once. An exception is logged; the other listeners still get the event."""

# A connection whose other end is gone is silent too; a new one costs one request.
_SILENCE_SECONDS = 300.0


@dataclass(frozen=True, eq=False)
class _Subscription:
    listener: Listener
    service: str
    scope: str

    def covers(self, event: ContainerEvent) -> bool:
        return event.kind is EventKind.RESYNC or (event.service, event.scope) == (self.service, self.scope)


class ContainerWatch:
    """The events of all managed containers on one engine.

    Args:
        listeners: called with each event, in this order, before those of :meth:`listening`.
        on_gap: called when the stream breaks. There are no events until the next RESYNC.
    """

    def __init__(self, source: EventSource, *, listeners: Sequence[Listener], on_gap: Callable[[], None]) -> None:
        self._source = source
        self._listeners = listeners
        self._on_gap = on_gap
        self._subscriptions: list[_Subscription] = []

    @contextmanager
    def listening(self, listener: Listener, service: str, scope: str) -> Iterator[None]:
        """Call *listener* with each event of *service* in *scope*, during the block.

        Every listener gets each RESYNC. The first one comes when the stream starts, possibly before the block: list
        the containers within the block.
        """
        subscription = _Subscription(listener, service, scope)
        self._subscriptions.append(subscription)
        try:
            yield
        finally:
            self._subscriptions.remove(subscription)

    async def run(self) -> None:
        """Read the events forever, over one connection at a time. Listeners are called only while it runs."""
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                async with aclosing(self._source.events({Label.MANAGED: "true"}, _SILENCE_SECONDS)) as events:
                    async for event in events:
                        if event.kind is EventKind.RESYNC and backoff.failures:
                            log.info("container events resumed")
                            backoff.reset()
                        self._pass_on(event)
                reason = "the engine closed the stream"
            except RuntimeFault as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - the stream is opened again; a RESYNC covers the gap
                unexpected("follow container events", error)
                reason = type(error).__name__
            log.warning("container events interrupted", reason=reason)
            self._on_gap()
            await asyncio.sleep(backoff.next_seconds())

    def _pass_on(self, event: ContainerEvent) -> None:
        subscribed = [one.listener for one in self._subscriptions if one.covers(event)]
        for listener in (*self._listeners, *subscribed):
            with isolated("read container events", passing=()):
                listener(event)
