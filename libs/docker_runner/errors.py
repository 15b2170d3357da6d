"""Errors between an Executable and its container, grouped by the caller's reaction."""

import errno
import os
from pathlib import Path

from libs.core.errors import Retryable, RuntimeFault, UserError
from libs.docker_runner.engine.room import Shortage

_SHOWN_CHARACTERS = 300


class DockerRunnerError(RuntimeFault):
    """The root of this library's errors."""


# --- transient: retry with backoff


class EngineUnavailable(DockerRunnerError, Retryable):
    """The Docker engine did not answer, or not in time. The requested change may have happened or not."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"Docker engine: {what} failed: {reason}")
        self.what, self.reason = what, reason


class CodeUnavailable(DockerRunnerError, Retryable):
    """The storage or this host's disk cannot provide the code now."""

    def __init__(self, bucket: str, key: str, reason: str) -> None:
        super().__init__(f"code {bucket}/{key} is not available now: {reason}")
        self.bucket, self.key, self.reason = bucket, key, reason


class DataUnavailable(DockerRunnerError, Retryable):
    """The storage or this host's disk cannot provide a data set now."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"data set {name!r} is not available now: {reason}")
        self.name, self.reason = name, reason


class ImageUnavailable(DockerRunnerError, Retryable):
    """The image is not on the engine's host and cannot be pulled from the registry."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"image {image!r} is missing and cannot be pulled: {reason}")
        self.image, self.reason = image, reason


class DiskUnavailable(DockerRunnerError, Retryable):
    """A file cannot be written to this host's disk."""

    def __init__(self, what: str, error: OSError) -> None:
        reason = error.strerror or str(error) or type(error).__name__
        where = f" ({error.filename})" if error.filename else ""
        super().__init__(f"cannot write {what} to this host's disk: {reason}{where}; {_remedy(error)}")
        self.what, self.reason = what, reason


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"make TEMP_DIR writable for user {os.geteuid()} (chown), or set it to another folder"
    if error.errno == errno.EROFS:
        return "mount TEMP_DIR for writing, or set it to a folder on another file system"
    return "make room below TEMP_DIR"


class WorkFolderNotExecutable(DockerRunnerError, UserError):
    """The first process of containers cannot be executed from the worker's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"no program can be executed from {folder}, which is mounted with noexec: mount it with exec, or set "
            "TEMP_DIR to a folder on another file system"
        )
        self.folder = folder


class SandboxUnavailable(DockerRunnerError, Retryable):
    """A required protection of bots cannot be set up, so no bot is started."""


class StartFailed(DockerRunnerError, Retryable):
    """The engine refused to create or start this container; a created one is removed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"container {name} cannot be started: {reason}")
        self.name, self.reason = name, reason


class NoRoom(DockerRunnerError, Retryable):
    """The engine has no room for the container's limits now; nothing was created. Wait for room, without backoff."""

    def __init__(self, name: str, shortage: Shortage) -> None:
        super().__init__(f"container {name} {shortage}; it starts when others end, or on an engine with more room")
        self.name, self.shortage = name, shortage


class NoUser(DockerRunnerError, Retryable):
    """Every user of bots has a live container on the engine; nothing was created."""

    def __init__(self, name: str, users: str) -> None:
        super().__init__(
            f"container {name}: all users of bots, {users}, are taken; it starts when others end, or with a higher "
            "SANDBOX_UID_COUNT"
        )
        self.name, self.users = name, users


class EngineLockUnavailable(DockerRunnerError, Retryable):
    """The lock that serializes reservations of the engine's workers is unusable: its file system refuses."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the engine's lock {path} cannot be taken: {reason}; TEMP_DIR must be writable")
        self.path, self.reason = path, reason


class StopFailed(DockerRunnerError, Retryable):
    """The container could not be confirmed as dead. Treat it as running."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"container {name} may still be running: {reason}")
        self.name, self.reason = name, reason


