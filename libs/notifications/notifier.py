"""Queues the notifications of a service's events, for the operator's webhook and for those in configs."""

from collections.abc import Callable

from libs.core.config.notify_settings import NotifySettings
from libs.core.observability.log import get_logger
from libs.notifications.event import COALESCED, Notice, Request, RequestInvalid, id_of, request_in
from libs.notifications.metrics import NOTIFICATIONS
from libs.notifications.store import Entry, NotificationStore, Webhook

log = get_logger(__name__)


def _nothing() -> None:
    return None


class Notifier:
    """Queues notices; a :class:`~libs.notifications.sender.Sender` sends them.

    Args:
        service: the service's name.
        owner_field: the field of a document that names its owner, whose secrets a signature may use.
        queued: called after something was queued.
    """

    def __init__(
        self,
        store: NotificationStore,
        settings: NotifySettings,
        service: str,
        owner_field: str,
        *,
        queued: Callable[[], object] = _nothing,
    ) -> None:
        self._store = store
        self._settings = settings
        self._service = service
        self._owner_field = owner_field
        self._queued = queued

    async def put(self, notice: Notice) -> None:
        """Queue *notice* for each of its receivers. May be repeated: a repetition is recognised for a day.

        Raises:
            StoreUnavailable: some may be queued; repeat it.
        """
        owner = notice.entity.owner(self._owner_field)
        for webhook in self._receivers(notice, owner):
            entry = Entry(
                id_of(notice, webhook.name),
                notice.entity.id,
                str(notice.event),
                notice.key,
                webhook,
                notice.body(self._service, owner),
                notice.at,
            )
            seconds = self._settings.coalesce_seconds if notice.event in COALESCED else None
            if await self._store.put(entry, coalesce_seconds=seconds):
                self._queued()
                continue
            NOTIFICATIONS.labels(entry.event, webhook.name, "dropped").inc()
            log.warning("notification dropped: the queue is full", id=notice.entity.id, kind=entry.event)

    def _receivers(self, notice: Notice, owner: str) -> list[Webhook]:
        found = []
        if self._settings.url is not None and notice.event in self._settings.events:
            found.append(Webhook())
        own = self._own(notice) if self._settings.own_urls else None
        if own is not None and notice.event in own.events:
            found.append(Webhook(True, own.url, own.secret, owner))
        return found

    def _own(self, notice: Notice) -> Request | None:
        try:
            return request_in(notice.entity.config)
        except RequestInvalid as error:
            log.warning("notification refused", id=notice.entity.id, kind=str(notice.event), reason=str(error))
            NOTIFICATIONS.labels(str(notice.event), "own", "refused").inc()
            return None
