"""Errors between an Executable and its container, by what the caller does next."""

from libs.core.errors import Retryable, RuntimeFault, UserError
from libs.docker_runner.engine.room import Shortage


class DockerRunnerError(RuntimeFault):
    """The root of this library's errors."""


# --- it may pass: try again with backoff


class EngineUnavailable(DockerRunnerError, Retryable):
    """The Docker engine did not answer, or not in time. What was asked for may have happened or not."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"Docker engine: {what} failed: {reason}")
        self.what, self.reason = what, reason


class CodeUnavailable(DockerRunnerError, Retryable):
    """The storage or this host's disk cannot give the code now."""

    def __init__(self, bucket: str, key: str, reason: str) -> None:
        super().__init__(f"code {bucket}/{key} is not available now: {reason}")
        self.bucket, self.key, self.reason = bucket, key, reason


class ImageUnavailable(DockerRunnerError, Retryable):
    """The image is not on the engine's host and the registry does not give it."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"image {image!r} is missing and cannot be pulled: {reason}")
        self.image, self.reason = image, reason


class DiskUnavailable(DockerRunnerError, Retryable):
    """This host's disk does not take a file."""

    def __init__(self, what: str, error: OSError) -> None:
        reason = error.strerror or str(error) or type(error).__name__
        where = f" ({error.filename})" if error.filename else ""
        super().__init__(f"cannot write {what} to this host's disk: {reason}{where}; make room below TEMP_DIR")
        self.what, self.reason = what, reason


class SandboxUnavailable(DockerRunnerError, Retryable):
    """A wall that every bot must stand behind cannot be put up, so that no bot is started."""


class StartFailed(DockerRunnerError, Retryable):
    """The engine answered that it cannot make or start this container; what was made of it is taken away."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"container {name} cannot be started: {reason}")
        self.name, self.reason = name, reason


class NoRoom(DockerRunnerError, Retryable):
    """The engine has no room for the limits of this container now; nothing was made. Wait for room, without backoff."""

    def __init__(self, name: str, shortage: Shortage) -> None:
        super().__init__(f"container {name} {shortage}; it starts when others end, or on an engine with more room")
        self.name, self.shortage = name, shortage


class EngineLockUnavailable(DockerRunnerError, Retryable):
    """The lock under which the engine's workers give its room away cannot be had: its file system refuses."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the engine's lock {path} cannot be taken: {reason}; TEMP_DIR must be writable")
        self.path, self.reason = path, reason


class StopFailed(DockerRunnerError, Retryable):
    """The container could not be shown to be dead. Treat it as running."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"container {name} may still be running: {reason}")
        self.name, self.reason = name, reason


class AlreadyRunning(DockerRunnerError, Retryable):
    """Another run of the same entity is alive; *run_id* is its run."""

    def __init__(self, name: str, run_id: str) -> None:
        super().__init__(f"container {name} is busy with run {run_id!r}; stop it or wait for its end")
        self.name, self.run_id = name, run_id


# --- what a person wrote is wrong: tell them, retrying cannot help


class CodeMissing(DockerRunnerError, UserError):
    """There is no such object."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"there is no code {key!r} in bucket {bucket!r}; upload it again")
        self.bucket, self.key = bucket, key


class CodeReplaced(DockerRunnerError, UserError):
    """The object has other content than the version that is to run."""

    def __init__(self, bucket: str, key: str, etag: str) -> None:
        super().__init__(f"the code {key!r} in bucket {bucket!r} was replaced; the expected ETag is {etag}")
        self.bucket, self.key, self.etag = bucket, key, etag


class ArchiveRejected(DockerRunnerError, UserError):
    """The bot's archive is unsafe or unreadable."""

    def __init__(self, key: str, entry: str, reason: str) -> None:
        where = f"entry {entry!r} " if entry else ""
        super().__init__(f"archive {key!r}: {where}{reason}")
        self.key, self.entry, self.reason = key, entry, reason


class UnknownRuntime(DockerRunnerError, UserError):
    """The bot names a runtime that there is not."""

    def __init__(self, runtime: str, known: list[str]) -> None:
        super().__init__(f"unknown runtime {runtime!r}; known are {', '.join(sorted(known))}")
        self.runtime, self.known = runtime, known


class EntrypointMissing(DockerRunnerError, UserError):
    """The file that ``custom.config.entrypoints`` names is not in the bot's archive."""

    def __init__(self, script: str, reason: str) -> None:
        super().__init__(f"entrypoint {script!r} {reason}")
        self.script, self.reason = script, reason


class LimitsRejected(DockerRunnerError, UserError):
    """``config.resources`` asks for something that is no number, or for more than the operator allows."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"config.resources.{field} = {value!r}: {reason}")
        self.field, self.value, self.reason = field, value, reason