class StateFenced(DockerRunnerError, Retryable):
    """A later owner of the segment has claimed the state of an entity, so this one must not start it."""

    def __init__(self, entity_id: str) -> None:
        super().__init__(f"the state of {entity_id!r} belongs to a later owner of its segment")


class StateUnavailable(DockerRunnerError, Retryable):
    """The saved state cannot be restored now; without it the bot must not start."""

    def __init__(self, entity_id: str, number: int, reason: str) -> None:
        super().__init__(
            f"version {number} of the state of {entity_id!r} cannot be restored: {reason}; it is not started without "
            "it (`runtime bot state rollback` or `clear` chooses another one)"
        )
        self.reason = reason


class StateUnsaved(DockerRunnerError, Retryable):
    """The last state of a container cannot be saved now; keep the container."""

    def __init__(self, entity_id: str, reason: str) -> None:
        super().__init__(f"the state of {entity_id!r} cannot be saved: {reason}")
        self.reason = reason


class AlreadyRunning(DockerRunnerError, Retryable):
    """Another run of the same entity is alive; *run_id* is its run."""

    def __init__(self, name: str, run_id: str) -> None:
        super().__init__(f"container {name} is busy with run {run_id!r}; stop it or wait for its end")
        self.name, self.run_id = name, run_id


# --- the user's input is wrong: report it, retrying cannot help


class CodeMissing(DockerRunnerError, UserError):
    """The object does not exist."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"there is no code {key!r} in bucket {bucket!r}; upload it again")
        self.bucket, self.key = bucket, key


class CodeReplaced(DockerRunnerError, UserError):
    """The object's content differs from the version that is to run."""

    def __init__(self, bucket: str, key: str, etag: str) -> None:
        super().__init__(f"the code {key!r} in bucket {bucket!r} was replaced; the expected ETag is {etag}")
        self.bucket, self.key, self.etag = bucket, key, etag


class ArchiveRejected(DockerRunnerError, UserError):
    """The bot's archive is unsafe or unreadable."""

    def __init__(self, key: str, entry: str, reason: str) -> None:
        where = f"entry {entry!r} " if entry else ""
        super().__init__(f"archive {key!r}: {where}{reason}")
        self.key, self.entry, self.reason = key, entry, reason


class DataMissing(DockerRunnerError, UserError):
    """There is no data set of this name."""

    def __init__(self, name: str, reason: str = "no data set has this name") -> None:
        super().__init__(f"missing data set {name!r}: {reason}; upload it with `runtime bot data put {name} FILE`")
        self.name, self.reason = name, reason


class DataRejected(DockerRunnerError, UserError):
    """A reference to data sets is malformed, or a data set is too large or damaged. *what* names it."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} {reason}")
        self.what, self.reason = what, reason


class UnknownRuntime(DockerRunnerError, UserError):
    """The bot names an unknown runtime."""

    def __init__(self, runtime: str, known: list[str]) -> None:
        super().__init__(f"unknown runtime {runtime!r}; known are {', '.join(sorted(known))}")
        self.runtime, self.known = runtime, known


class EntrypointMissing(DockerRunnerError, UserError):
    """The file in ``custom.config.entrypoints`` is not in the bot's archive."""

    def __init__(self, script: str, reason: str) -> None:
        super().__init__(f"entrypoint {script!r} {reason}")
        self.script, self.reason = script, reason


class LimitsRejected(DockerRunnerError, UserError):
    """A value in ``config.resources`` is not a number, or exceeds the operator's limit."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"config.resources.{field} = {value!r}: {reason}")
        self.field, self.value, self.reason = field, value, reason


class EgressRejected(DockerRunnerError, UserError):
    """An entry of ``config.egress`` is malformed, or the list cannot be enforced."""

    def __init__(self, entry: object, reason: str) -> None:
        shown = repr(entry)
        shown = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…"
        super().__init__(f"config.egress: {shown} {reason}")
        self.entry, self.reason = entry, reason
