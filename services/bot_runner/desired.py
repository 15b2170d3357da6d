"""Read one bot's document: its newest version, its last accepted version, and why either must not run."""

from dataclasses import replace

from libs.core.errors import UserError
from libs.core.placement import key_of
from libs.core.process.isolation import unexpected
from libs.core.store.entities import Entity
from libs.core.store.releases import Rejection, RejectionReason, Release, Version
from libs.core.store.relocations import Relocation
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.executable import Executable
from services.bot_runner.desired_bot import DesiredBot, StopReason
from services.bot_runner.restart_memory import RestartMemory
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.status import BotState
from services.bot_runner.verdicts import Refused, rejection_for

_AT_REST = (BotState.DISABLED, BotState.KILLED, BotState.STOPPED)


class DesiredState:
    """The desired state in the documents of one owned segment.

    Args:
        window_seconds: the default health window of a version that requests a rollback.
    """

    def __init__(self, *, executables: ExecutableBuilder, memory: RestartMemory, window_seconds: float) -> None:
        self._executables = executables
        self._memory = memory
        self._window_seconds = window_seconds

    def of(self, entity: Entity, placement: str = "", relocation: Relocation | None = None) -> DesiredBot:
        """Return the desired state of *entity*. An error of its owner is a rejection, never an exception.

        An unreadable document leaves only its own bot undecided; the kill switch still counts.

        Args:
            placement: the labels that the worker of its segment must have, as text.
            relocation: the valid order to move it.
        """
        try:
            bot = replace(self._read(entity, placement), relocation=relocation)
        except Exception as error:  # noqa: BLE001 - one broken document must not hide the others of its segment
            unexpected("read bot", error, bot=entity.id)
            bot = _broken(entity, error)
        self._memory.remember(bot, entity)
        return bot

    def _read(self, entity: Entity, placement: str) -> DesiredBot:
        bot = DesiredBot(
            entity.id,
            entity.revision,
            self._memory.history(entity),
            version=Version.of(entity, "", self._window_seconds),
            verdict=self._memory.verdict(entity),
            release=Release.of(entity.document),
            release_is_void=_was_at_rest(entity),
            stored_status=entity.status,
            trace=entity.trace,
        )
        if entity.held is not None:
            return replace(bot, absence=StopReason.STOPPED if entity.held.graceful else StopReason.KILLED)
        if not entity.enabled:
            return replace(bot, absence=StopReason.DISABLED)
        if key_of(entity.config) != placement:
            return replace(bot, absence=StopReason.MISPLACED)
        executable, rejection = self._built(entity)
        if rejection is None:
            rejection = bot.release.rejection_of(entity.revision)
        if rejection is None and isinstance(bot.verdict, Refused):
            rejection = bot.verdict.rejection
        return replace(bot, executable=executable, rejection=rejection, accepted=self._accepted(entity, bot.release))

    def _built(self, entity: Entity) -> tuple[Executable, None] | tuple[None, Rejection]:
        try:
            return self._executables.build(entity), None
        except UserError as error:
            return None, rejection_for(error, entity.revision)

    def _accepted(self, entity: Entity, release: Release) -> Executable | None:
        current = release.current
        if current is None or current.revision == entity.revision:
            return None
        executable, _ = self._built(current.entity_in(entity))
        return replace(executable, code_etag=current.code_etag or None) if executable is not None else None


def _broken(entity: Entity, error: Exception) -> DesiredBot:
    bot = DesiredBot(entity.id, entity.revision, RestartHistory(), stored_status=entity.status)
    if entity.held is not None:
        return replace(bot, absence=StopReason.KILLED)
    detail = f"its document cannot be read ({type(error).__name__}: {error}); deploy it again"
    rejection = Rejection(entity.revision, RejectionReason.DEFINITION, detail)
    return replace(bot, absence=StopReason.REJECTED, rejection=rejection, undecided=True)


def _was_at_rest(entity: Entity) -> bool:
    """Whether its owner or an operator had stopped it, and it was changed since."""
    status = entity.status
    return status.get("state") in _AT_REST and status.get("revision") != entity.revision
