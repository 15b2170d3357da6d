"""End all processes of a container by its control group, without the engine; also frozen ones.

Version 2 has `cgroup.kill`, which no fork escapes. Otherwise each process gets SIGKILL: a frozen one of version 1 dies
when it is thawed, before it runs any of its own code.
"""

import os
import re
import signal

# Of Docker with the driver cgroupfs (`/docker/<id>`), with the driver systemd (`docker-<id>.scope`), and of the like.
_CONTAINER = re.compile(r"[/:-]([0-9a-f]{64})(?:\.scope)?$")
_FREEZER = "freezer"
_PROCESSES = "cgroup.procs"
_PIECE_BYTES = 65_536


class ControlGroup:
    """The control group of one container.

    Attributes:
        container_id: by the group's name, which no process of a container can change.
        folder: of the group, in the hierarchy in which it can be frozen.
    """

    __slots__ = ("container_id", "folder", "unified")

    def __init__(self, container_id: str, folder: str, *, unified: bool) -> None:
        self.container_id = container_id
        self.folder = folder
        self.unified = unified

    def is_frozen(self) -> bool:
        """Whether none of its processes runs, as after `docker pause`."""
        if self.unified:
            return "frozen 1" in text_of(f"{self.folder}/cgroup.events").splitlines()
        return text_of(f"{self.folder}/freezer.state").strip() in ("FROZEN", "FREEZING")

    def pids(self) -> "list[str]":
        """Return its processes; none when it is gone. A process outside of the agent's PID namespace is 0."""
        folders = [folder for folder, _, _ in os.walk(self.folder)]
        return [pid for folder in folders for pid in text_of(f"{folder}/{_PROCESSES}").split()]

    def kill(self) -> None:
        """Send SIGKILL to every process; return before they are dead. May be repeated.

        Raises:
            OSError: the control group cannot be used.
        """
        if self.unified:
            try:
                _write(f"{self.folder}/cgroup.kill", "1")
            except FileNotFoundError:
                # Before Linux 5.14, or gone.
                self._signal_all()
            return
        try:
            # So that no process escapes by a fork.
            _write(f"{self.folder}/freezer.state", "FROZEN")
            self._signal_all()
            _write(f"{self.folder}/freezer.state", "THAWED")
        except FileNotFoundError:
            return

    def _signal_all(self) -> None:
        failure = None
        for pid in self.pids():
            if pid == "0":
                continue
            try:
                self._signal(pid)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def _signal(self, pid: str) -> None:
        try:
            process = os.pidfd_open(int(pid))
        except ProcessLookupError:
            return
        try:
            # The number may be another process's by now. From here on it cannot change any more.
            if container_of(text_of(f"/proc/{pid}/cgroup")) == self.container_id:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            os.close(process)


class Hierarchies:
    """The mounted hierarchies of control groups, by this process's own mounts."""

    def __init__(self, mounts: str) -> None:
        self._freezer: tuple[str, str] | None = None
        self._unified: tuple[str, str] | None = None
        for line in mounts.splitlines():
            before, _, after = line.partition(" - ")
            root, point = before.split(" ")[3:5]
            kind, _, options = after.split(" ", 2)
            if kind == "cgroup2":
                self._unified = (root, point)
            elif kind == "cgroup" and _FREEZER in options.split(" ")[-1].split(","):
                self._freezer = (root, point)

    @property
    def usable(self) -> bool:
        """Whether there is one in which containers can be killed."""
        mounts = [mount for mount in (self._freezer, self._unified) if mount is not None]
        return any(not os.statvfs(point).f_flag & os.ST_RDONLY for _, point in mounts)

    def group(self, groups: str) -> ControlGroup | None:
        """Return the control group of a process with the content *groups* of /proc/PID/cgroup.

        None if it is in no container, or in one whose control group is not mounted.
        """
        paths = _paths(groups)
        # With both versions mounted, as with systemd's hybrid mode, engines use the first.
        for name, mounted in ((_FREEZER, self._freezer), ("", self._unified)):
            path = paths.get(name)
            found = _CONTAINER.search(path) if path is not None else None
            if path is None or mounted is None or found is None:
                continue
            root, point = mounted
            if root == "/":
                return ControlGroup(found[1], point + path, unified=not name)
            if path.startswith(f"{root}/"):
                return ControlGroup(found[1], point + path[len(root) :], unified=not name)
        return None


def container_of(groups: str) -> str | None:
    """Return the id of the container of a process with the content *groups* of /proc/PID/cgroup; None for none."""
    paths = _paths(groups)
    for path in (paths.get(_FREEZER), paths.get("")):
        found = _CONTAINER.search(path) if path is not None else None
        if found is not None:
            return found[1]
    return None


def _paths(groups: str) -> "dict[str, str]":
    """Return the path of the freezer's hierarchy, and that of version 2 as ``""``."""
    paths = {}
    for line in groups.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in (_FREEZER, ""):
                paths[name] = path
    return paths


def text_of(path: str) -> str:
    """Return the content of *path*; empty if it cannot be read, as when its process has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    pieces = []
    try:
        while piece := os.read(descriptor, _PIECE_BYTES):
            pieces.append(piece)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
