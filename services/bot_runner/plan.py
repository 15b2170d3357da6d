"""Decides what must be done so that a segment's containers become what its bots say. Pure: it changes nothing.

The same inputs give the same actions, and a round whose actions have all been carried out plans nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from libs.docker_runner.container import ContainerState, ManagedContainer
from libs.docker_runner.executable import Executable
from libs.docker_runner.room import Reservations, Shortage
from services.bot_runner.restarts import RestartHistory


class StopReason(StrEnum):
    """Why a container that runs must not."""

    DELETED = "deleted"
    DISABLED = "disabled"
    KILLED = "killed"
    STOPPED = "stopped"
    CHANGED = "changed"
    REJECTED = "rejected"


@dataclass(frozen=True)
class DesiredBot:
    """What one bot's document asks for.

    Attributes:
        executable: what to run; None when nothing may run, and then *absence* says why,
            with *detail* for its owner where there is more to say.
        code_etag: the version of the code object as the store has it now; None when that is not known, and then a
            container is not held against it.
        undecided: the document could not be read: what runs is left alone, nothing is started. *detail* says why.
        history: its deaths so far.
        told: its status, as its document has it.
        trace: of the event that the document follows.
    """

    id: str
    revision: int
    history: RestartHistory
    executable: Executable | None = None
    absence: StopReason | None = None
    detail: str = ""
    undecided: bool = False
    code_etag: str | None = None
    told: Mapping[str, object] = field(default_factory=dict)
    trace: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Run *executable*; no container of this bot exists."""

    id: str
    executable: Executable


@dataclass(frozen=True)
class Stop:
    """End a container that should not run. A kill switch does not wait for the bot's own shutdown."""

    id: str
    container: ManagedContainer
    reason: StopReason


@dataclass(frozen=True)
class Bury:
    """Record why a container ended by itself and take it away. The next round decides on a new start."""

    id: str
    container: ManagedContainer


Action = Start | Stop | Bury


@dataclass(frozen=True)
class WaitForRoom:
    """A bot that would be started now if its engine had room for it."""

    id: str
    executable: Executable
    shortage: Shortage


@dataclass(frozen=True)
class Plan:
    """The actions of a round, one a bot at most, and when to look again.

    Attributes:
        next_start: Unix seconds at which the earliest backoff ends; None when none is running.
        kept: the containers that are as they should be.
        waiting: the bots that the engine has no room for.
    """

    actions: Sequence[Action] = ()
    kept: Sequence[ManagedContainer] = ()
    next_start: float | None = field(default=None)
    waiting: Sequence[WaitForRoom] = ()


def plan(
    desired: Mapping[str, DesiredBot],
    actual: Iterable[ManagedContainer],
    now: float,
    room: Reservations | None = None,
) -> Plan:
    """What to start, stop and bury so that *actual* becomes *desired* at *now* (Unix seconds).

    A changed bot is stopped in this round and started in the next one, once its container is known to be gone: two
    containers of one bot are never asked for.

    Args:
        room: what the engine's containers leave free; None when that is not known, and then every bot is tried.
    """
    actions: list[Action] = []
    kept: list[ManagedContainer] = []
    backing_off: list[float] = []
    waiting: list[WaitForRoom] = []
    present: set[str] = set()
    for container in actual:
        present.add(container.id)
        bot = desired.get(container.id)
        if container.state is not ContainerState.RUNNING:
            actions.append(Bury(container.id, container))
        elif (reason := _reason_to_stop(bot, container)) is not None:
            actions.append(Stop(container.id, container, reason))
        else:
            kept.append(container)
    for bot in desired.values():
        if bot.executable is None or bot.id in present:
            continue
        if not bot.history.may_start(now):
            backing_off.append(bot.history.not_before)
        elif room is not None and (shortage := room.shortage(bot.executable.room)) is not None:
            waiting.append(WaitForRoom(bot.id, bot.executable, shortage))
        else:
            actions.append(Start(bot.id, bot.executable))
            room = room.granted(bot.executable.room) if room is not None else None
    return Plan(actions, kept, min(backing_off, default=None), waiting)


def _reason_to_stop(bot: DesiredBot | None, container: ManagedContainer) -> StopReason | None:
    if bot is None:
        return StopReason.DELETED
    if bot.undecided:
        return None
    if bot.executable is None:
        return bot.absence or StopReason.REJECTED
    if bot.executable.spec_hash() != container.spec_hash:
        return StopReason.CHANGED
    if bot.code_etag is not None and container.code_etag and bot.code_etag != container.code_etag:
        return StopReason.CHANGED
    return None
