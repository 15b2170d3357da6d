"""The state of bots that a segment's owner keeps between rounds. It can be rebuilt from the documents."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from libs.core.store.entities import Entity
from services.bot_runner.desired_bot import DesiredBot
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.status import history_from
from services.bot_runner.verdicts import Verdict


@dataclass
class _Entry:
    revision: int
    history: RestartHistory
    verdict: Verdict | None = None
    bot: DesiredBot | None = None
    entity: Entity | None = None


class RestartMemory:
    """Restart histories, verdicts on newest versions, and the desired state of the last round, by bot."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def history(self, entity: Entity) -> RestartHistory:
        """Return the bot's failures so far. A new revision and a requested restart reset the backoff."""
        return self._entry(entity).history

    def set_history(self, bot_id: str, history: RestartHistory) -> None:
        """Store the history after a failure; no effect when the bot is unknown."""
        if (entry := self._entries.get(bot_id)) is not None:
            entry.history = history

    def history_of(self, bot_id: str) -> RestartHistory:
        """Return the history by id; an empty one when the bot is unknown."""
        entry = self._entries.get(bot_id)
        return entry.history if entry is not None else RestartHistory()

    def verdict(self, entity: Entity) -> Verdict | None:
        """Return the verdict of this revision's check; None before the check."""
        return self._entry(entity).verdict

    def set_verdict(self, bot_id: str, revision: int, verdict: Verdict) -> None:
        """Store the verdict on *revision*; no effect when there is a newer one."""
        entry = self._entries.get(bot_id)
        if entry is not None and entry.revision == revision:
            entry.verdict = verdict

    def remember(self, bot: DesiredBot, entity: Entity) -> None:
        """Store what was read in this round, for the actions that follow from it."""
        entry = self._entry(entity)
        entry.bot, entry.entity = bot, entity

    def bot(self, bot_id: str) -> DesiredBot | None:
        """Return the bot as read in the last round; None when it is unknown."""
        entry = self._entries.get(bot_id)
        return entry.bot if entry is not None else None

    def entity(self, bot_id: str) -> Entity | None:
        """Return the document read in the last round; None when the bot is unknown."""
        entry = self._entries.get(bot_id)
        return entry.entity if entry is not None else None

    def forget_all_but(self, bot_ids: Collection[str]) -> None:
        """Drop the state of removed bots."""
        for bot_id in self._entries.keys() - set(bot_ids):
            del self._entries[bot_id]

    def _entry(self, entity: Entity) -> _Entry:
        entry = self._entries.get(entity.id)
        if entry is None:
            history = history_from(entity.document)
            if entity.status.get("revision", entity.revision) != entity.revision:
                history = history.forgiven()
            entry = self._entries[entity.id] = _Entry(entity.revision, history)
        elif entry.revision != entity.revision:
            entry.revision, entry.verdict, entry.history = entity.revision, None, entry.history.forgiven()
        if entry.history.restart != entity.restart:
            entry.verdict, entry.history = None, replace(entry.history.forgiven(), restart=entity.restart)
        return entry
