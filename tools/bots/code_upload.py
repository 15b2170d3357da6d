"""Upload code into the code bucket, identical code once; safe as :mod:`libs.core.storage.code_keys` explains."""

from libs.core.process.service import ServiceDefinition
from libs.core.storage.code_keys import code_keys, holds_digest
from libs.core.storage.errors import ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.core.store.code_retention import CodeRetention
from libs.core.store.entities import Entity
from tools.bots.package import Package


class CodeUpload:
    """Uploads for one *service*.

    Args:
        default_keep_seconds: retention of unreferenced code until a master stores one; 0 for ever.
    """

    def __init__(
        self,
        service: ServiceDefinition,
        store: ObjectStore,
        bucket: str,
        retention: CodeRetention,
        default_keep_seconds: float,
    ) -> None:
        self._service = service
        self._store = store
        self._bucket = bucket
        self._retention = retention
        self._default_keep_seconds = default_keep_seconds

    async def key_of(self, package: Package, known: Entity | None = None) -> str:
        """Upload *package* into the bucket unless it is there, and return its key. May be repeated.

        Args:
            known: the existing entity; its code is not uploaded again under another key, so that it need not restart.

        Raises:
            Retryable: the storage or MongoDB is unreachable.
        """
        await self._store.ensure_bucket(self._bucket)
        keep_seconds = await self._retention.keep_seconds()
        if keep_seconds is None:
            keep_seconds = self._default_keep_seconds
        now = await self._store.now(self._bucket)
        fresh = code_keys(self._service, package.digest, now.timestamp(), keep_seconds)
        code = known.code if known is not None else None
        used = [code.key] if code is not None and holds_digest(self._service, code.key, package.digest) else []
        for key in (*used, *fresh):
            if await self._is_there(key, len(package.content)):
                return key
        await self._store.put(self._bucket, fresh[0], package.content, "application/zip")
        return fresh[0]

    async def _is_there(self, key: str, size: int) -> bool:
        try:
            return (await self._store.stat(self._bucket, key)).size == size
        except ObjectMissing:
            return False
