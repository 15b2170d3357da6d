"""What the owner of a segment remembers of its bots between rounds. Losing it costs nothing: documents have it too."""

from collections.abc import Collection
from dataclasses import dataclass

from libs.core.store.entities import Entity
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.status import history_from


@dataclass
class _Entry:
    revision: int
    history: RestartHistory
    code_etag: str | None = None


class Ledger:
    """Restart histories and code versions, by bot."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def history(self, entity: Entity) -> RestartHistory:
        """The bot's deaths so far. A new revision is its owner's new try: its backoff is forgiven."""
        return self._entry(entity).history

    def set_history(self, bot_id: str, history: RestartHistory) -> None:
        """Remember the history after a death; nothing when the bot is not known any more."""
        if (entry := self._entries.get(bot_id)) is not None:
            entry.history = history

    def history_of(self, bot_id: str) -> RestartHistory:
        """The history by id alone; an empty one when the bot is not known."""
        entry = self._entries.get(bot_id)
        return entry.history if entry is not None else RestartHistory()

    def code_etag(self, entity: Entity) -> str | None:
        """The code's version as last asked for this revision of the document."""
        return self._entry(entity).code_etag

    def remember_code_etag(self, entity: Entity, etag: str) -> None:
        """Keep the code's version for this revision."""
        self._entry(entity).code_etag = etag

    def forget_all_but(self, bot_ids: Collection[str]) -> None:
        """Drop what is known of bots that are gone."""
        for bot_id in self._entries.keys() - set(bot_ids):
            del self._entries[bot_id]

    def _entry(self, entity: Entity) -> _Entry:
        entry = self._entries.get(entity.id)
        if entry is None:
            entry = self._entries[entity.id] = _Entry(entity.revision, history_from(entity.document))
        elif entry.revision != entity.revision:
            entry.revision, entry.code_etag, entry.history = entity.revision, None, entry.history.forgiven()
        return entry
