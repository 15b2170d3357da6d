"""What a pod gets before its bot starts: the files of its mounts. Reads them from this host; blocks."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.docker_runner.containers.container import Label
from libs.docker_runner.errors import DockerRunnerError

_OUTCOME = "/outcome"
_KEEPALIVE = "/keepalive"
_DATA = "/data/"
_STATE = "/private/state"
_BASE = "/run/the0"
# The lease of a pod comes over the link, and its only user is the pod's.
_NOT_IN_PODS = re.compile(rb"^(keepalive_ttl_seconds|query_uid)=.*\n", re.MULTILINE)


class NotInPods(DockerRunnerError):
    """The container needs what pods do not have."""


@dataclass(frozen=True)
class SentFile:
    """A regular file."""

    path: str
    source: Path
    mode: int
    content: bytes | None = None


@dataclass(frozen=True)
class SentFolder:
    """A folder, which may be empty."""

    path: str


@dataclass(frozen=True)
class SentLink:
    """A symbolic link."""

    path: str
    target: str


Sent = SentFile | SentFolder | SentLink


def command_of(body: Mapping[str, Any]) -> list[str]:
    """Return the bot's command: that of the container without its init and the init's argument."""
    return list(body["Entrypoint"][2:])


def check(body: Mapping[str, Any]) -> None:
    """Raise NotInPods for a container that cannot be a pod."""
    if body["Labels"].get(Label.ENTRYPOINT) == "query":
        raise NotInPods("queries are not available with ENGINE=kubernetes")
    for mount in body["HostConfig"]["Mounts"]:
        target = mount["Target"]
        if target.startswith(_DATA):
            raise NotInPods("data sets are not available with ENGINE=kubernetes; remove config.data")
        if target == "/etc/hosts":
            raise NotInPods("config.egress is not available with ENGINE=kubernetes")


def sent_of(body: Mapping[str, Any]) -> Iterator[Sent]:
    """Return the files of a container's mounts, in an order in which they can be created."""
    yield SentFolder(f"{_BASE}/private")
    yield SentFolder(f"{_BASE}/written")
    for mount in body["HostConfig"]["Mounts"]:
        target, source = str(mount["Target"]), Path(mount["Source"])
        if target.endswith((_OUTCOME, _KEEPALIVE)):
            continue
        if target.endswith(_STATE):
            yield SentFolder(target)
            restored = source / "restore.tar"
            if restored.exists():
                yield SentFile(f"{target}/restore.tar", restored, 0o644)
        else:
            yield from _below(source, target)


def _below(folder: Path, target: str) -> Iterator[Sent]:
    yield SentFolder(target)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = f"{target}/{entry.name}"
        if entry.is_symlink():
            yield SentLink(path, os.readlink(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), path)
        elif entry.is_file(follow_symlinks=False):
            executable = entry.stat(follow_symlinks=False).st_mode & 0o111
            content = None
            if path == f"{_BASE}/spec/init.conf":
                content = _NOT_IN_PODS.sub(b"", Path(entry.path).read_bytes())
            yield SentFile(path, Path(entry.path), 0o755 if executable else 0o644, content)
