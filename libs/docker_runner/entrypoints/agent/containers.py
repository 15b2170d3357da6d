"""Find the runtime's containers and their keepalives by what their processes have mounted, not by any setting.

A container belongs to the runtime if one of its processes has the runtime's mounts in its own file system. A bot cannot
mount anything, so it cannot hide from the agent. A process that imitates the mounts only betrays its own container:
what is killed is always the control group of the process that has them, and no process can leave its control group.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from libs.docker_runner.entrypoints.agent.control_groups import ControlGroup, Hierarchies, container_of, text_of
else:
    from control_groups import ControlGroup, Hierarchies, container_of, text_of  # pants: no-infer-dep

KEEPALIVE_MOUNT = "/run/the0/keepalive"
ENTRY_MOUNT = "/run/the0/entry"
FILE_NAME = "lease"
_GOFER = "runsc-gofer"
# A new process may not have entered its container yet, or not have its mounts.
_YOUNG_SECONDS = 3.0
# The same of gVisor's, which starts more slowly.
_GOFER_SECONDS = 30.0
# What was overlooked is found after this time.
_RESCAN_SECONDS = 60.0
_CONTENT_BYTES = 256


class KeepaliveFolder:
    """The folder of a keepalive, as a container mounts it; open, so that nothing can take its place.

    Attributes:
        key: equal for containers that watch the same keepalive.
    """

    __slots__ = ("descriptor", "key")

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.descriptor = descriptor
        self.key = (status.st_dev, status.st_ino)

    def content(self) -> "str | None":
        """Return the content of the file; None if it is missing or unreadable."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(FILE_NAME, flags, dir_fd=self.descriptor)
        except OSError:
            return None
        try:
            return os.read(file, _CONTENT_BYTES).decode("ascii", "replace")
        except OSError:
            return None
        finally:
            os.close(file)

    def close(self) -> None:
        """Give the folder back. Once."""
        os.close(self.descriptor)


class FoundContainer:
    """A container of the runtime. *pid* is one of its processes, normally the first."""

    __slots__ = ("folder", "group", "pid")

    def __init__(self, pid: str, group: ControlGroup, folder: KeepaliveFolder) -> None:
        self.pid = pid
        self.group = group
        self.folder = folder

    def has_process(self) -> bool:
        """Whether it still has a process, which then is the known one."""
        pids = self.group.pids()
        if pids and self.pid not in pids:
            self.pid = min(pids, key=int)
        return bool(pids)


class Containers:
    """The runtime's containers among all processes; each is found once, until it has ended.

    Attributes:
        unreadable: the ids of those whose keepalive cannot be opened.
    """

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies
        self._watched: dict[str, FoundContainer] = {}
        self._old: set[str] = set()
        self._young: dict[str, float] = {}
        self._strangers: dict[str, float] = {}
        self._rescanned_at = float("-inf")
        self.unreadable: set[str] = set()

    def refresh(self, now: float) -> "tuple[list[FoundContainer], list[FoundContainer]]":
        """Look at the processes; return the containers that are new, and those that have ended."""
        pids = set(filter(str.isdigit, os.listdir("/proc")))
        rescan = now - self._rescanned_at >= _RESCAN_SECONDS
        if rescan:
            self._rescanned_at = now
            self._strangers.clear()
            self.unreadable.clear()
        ended = [one for one in self._watched.values() if (rescan or one.pid not in pids) and not one.has_process()]
        for lost in ended:
            self.forget(lost)
        self._old &= pids
        self._young = {pid: self._young.get(pid, now) for pid in pids - self._old}
        looked_at = sorted(pids if rescan else self._young, key=int)
        found = [one for pid in looked_at if (one := self._look(pid, now)) is not None]
        self._old.update(pid for pid, seen in self._young.items() if _is_old(pid, now - seen))
        return found, ended

    def forget(self, container: FoundContainer) -> None:
        """Stop watching *container*. May be repeated."""
        self._watched.pop(container.group.container_id, None)

    def _look(self, pid: str, now: float) -> "FoundContainer | None":
        """Return the container of *pid* if it is one of the runtime's and not watched yet."""
        groups = text_of(f"/proc/{pid}/cgroup")
        container_id = container_of(groups)
        if container_id is None or container_id in self._watched:
            return None
        if _is_old(pid, now - self._strangers.setdefault(container_id, now)):
            return None
        mount = keepalive_mount(text_of(f"/proc/{pid}/mountinfo"), writable=_is_gofer(pid))
        group = self._hierarchies.group(groups)
        if mount is None or group is None:
            return None
        folder = _open_keepalive(pid, mount)
        if folder is None:
            if pid in group.pids():
                self.unreadable.add(container_id)
            return None
        self.unreadable.discard(container_id)
        # The process may have ended meanwhile, and its number be another one's.
        if container_of(text_of(f"/proc/{pid}/cgroup")) != container_id:
            folder.close()
            return None
        self._watched[container_id] = FoundContainer(pid, group, folder)
        return self._watched[container_id]


def keepalive_mount(mounts: str, *, writable: bool = False) -> "str | None":
    """Return the number of the keepalive's mount among a process's *mounts*; None if they are not the runtime's.

    They are read-only, or may be *writable*.
    """
    number, is_ours = None, False
    for line in mounts.splitlines():
        fields = line.split(" ", 6)
        if len(fields) == 7 and (writable or "ro" in fields[5].split(",")):
            if fields[4] == KEEPALIVE_MOUNT:
                number = fields[0]
            is_ours = is_ours or fields[4] == ENTRY_MOUNT
    return number if is_ours else None


def _is_old(pid: str, age: float) -> bool:
    """Whether a process of that *age* in seconds gets no keepalive any more."""
    return age > _GOFER_SECONDS or (age > _YOUNG_SECONDS and not _is_gofer(pid))


def _is_gofer(pid: str) -> bool:
    """Whether *pid* is gVisor's file server, which has the mounts of a container; it refuses writes by itself."""
    return text_of(f"/proc/{pid}/cmdline").split("\0", 1)[0] == _GOFER


def _open_keepalive(pid: str, mount: str) -> "KeepaliveFolder | None":
    """Open the folder step by step, without following links, which would lead out of the container."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(f"/proc/{pid}/root", flags)
        for name in KEEPALIVE_MOUNT.strip("/").split("/"):
            try:
                inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
    except OSError:
        return None
    if f"mnt_id:\t{mount}" not in text_of(f"/proc/self/fdinfo/{descriptor}").splitlines():
        os.close(descriptor)
        return None
    return KeepaliveFolder(descriptor)
