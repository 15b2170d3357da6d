"""The notifications of a worker: its queue, and the part that sends it."""

import os

from libs.core.aio.retrying import retry_forever
from libs.core.process.process import runtime_version
from libs.core.secrets.resolver import SecretResolver, SecretSources
from libs.core.worker.role import WorkerContext
from libs.notifications.destination import Rules
from libs.notifications.notifier import Notifier
from libs.notifications.sender import Operator, Sender
from libs.notifications.store import NotificationStore


async def notifier_of(context: WorkerContext) -> Notifier:
    """Return the notifier of a worker, and declare the part that sends its notifications."""
    settings, process = context.settings, context.process
    store = NotificationStore(process.database)
    await retry_forever(store.ensure_indexes)
    sources = SecretSources.of(settings.secrets, os.environ)
    given = settings.notify
    operator = Operator(
        given.url.get_secret_value() if given.url is not None else None,
        given.secret.get_secret_value() if given.secret is not None else None,
    )
    sender = Sender(
        store,
        operator,
        resolver=SecretResolver(sources.providers, sources.key_file),
        rules=Rules(settings.containers.egress_allow),
        version=runtime_version(),
    )
    process.lifecycle.part("notifications", sender.run)
    return Notifier(store, given, process.service.name, settings.secrets.owner_field, queued=sender.wake.set)
