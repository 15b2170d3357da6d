"""Record what a command did to bots, schedules and data sets."""

from collections.abc import Iterable
from datetime import UTC, datetime

from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from libs.core.store.audit import Action, AuditEntry, AuditStore, Way
from tools.cli.connections import Connections
from tools.cli.local_user import user_of_this_machine


async def record(
    servers: Connections,
    action: Action,
    names: Iterable[str],
    detail: str = "",
    service: ServiceDefinition = BOT_RUNNER,
) -> None:
    """Write into the audit record that the user of this machine did *action* to *names*; nothing fails for it."""
    now, who = datetime.now(UTC), user_of_this_machine()
    entries = [AuditEntry(now, action, who, Way.COMMAND, name, detail) for name in names]
    await AuditStore(await servers.database(service)).record(entries)
