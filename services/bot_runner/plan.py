"""Plan the actions that turn a segment's containers into its desired state. Pure.

The same inputs give the same actions, and a round whose actions have all been carried out plans nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from libs.core.store.releases import Release
from libs.core.store.relocations import Relocation
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.containers.names import standby_name
from libs.docker_runner.engine.room import Reservations, Shortage
from libs.docker_runner.executable import Executable
from libs.docker_runner.sandbox.container_spec import is_gvisor
from services.bot_runner.choice import Choice, choose, matches
from services.bot_runner.desired_bot import DesiredBot, StopReason


@dataclass(frozen=True)
class Start:
    """Run *executable*; no container of this bot exists."""

    id: str
    executable: Executable


@dataclass(frozen=True)
class Stop:
    """Stop a container that should not run. A kill does not wait for the bot's own shutdown."""

    id: str
    container: ManagedContainer
    reason: StopReason
    order: Relocation | None = None
    """The order to move it, for that reason."""
    successor: Executable | None = None
    """What the next round starts, for which a standby may wait meanwhile; None: no standby."""


@dataclass(frozen=True)
class Move:
    """Move a bot, which has no container, to another segment, whose owner starts it."""

    id: str
    order: Relocation


@dataclass(frozen=True)
class Reap:
    """Record why a container ended by itself and remove it. The next round decides on a new start."""

    id: str
    container: ManagedContainer


@dataclass(frozen=True)
class Keep:
    """Write the accepted versions into the document. The next round acts on that."""

    id: str
    release: Release


Action = Start | Stop | Reap | Keep | Move


@dataclass(frozen=True)
class WaitForRoom:
    """A bot that would be started now if its engine had room for it."""

    id: str
    executable: Executable
    shortage: Shortage


@dataclass(frozen=True)
class Plan:
    """The actions of a round, at most one per bot, and the time of the next round.

    Attributes:
        checks: versions to check in the background, by bot.
        absent: the bots that have no container and must have none.
        next_round_at: Unix seconds at which the earliest backoff or health window ends; None without any.
        kept: the containers that are as desired.
        waiting: the bots without room on the engine.
        held_up: why bots keep the previous version although only room is missing for the newest.
    """

    actions: Sequence[Action] = ()
    kept: Sequence[ManagedContainer] = ()
    checks: Mapping[str, Executable] = field(default_factory=dict)
    absent: Mapping[str, StopReason] = field(default_factory=dict)
    next_round_at: float | None = field(default=None)
    waiting: Sequence[WaitForRoom] = ()
    held_up: Mapping[str, Shortage] = field(default_factory=dict)


def plan(
    desired: Mapping[str, DesiredBot],
    actual: Iterable[ManagedContainer],
    now: float,
    room: Reservations | None = None,
    *,
    standbys: bool = False,
) -> Plan:
    """Return what to start, stop and reap so that *actual* becomes *desired* at *now* (Unix seconds).

    A changed bot is stopped in this round and started in the next one, when its container is known to be gone: two
    containers of one bot are never requested.

    Args:
        room: the engine's free room; None while unknown, and then every start is tried.
        standbys: whether a standby may wait while the container of another version is stopped.
    """
    actions: list[Action] = []
    kept: list[ManagedContainer] = []
    checks: dict[str, Executable] = {}
    absent: dict[str, StopReason] = {}
    times: list[float] = []
    waiting: list[WaitForRoom] = []
    held_up: dict[str, Shortage] = {}
    present: set[str] = set()

    def chosen(bot: DesiredBot, container: ManagedContainer | None) -> Choice:
        choice = choose(bot, container, now)
        if choice.check is not None:
            checks[bot.id] = choice.check
        if choice.decide_again_at is not None:
            times.append(choice.decide_again_at)
        return choice

    for container in actual:
        present.add(container.id)
        bot = desired.get(container.id)
        if container.state is not ContainerState.RUNNING:
            actions.append(Reap(container.id, container))
            continue
        choice = chosen(bot, container) if bot is not None else Choice(absence=StopReason.DELETED)
        if choice.absence is not None:
            actions.append(Stop(container.id, container, choice.absence))
        elif choice.replacement is not None and (short := _shortage(room, choice.replacement)) is not None:
            held_up[container.id] = short
            kept.append(container)
        elif choice.release is not None:
            actions.append(Keep(container.id, choice.release))
            kept.append(container)
        elif choice.undecided:
            kept.append(container)
        elif matches(choice, container):
            order = bot.relocation if bot is not None else None
            if order is not None and order.may_stop(now):
                actions.append(Stop(container.id, container, StopReason.MOVED, order))
            else:
                kept.append(container)
        else:
            successor = _successor(bot, choice, now, room) if standbys and bot is not None else None
            actions.append(Stop(container.id, container, _why(choice, container), successor=successor))
    for bot in desired.values():
        if bot.id in present:
            continue
        choice = chosen(bot, None)
        if choice.absence is not None:
            absent[bot.id] = choice.absence
            if choice.absence is StopReason.DISABLED and bot.relocation is not None:
                actions.append(Move(bot.id, bot.relocation))
        elif choice.release is not None:
            actions.append(Keep(bot.id, choice.release))
        elif choice.run is None:
            continue
        elif not bot.history.may_start(now):
            times.append(bot.history.not_before)
        elif bot.relocation is not None:
            actions.append(Move(bot.id, bot.relocation))
        elif (short := _shortage(room, choice.run)) is not None:
            waiting.append(WaitForRoom(bot.id, choice.run, short))
        else:
            actions.append(Start(bot.id, choice.run))
            room = room.granted(choice.run.room) if room is not None else None
    return Plan(actions, kept, checks, absent, min(times, default=None), waiting, held_up)


def _successor(bot: DesiredBot, choice: Choice, now: float, room: Reservations | None) -> Executable | None:
    """Return what is started as soon as the container of another version is gone, if a standby has room beside it."""
    run = choice.run
    if run is None or bot.relocation is not None or not bot.history.may_start(now):
        return None
    # Not on gVisor, whose kernel reserves memory for each container and takes longer to start.
    if is_gvisor(run.placement.container_runtime):
        return None
    beside = replace(run.room, name=standby_name(run.name))
    return run if room is not None and room.shortage(beside) is None else None


def _why(choice: Choice, container: ManagedContainer) -> StopReason:
    """Return why a container that does not match is replaced."""
    run = choice.run
    if run is not None and run.restart != container.restart and run.revision == container.revision:
        return StopReason.RESTARTED
    return StopReason.CHANGED


def _shortage(room: Reservations | None, executable: Executable) -> Shortage | None:
    return room.shortage(executable.room) if room is not None else None
