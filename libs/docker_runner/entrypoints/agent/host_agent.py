"""Kill the containers of this engine that outlive their keepalive: the second wall, outside of the container.

Runs in a container of its own, as root, in the host's PID namespace, without a network and without keys. It asks
neither the engine nor a worker for anything, so that it works while both hang. It ends what the init cannot: a paused
container, or one whose init is stopped. It writes JSON lines, and a worker reads the last ones. Of its two processes,
the first starts the second again if it fails. It ends when it has no container to watch and no worker requires it.
"""

import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
if TYPE_CHECKING or __package__:
    from libs.docker_runner.entrypoints.agent.containers import Containers, FoundContainer
    from libs.docker_runner.entrypoints.agent.control_groups import Hierarchies, text_of
    from libs.docker_runner.entrypoints.agent.keepalives import RUNNING_MARGIN_SECONDS, Keepalive
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from containers import Containers, FoundContainer  # pants: no-infer-dep
    from control_groups import Hierarchies, text_of  # pants: no-infer-dep
    from keepalives import RUNNING_MARGIN_SECONDS, Keepalive  # pants: no-infer-dep

PASS_SECONDS = 2.0
# Between the end of a keepalive and the end of its containers.
_CLOSE_SECONDS = 0.1
# A process that the kernel cannot end now is tried less often after this time.
_DEATH_SECONDS = 2.0
_ALIVE_SECONDS = 20.0
# A worker changes the sign every 5 s.
_UNWANTED_SECONDS = 20.0
_AGAIN_SECONDS = 1.0
SIGN = "/workers/.host-agent"
_STUCK_SECONDS = 10.0


class Watched:
    """A container and what became of it; times are CLOCK_BOOTTIME seconds."""

    __slots__ = ("container", "found_at", "killed_at", "last_deadline", "reported_at")

    def __init__(self, container: FoundContainer, found_at: float) -> None:
        self.container = container
        self.found_at = found_at
        self.killed_at: float | None = None
        self.last_deadline: float | None = None
        self.reported_at = 0.0

    def limits(self, keepalive: Keepalive) -> "tuple[float, float]":
        """Return when the container must be dead if it is frozen, and if it runs; see :class:`Keepalive`.

        Its last deadline stays when a later owner of the segment writes for its own containers.
        """
        if keepalive.last_deadline is not None:
            earlier = self.last_deadline
            now_last = keepalive.last_deadline
            self.last_deadline = now_last if earlier is None else min(earlier, now_last)
        if self.last_deadline is not None:
            return self.last_deadline, self.last_deadline + RUNNING_MARGIN_SECONDS
        return keepalive.frozen_limit(), keepalive.running_limit(self.found_at)


