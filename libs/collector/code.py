"""Remove unreferenced code that the runtime's own tools uploaded.

:mod:`libs.core.storage.code_keys` explains why this loses nothing. References are read again after a delay, since an
entity may be removed and announced again with the same code.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from libs.collector.sweep import Sweep, pages
from libs.core.observability.log import get_logger
from libs.core.process.service import ServiceDefinition
from libs.core.storage.code_keys import code_prefix, is_code_key
from libs.core.storage.object_store import ObjectInfo, ObjectStore
from libs.core.store.code_references import CodeReferences
from libs.core.store.code_retention import CodeRetention

log = get_logger(__name__)

_SETTLE_SECONDS = 60.0
_PAGE = 5000


class UnreferencedCode:
    """The code of one service.

    Args:
        keep_seconds: retention of unreferenced code after its upload; 0 for ever.
        settle_seconds: minimum time for which code must have no reference.
        page: number of objects compared with the entities at once.
    """

    kind = "code"

    def __init__(
        self,
        service: ServiceDefinition,
        store: ObjectStore,
        bucket: str,
        references: CodeReferences,
        retention: CodeRetention,
        keep_seconds: float,
        *,
        settle_seconds: float = _SETTLE_SECONDS,
        page: int = _PAGE,
    ) -> None:
        self._service = service
        self._store = store
        self._bucket = bucket
        self._references = references
        self._retention = retention
        self._keep_seconds = keep_seconds
        self._settle_seconds = min(settle_seconds, keep_seconds / 8)
        self._page = page

    async def collect(self, sweep: Sweep) -> None:
        """Remove old unreferenced code. May be repeated and interrupted."""
        if not sweep.dry_run and not await self._retention.announce(self._keep_seconds):
            log.info("code is not removed yet: its retention was changed recently")
            return
        if not self._keep_seconds:
            return
        uploaded_before = await self._store.now(self._bucket) - timedelta(seconds=self._keep_seconds)
        old = (
            info
            async for info in self._store.list(self._bucket, code_prefix(self._service))
            if is_code_key(self._service, info.key) and info.modified_at < uploaded_before
        )
        async for page in pages(old, self._page):
            await self._collect(sweep, page)

    async def _collect(self, sweep: Sweep, page: Sequence[ObjectInfo]) -> None:
        unreferenced = await self._unreferenced(page)
        if unreferenced and not sweep.dry_run:
            await asyncio.sleep(self._settle_seconds)
            unreferenced = await self._unreferenced(unreferenced)
        for info in unreferenced:
            await sweep.remove(self._store, self._bucket, info)

    async def _unreferenced(self, page: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
        referenced = await self._references.among([info.key for info in page])
        return [info for info in page if info.key not in referenced]
