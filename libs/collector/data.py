"""Remove the content of data sets to which no name refers any more.

:mod:`libs.core.storage.data_sets` explains why no upload can use it any more. A start that has just looked a name
up may still need its previous content; then it looks the name up again.
"""

from datetime import timedelta

from libs.collector.sweep import Sweep
from libs.core.storage.data_sets import REMOVABLE_SECONDS, DataCatalog
from libs.core.storage.errors import BucketMissing


class UnreferencedData:
    """The content of *catalog*.

    Args:
        keep_seconds: retention of unreferenced content after its upload; 0 for ever.
        least_seconds: minimum of that, for uploads under way.
    """

    kind = "data"

    def __init__(self, catalog: DataCatalog, keep_seconds: float, *, least_seconds: float = REMOVABLE_SECONDS) -> None:
        self._catalog = catalog
        self._keep_seconds = keep_seconds
        self._least_seconds = least_seconds

    async def collect(self, sweep: Sweep) -> None:
        """Remove old unreferenced content. May be repeated and interrupted."""
        if not self._keep_seconds:
            return
        catalog = self._catalog
        try:
            now = await catalog.store.now(catalog.bucket)
            uploaded_before = now - timedelta(seconds=max(self._keep_seconds, self._least_seconds))
            listed = [info async for info in catalog.store.list(catalog.bucket, catalog.content_prefix)]
        except BucketMissing:
            return
        old = [info for info in listed if catalog.is_content(info.key) and info.modified_at < uploaded_before]
        # After the list: no name can begin to refer to content of that age.
        referenced = await catalog.referenced() if old else set()
        for info in old:
            if info.key not in referenced:
                await sweep.remove(catalog.store, catalog.bucket, info)
