"""Remove the revisions of bots that no longer exist."""

from libs.collector.sweep import Sweep
from libs.core.store.revisions import RevisionStore

_PAGE = 1000


class OrphanedRevisions:
    """The revisions of one service. A bot that is created again under the id of a removed one has its own."""

    kind = "revisions"

    def __init__(self, revisions: RevisionStore, collection: str) -> None:
        self._revisions = revisions
        self._collection = collection

    async def collect(self, sweep: Sweep) -> None:
        """Remove them. May be repeated and interrupted."""
        while found := await self._revisions.orphaned(self._collection, _PAGE):
            for incarnation in found:
                if sweep.dry_run:
                    sweep.note(await self._revisions.count(incarnation))
                else:
                    sweep.note(await self._revisions.remove(incarnation))
            if sweep.dry_run or len(found) < _PAGE:
                return
