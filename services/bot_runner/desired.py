"""Reads one bot's document as what should run now: an executable, or why there is none."""

from dataclasses import replace
from pathlib import Path

from libs.core.errors import Retryable, UserError
from libs.core.log import get_logger
from libs.core.store.entities import Entity
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.code_cache import CodeCache
from libs.docker_runner.definition import Deployed, ExecutableFactory, Ownership
from libs.docker_runner.errors import CodeMissing
from libs.docker_runner.executable import CodeRef
from services.bot_runner.ledger import Ledger
from services.bot_runner.plan import DesiredBot, StopReason

log = get_logger(__name__)


class Desires:
    """What the documents of one owned segment ask for."""

    def __init__(
        self,
        owned: OwnedSegment,
        *,
        factory: ExecutableFactory,
        ledger: Ledger,
        code: CodeCache,
        code_bucket: str,
        keepalive: Path,
        worker: str,
    ) -> None:
        self._owned = owned
        self._factory = factory
        self._ledger = ledger
        self._code = code
        self._code_bucket = code_bucket
        self._keepalive = keepalive
        self._worker = worker

    async def of(self, entity: Entity) -> DesiredBot:
        """The desired state of *entity*. What its owner wrote wrongly is a rejection, never an exception."""
        bot = DesiredBot(entity.id, entity.revision, self._ledger.history(entity))
        if entity.held is not None:
            return replace(bot, absence=StopReason.KILLED)
        if not entity.enabled:
            return replace(bot, absence=StopReason.DISABLED)
        ownership = Ownership(self._owned.segment_id, self._owned.epoch, self._worker, self._keepalive)
        try:
            executable = self._factory.build(self._deployed(entity), ownership)
        except UserError as error:
            return replace(bot, absence=StopReason.REJECTED, detail=str(error))
        return replace(bot, executable=executable, code_etag=await self._code_etag(entity, executable.code))

    async def _code_etag(self, entity: Entity, code: CodeRef) -> str | None:
        """Asked once for each revision: new code under the same key comes with an update of the document."""
        known = self._ledger.code_etag(entity)
        if known is None:
            try:
                known = await self._code.etag(code)
            except (Retryable, CodeMissing) as error:
                log.debug("code version unknown; what runs is kept", bot=entity.id, error=str(error))
                return None
            self._ledger.remember_code_etag(entity, known)
        return known

    def _deployed(self, entity: Entity) -> Deployed:
        location = entity.code
        return Deployed(
            id=entity.id,
            revision=entity.revision,
            config=entity.config,
            custom_config=entity.bot,
            version=entity.version,
            code=CodeRef(location.bucket or self._code_bucket, location.key) if location is not None else None,
            traceparent=entity.trace.get("traceparent"),
        )
