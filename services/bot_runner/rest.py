"""Whether a bot may be moved for compaction: it runs undisturbed, or is switched off. Pure."""

from libs.core.store.entities import Entity
from libs.core.store.releases import Release
from services.bot_runner.status import BotState, history_from


def is_at_rest(bot: Entity, now: float) -> bool:
    """Whether *bot* may move at *now* (Unix seconds).

    A move restarts it. It must not cut a backoff or a health window short, or hide why a new version does not run.
    """
    status = bot.status
    if bot.held is not None or status.get("revision") != bot.revision:
        return False
    if not bot.enabled:
        return status.get("state") == BotState.DISABLED
    release = Release.of(bot.document)
    is_updated = release.previous is not None or release.rejection is not None or status.get("rejection") is not None
    is_newest = status.get("running_revision") == bot.revision
    is_restarted = (status.get("restart") or "") == bot.restart
    return (
        status.get("state") == BotState.RUNNING
        and is_newest
        and is_restarted
        and not is_updated
        and history_from(bot.document).may_start(now)
    )
