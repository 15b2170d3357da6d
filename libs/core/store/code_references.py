"""Find the code objects to which entities refer, in their newest version or in versions that may still run."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from libs.core.store.client import Database, Document, StoreDenied, translated
from libs.core.store.revisions import COLLECTION as REVISIONS

_BATCH = 50
"""Maximum number of documents in memory: a backtest's may have up to half a megabyte."""


class _Source(NamedTuple):
    database: Database
    collection: str
    query: Document | None = None


class CodeReferences:
    """References of all entities, and of the revisions of the service's own to which an owner can roll back.

    Args:
        own: the service's own database, with the name of its collection.
        others: those of the other services. A database that these credentials cannot read is skipped: its references
            belong to its own service.
        with_revisions: False for keys that no revision has; there are many times more revisions than entities.
    """

    def __init__(
        self,
        own: tuple[Database, str],
        others: Sequence[tuple[Database, str]] = (),
        *,
        with_revisions: bool = True,
    ) -> None:
        self._own = [_Source(*own)]
        if with_revisions:
            self._own.append(_Source(own[0], REVISIONS, {"keeps_code": True}))
        self._others = [_Source(*other) for other in others]

    async def among(self, keys: Collection[str]) -> set[str]:
        """Return those of *keys* that an entity contains in any field.

        Raises:
            StoreUnavailable: the references are unknown.
        """
        wanted = frozenset(keys)
        found: set[str] = set()
        for own in self._own:
            found |= await self._mentioned(own, wanted)
        for other in self._others:
            try:
                found |= await self._mentioned(other, wanted)
            except StoreDenied:
                continue
        return found

    async def _mentioned(self, where: _Source, wanted: frozenset[str]) -> set[str]:
        found: set[str] = set()
        if not wanted:
            return found
        with translated():
            async for document in where.database[where.collection].find(where.query or {}, batch_size=_BATCH):
                found |= mentioned(document, wanted)
        return found


def mentioned(document: Mapping[str, Any], wanted: Collection[str]) -> set[str]:
    """Return those of the keys *wanted* that are a value in *document* at any depth, or the key of a ``gs://`` URL."""
    return {key for text in _texts(document) if (key := _key(text)) in wanted}


def _key(text: str) -> str:
    return text.removeprefix("gs://").partition("/")[2] if text.startswith("gs://") else text


def _texts(document: Mapping[str, Any]) -> Iterator[str]:
    pending: list[object] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
