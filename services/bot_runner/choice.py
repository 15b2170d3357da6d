"""Decide which version of a bot should run: the newest, or the last accepted one. Pure.

A version is accepted after a check, and only then may it replace the running one. Until then, and permanently after
a rejection, the previous version keeps running, and is also what another worker starts.
"""

from dataclasses import dataclass, replace

from libs.core.store.releases import Release
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.executable import Executable
from services.bot_runner.desired_bot import DesiredBot, StopReason
from services.bot_runner.verdicts import Ready, Unknown


@dataclass(frozen=True)
class Choice:
    """The decision about one bot's versions.

    Attributes:
        run: the version to run; None when none may (*absence* has the reason), or while *undecided*.
        code_etag: the required version of its code; "" for any.
        undecided: a running container stays, and nothing is started.
        release: what must be written into the document before anything else is done.
        replacement: what replaces the running container, once *release* is written; None for nothing.
        check: the newest version, to be checked in the background.
        decide_again_at: Unix seconds at which time alone changes the choice; None when it does not.
    """

    run: Executable | None = None
    code_etag: str = ""
    absence: StopReason | None = None
    undecided: bool = False
    release: Release | None = None
    replacement: Executable | None = None
    check: Executable | None = None
    decide_again_at: float | None = None


def choose(bot: DesiredBot, container: ManagedContainer | None, now: float) -> Choice:
    """Return the choice for *bot*, whose running container is *container*, at *now* (Unix seconds)."""
    if bot.undecided:
        return Choice(undecided=True) if container is not None else Choice(absence=StopReason.REJECTED)
    if bot.absence is not None and container is not None:
        return Choice(absence=bot.absence)
    if bot.release_is_void and bot.release != Release():
        # Before the status with the revision of the idle bot is written.
        return Choice(undecided=True, release=Release())
    if bot.absence is not None:
        return Choice(absence=bot.absence)
    current = bot.release.current
    if current is not None and current.revision == bot.revision:
        if bot.executable is None:
            return Choice(absence=StopReason.REJECTED)
        choice = Choice(bot.executable, current.code_etag)
        if container is None or matches(choice, container) or isinstance(bot.verdict, Ready):
            return _running(bot, choice, container, now)
        # A running container is stopped only for a version that can be started, also after an operator's change.
        return _unchecked(bot, bot.executable, now)
    if bot.rejection is not None:
        return _rejected(bot, container, now)
    return _undecided(bot, container, now)


def matches(choice: Choice, container: ManagedContainer) -> bool:
    """Whether *container* runs what *choice* requires."""
    return choice.run is not None and _is_of(choice.run, choice.code_etag, container)


def _rejected(bot: DesiredBot, container: ManagedContainer | None, now: float) -> Choice:
    """Handle a newest version that cannot run."""
    current = bot.release.current
    if bot.accepted is not None and current is not None:
        choice = _running(bot, Choice(bot.accepted, current.code_etag), container, now)
    elif current is None and container is not None and container.revision != bot.revision:
        # Its version was not recorded, as before an upgrade; it is an earlier one, and keeps running.
        choice = Choice(undecided=True)
    elif current is None and bot.executable is not None:
        # There is no previous version: it is tried again after its backoff.
        choice = Choice(bot.executable)
    else:
        choice = Choice(absence=StopReason.REJECTED)
    return _checked_again(bot, choice, now)


def _undecided(bot: DesiredBot, container: ManagedContainer | None, now: float) -> Choice:
    """Handle a newest version that is not accepted yet and has no rejection."""
    newest, version = bot.executable, bot.version
    if newest is None or version is None:
        return Choice(absence=StopReason.REJECTED)
    if container is not None and container.revision == bot.revision and _is_of(newest, "", container):
        # It was started for this version, which needs no other check.
        return Choice(undecided=True, release=bot.release.accepting(replace(version, code_etag=container.code_etag)))
    if container is None and bot.release.current is None:
        return Choice(newest)
    match bot.verdict:
        case Ready(code_etag):
            release = bot.release.accepting(replace(version, code_etag=code_etag))
            if container is not None and _is_of(newest, code_etag, container):
                return Choice(undecided=True, release=release.confirmed(code_etag))
            return Choice(undecided=True, release=release, replacement=newest)
        case Unknown() if bot.accepted is not None and bot.release.current is not None:
            choice = _running(bot, Choice(bot.accepted, bot.release.current.code_etag), container, now)
            return _checked_again(bot, choice, now)
        case _:
            return _unchecked(bot, newest, now)


def _unchecked(bot: DesiredBot, newest: Executable, now: float) -> Choice:
    """Keep the running container until the newest version was checked."""
    if bot.verdict is None:
        return Choice(undecided=True, check=newest)
    return _checked_again(bot, Choice(undecided=True), now)


def _running(bot: DesiredBot, choice: Choice, container: ManagedContainer | None, now: float) -> Choice:
    """Return *choice*, which runs the current version; after its health window, the previous version is dropped."""
    current = bot.release.current
    if current is None or container is None or not matches(choice, container):
        return choice
    etag = container.code_etag or current.code_etag
    over_at = _window_over_at(bot.release, container)
    if over_at is not None and now < over_at:
        return replace(choice, decide_again_at=over_at)
    if bot.release.previous is not None or etag != current.code_etag:
        return replace(choice, release=bot.release.confirmed(etag))
    return choice


def _window_over_at(release: Release, container: ManagedContainer) -> float | None:
    """Return the end of the health window of *container*'s version; None without a possible rollback."""
    current = release.current
    if release.previous is None or current is None or current.window_seconds is None or container.started_at is None:
        return None
    return container.started_at.timestamp() + current.window_seconds


def _checked_again(bot: DesiredBot, choice: Choice, now: float) -> Choice:
    if bot.verdict is None or isinstance(bot.verdict, Ready) or bot.executable is None:
        return choice
    if now >= bot.verdict.check_again_at:
        return replace(choice, check=bot.executable)
    times = [time for time in (choice.decide_again_at, bot.verdict.check_again_at) if time is not None]
    return replace(choice, decide_again_at=min(times))


def _is_of(executable: Executable, code_etag: str, container: ManagedContainer) -> bool:
    """Whether *container* equals what a start of *executable* would create now."""
    if executable.spec_hash() != container.spec_hash:
        return False
    # A container that was started for this version is right, even if the object was another at that moment.
    same_version = container.revision == executable.revision
    return same_version or not code_etag or not container.code_etag or container.code_etag == code_etag