class HostAgent:
    """Watches all containers of the runtime on this host.

    Args:
        clock: CLOCK_BOOTTIME in seconds, by which keepalives expire.
        sign: returns a value that changes as long as a worker requires the agent.
        say: reports an event: its level, its name and its fields.
    """

    def __init__(
        self,
        containers: Containers,
        boot_id: str,
        *,
        clock: "Callable[[], float]",
        sign: "Callable[[], object]",
        say: "Callable[..., None]",
    ) -> None:
        self._clock = clock
        self._sign = sign
        self._last_sign: object = None
        self._wanted_at = clock()
        self._say = say
        self._containers = containers
        self._boot_id = boot_id
        self._watched: dict[str, Watched] = {}
        self._keepalives: dict[tuple[int, int], Keepalive] = {}
        self._killed = 0
        self._said_at = float("-inf")
        self._looked_at = float("-inf")

    def run(self) -> None:
        """Watch until the agent is unwanted, or its parent has ended. An unexpected error affects only its pass."""
        parent = os.getppid()
        while self.is_wanted() and os.getppid() == parent:
            try:
                pause = self.one_pass()
            except Exception as error:  # noqa: BLE001 - the wall must stand
                self._say("error", "pass failed", error=f"{type(error).__name__}: {error}")
                pause = PASS_SECONDS
            time.sleep(pause)

    def is_wanted(self) -> bool:
        """Whether there are containers to watch, or workers that may start some."""
        now = self._clock()
        # Only without containers: a hung disk must not keep the agent from killing.
        if self._watched or (sign := self._sign()) != self._last_sign:
            self._wanted_at = now
            self._last_sign = None if self._watched else sign
        return now - self._wanted_at < _UNWANTED_SECONDS

    def one_pass(self) -> float:
        """Find containers, read keepalives, and kill what has outlived its own; return the pause in seconds."""
        now = self._clock()
        if now - self._looked_at >= PASS_SECONDS - _CLOSE_SECONDS:
            self._looked_at = now
            self._find(now)
        self._read(self._clock())
        pause = min((self._guarded(one) for one in list(self._watched.values())), default=PASS_SECONDS)
        if now - self._said_at >= _ALIVE_SECONDS:
            self._said_at = now
            self._say_alive()
        return min(max(pause, _CLOSE_SECONDS), PASS_SECONDS)

    def _find(self, now: float) -> None:
        found, ended = self._containers.refresh(now)
        for lost in ended:
            self._drop(lost)
        for one in found:
            self._watched[one.group.container_id] = Watched(one, now)

    def _say_alive(self) -> None:
        if self._containers.unreadable:
            remedy, containers = "run it as root with CAP_SYS_PTRACE", sorted(self._containers.unreadable)
            self._say("error", "keepalives cannot be read", containers=containers, remedy=remedy)
        self._say("info", "alive", **self._counts())

    def _read(self, now: float) -> None:
        """Read each keepalive once, for all of its containers."""
        folders = {one.container.folder.key: one.container.folder for one in self._watched.values()}
        self._keepalives = {key: self._keepalives.get(key) or Keepalive(self._boot_id, now) for key in folders}
        for key, folder in folders.items():
            self._keepalives[key].read(folder.content(), now)

    def _guarded(self, watched: Watched) -> float:
        """As :meth:`_decide`; an unexpected error affects only this container."""
        try:
            return self._decide(watched)
        except Exception as error:  # noqa: BLE001 - the other containers must be killed nevertheless
            if self._may_report(watched):
                self._say_of(watched, "container not killed", error=f"{type(error).__name__}: {error}")
            return _CLOSE_SECONDS if watched.killed_at is None else PASS_SECONDS

    def _decide(self, watched: Watched) -> float:
        """Kill the container if it must be dead; return when to look again, in seconds."""
        now = self._clock()
        if watched.killed_at is not None:
            self._kill_again(watched, now)
            return _CLOSE_SECONDS if now - watched.killed_at < _DEATH_SECONDS else PASS_SECONDS
        keepalive, folder = self._keepalives[watched.container.folder.key], watched.container.folder
        frozen_limit, _ = watched.limits(keepalive)
        if now < frozen_limit:
            return frozen_limit - now
        frozen = watched.container.group.is_frozen()
        # Its owner may have refreshed it since it was read.
        keepalive.read(folder.content(), now)
        frozen_limit, running_limit = watched.limits(keepalive)
        if now >= (frozen_limit if frozen else running_limit):
            self._kill(watched, now, frozen=frozen, late_seconds=now - frozen_limit)
        return _CLOSE_SECONDS

    def _kill(self, watched: Watched, now: float, *, frozen: bool, late_seconds: float) -> None:
        if not watched.container.has_process():
            self._end(watched.container)
            return
        watched.container.group.kill()
        watched.killed_at = watched.reported_at = self._said_at = now
        self._killed += 1
        late_seconds = round(late_seconds, 3)
        self._say_of(
            watched, "killed a container that outlived its keepalive", frozen=frozen, late_seconds=late_seconds
        )

    def _kill_again(self, watched: Watched, now: float) -> None:
        """Kill what is left of a container, until it is dead."""
        if not watched.container.has_process():
            self._end(watched.container)
            return
        watched.container.group.kill()
        if self._may_report(watched):
            self._say_of(
                watched, "container survives SIGKILL", since_seconds=round(now - (watched.killed_at or now), 1)
            )

    def _may_report(self, watched: Watched) -> bool:
        now = self._clock()
        if now - watched.reported_at < _STUCK_SECONDS:
            return False
        watched.reported_at = now
        return True

    def _say_of(self, watched: Watched, event: str, **fields: object) -> None:
        self._say("warning", event, container=watched.container.group.container_id, **fields, **self._counts())

    def _counts(self) -> dict[str, int]:
        unreadable = len(self._containers.unreadable)
        return {"watched": len(self._watched), "killed": self._killed, "unreadable": unreadable}

    def _end(self, container: FoundContainer) -> None:
        self._containers.forget(container)
        self._drop(container)

    def _drop(self, container: FoundContainer) -> None:
        self._watched.pop(container.group.container_id, None)
        container.folder.close()


def boot_seconds() -> float:
    """Return the seconds since the machine started, the time of a suspend included, as keepalives count them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def say(level: str, event: str, **fields: object) -> None:
    """Print a JSON line, unless the reader does not take it: a frozen engine must not stop the agent."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": level, "event": event, **fields}
    try:
        os.write(1, json.dumps(line).encode() + b"\n")
    except OSError:
        return


def last_sign() -> object:
    """Return when a worker has last shown that it requires the agent."""
    try:
        return os.stat(SIGN).st_mtime_ns
    except OSError:
        return None


def watch() -> None:
    """Watch until the agent is unwanted; fail if that is not possible here."""
    hierarchies = Hierarchies(text_of("/proc/self/mountinfo"))
    if not hierarchies.usable:
        say("error", "no control groups to kill by", remedy="mount the host's /sys/fs/cgroup, writable")
        sys.exit(1)
    boot_id = text_of("/proc/sys/kernel/random/boot_id").strip()
    HostAgent(Containers(hierarchies), boot_id, clock=boot_seconds, sign=last_sign, say=say).run()


def main() -> None:
    """Run :func:`watch` in a process of its own, and again when that fails; return when it is done."""
    os.set_blocking(1, False)
    while True:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            watch()
            return
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))  # noqa: B023 - of the last one
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code in (0, -signal.SIGTERM):
            return
        say("error", "the agent failed; starting it again", exit_code=code)
        time.sleep(_AGAIN_SECONDS)


if __name__ == "__main__":
    main()
