"""Reads one bot's document as what should run now: an executable, or why there is none."""

from dataclasses import replace

from libs.core.errors import Retryable, UserError
from libs.core.isolation import unexpected
from libs.core.log import get_logger
from libs.core.store.entities import Entity
from libs.docker_runner.code_cache import CodeCache
from libs.docker_runner.errors import CodeMissing
from libs.docker_runner.executable import CodeRef
from libs.docker_runner.workshop import Workshop
from services.bot_runner.ledger import Ledger
from services.bot_runner.plan import DesiredBot, StopReason
from services.bot_runner.restarts import RestartHistory

log = get_logger(__name__)


class Desires:
    """What the documents of one owned segment ask for."""

    def __init__(self, *, workshop: Workshop, ledger: Ledger, code: CodeCache) -> None:
        self._workshop = workshop
        self._ledger = ledger
        self._code = code

    async def of(self, entity: Entity, *, running: bool) -> DesiredBot:
        """The desired state of *entity*. What its owner wrote wrongly is a rejection, never an exception.

        A document that cannot be read at all leaves its own bot undecided; the kill switch still counts.

        Args:
            running: whether it has a container whose code may be old. One that is to be started needs no look at the
                storage before that: its start takes the newest.
        """
        try:
            return await self._of(entity, running=running)
        except Exception as error:  # noqa: BLE001 - one broken document must not hide the others of its segment
            unexpected("read bot", error, bot=entity.id)
            broken = DesiredBot(entity.id, entity.revision, RestartHistory(), told=entity.status)
            if entity.held is not None:
                return replace(broken, absence=StopReason.KILLED)
            detail = f"its document cannot be read ({type(error).__name__}: {error}); deploy it again"
            return replace(broken, absence=StopReason.REJECTED, detail=detail, undecided=True)

    async def _of(self, entity: Entity, *, running: bool) -> DesiredBot:
        history = self._ledger.history(entity)
        bot = DesiredBot(entity.id, entity.revision, history, told=entity.status, trace=entity.trace)
        if entity.held is not None:
            return replace(bot, absence=StopReason.STOPPED if entity.held.graceful else StopReason.KILLED)
        if not entity.enabled:
            return replace(bot, absence=StopReason.DISABLED)
        try:
            executable = self._workshop.build(entity)
        except UserError as error:
            return replace(bot, absence=StopReason.REJECTED, detail=str(error))
        etag = await self._code_etag(entity, executable.code) if running else None
        return replace(bot, executable=executable, code_etag=etag)

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
