"""The files of one start on the engine's host: the bot's input and output. Blocks briefly.

The parent folders are closed to other users of the host, since the config has the bot's keys; the container sees only
the mounted folders.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from libs.core.hostile_json import Bounds, Refused, parse
from libs.core.secrets.references import references_in
from libs.core.secrets.resolver import Resolved
from libs.docker_runner.containers import keepalive
from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.containers.entrypoint_files import install_entrypoints
from libs.docker_runner.containers.failure import Failure, failure_from
from libs.docker_runner.containers.names import run_folder, scope_folder
from libs.docker_runner.containers.reported import REPORT_BYTES, Report, report_in
from libs.docker_runner.containers.returned import NO_PAYLOAD, SMALL_BYTES, Payload
from libs.docker_runner.containers.standby_folder import StandbyFolder
from libs.docker_runner.errors import WorkFolderNotExecutable
from libs.docker_runner.executable import Executable, Network, to_json
from libs.docker_runner.sandbox.container_spec import STATE as STATE_FOLDER
from libs.docker_runner.sandbox.container_spec import STATE_FILES, Paths, code_mount
from libs.docker_runner.state.folder import StateFolder, StateOf
from libs.docker_runner.state.kept import KeptStates
from libs.docker_runner.usage.stats import Stats

# The init's notes have one level and a dozen values.
HEAD_BOUNDS = Bounds(bytes=4096, depth=4, values=256)
_WORD_CHARACTERS = 64
# Beside the spec, outside of the container.
_VALUES = "secret-values.json"
_REFERENCES = "references.json"
_HOSTS = "hosts"
_STATE = "state"
_STANDBY = "standby"

_REPORTING = ("result", "written")

# As defined by the init.
_NOTE_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """The init's notes: *kind* is ``result``, ``error``, ``written`` or ``none``, and *payload* its JSON.

    ``written`` is the result that a bot wrote into its ``result.json`` before it ended with a non-zero exit code.

    While the bot runs, *reason* is ``running`` and the numbers are a few seconds old; *stats* needs all of them.
    It comes from the container, and is trusted only about the container itself.

    Attributes:
        too_large: it exceeds the requested limit, so there is no *payload*.
        report: in a small result, about the run; None without one.
    """

    reason: str = ""
    kind: str = "none"
    payload: Payload = NO_PAYLOAD
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    oom_kills: int = 0
    too_large: bool = False
    stats: Stats | None = None
    failure: Failure | None = None
    report: Report | None = None

    def discard(self) -> None:
        """Remove the file of its payload. May be repeated."""
        if self.payload.path is not None:
            self.payload.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class References:
    """The references to secrets of one start, and the owner whose secrets they are."""

    config: Mapping[str, object]
    owner: str


class RunFolders:
    """The folders below *temp_dir* (``runs``, ``outputs``, ``states``, ``entrypoints``).

    Specs with secrets are in *spec_dir*.
    """

    def __init__(self, temp_dir: Path, spec_dir: Path | None = None) -> None:
        self._temp_dir = temp_dir
        self._specs = spec_dir or temp_dir / "specs"
        self._runs = temp_dir / "runs"
        self._outputs = temp_dir / "outputs"
        # In the same file system as the runs, whose archives are linked.
        self._states = temp_dir / "states"
        self._entrypoints: Path | None = None

    def prepare(self) -> None:
        """Create the folders, and copy the entrypoints to a folder that the engine sees. May be repeated.

        Raises:
            WorkFolderNotExecutable: the containers' first process could not be executed from there.
        """
        self._temp_dir.mkdir(parents=True, exist_ok=True)
        for closed in (self._runs, self._outputs, self._states):
            closed.mkdir(mode=0o700, exist_ok=True)
        self._specs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._specs.chmod(0o700)
        if os.statvfs(self._temp_dir).f_flag & os.ST_NOEXEC:
            raise WorkFolderNotExecutable(self._temp_dir)
        self._entrypoints = install_entrypoints(self._temp_dir / "entrypoints")

    @property
    def entrypoints(self) -> Path:
        """The folder of the copied entrypoints.

        Raises:
            RuntimeError: before :meth:`prepare`.
        """
        if self._entrypoints is None:
            raise RuntimeError("the folders are not prepared")
        return self._entrypoints

    def create(
        self,
        executable: Executable,
        name: str,
        token: str,
        code: Path,
        traceparent: str | None = None,
        resolved: Resolved | None = None,
        *,
        is_standby: bool = False,
    ) -> Paths:
        """Write the input of the container *name* into a new folder, but for that of its init; see :meth:`tell_init`.

        Args:
            traceparent: for its environment.
            resolved: its config with the values of secrets; None for a config without references.
            is_standby: its init waits for :meth:`StandbyFolder.let_go`.
        """
        folder = run_folder(self._runs, executable.scope, name, token)
        folder.mkdir(parents=True)
        closed = folder
        if resolved is not None and resolved.values:
            closed = run_folder(self._specs, executable.scope, name, token)
            closed.mkdir(parents=True)
            self._write_secrets(folder, closed, executable, resolved)
        narrowed = executable.egress is not None and executable.placement.network is Network.BRIDGE
        hosts = folder / _HOSTS if narrowed else None
        state = StateFolder(folder / _STATE, token) if executable.has_state else None
        standby = StandbyFolder(folder / _STANDBY, f"{token}.{executable.epoch}") if is_standby else None
        paths = Paths(code, closed / "spec", folder / "outcome", self.entrypoints, hosts, state=state, standby=standby)
        paths.spec.mkdir()
        spec = {
            "id": executable.id,
            "entrypoint": str(executable.entrypoint),
            "script": executable.script,
            "mount": code_mount(executable.entrypoint),
            "traceparent": traceparent,
            "query": executable.query if executable.question is None else executable.script,
            "question": asdict(executable.question) if executable.question is not None else None,
        }
        _write(paths.spec / "spec.json", json.dumps(spec).encode(), 0o444)
        config = executable.config_json if resolved is None else to_json(resolved.config)
        _write(paths.spec / "config.json", config.encode(), 0o444)
        if hosts is not None:
            _write(hosts, b"", 0o644)
        # The container's root has no privileges over files; the bot cannot reach this one.
        _write(paths.outcome, b"", 0o666)
        for open_folder in (folder, paths.spec):
            open_folder.chmod(0o755)
        if standby is not None:
            standby.create()
        if state is not None:
            state.create(StateOf(executable.id, executable.service, executable.segment, executable.run_id))
        return paths

    @staticmethod
    def tell_init(
        paths: Paths, executable: Executable, user: int, state_bytes: int, query_user: int | None = None
    ) -> None:
        """Write the input of the container's init: the limits, the lease, and the users. May be repeated.

        Args:
            user: of the bot.
            state_bytes: the limit of its state.
            query_user: of the process that answers queries beside it; None without one.
        """
        limits = executable.limits
        init = {
            "uid": user,
            "gid": user,
            "result_bytes": limits.result_bytes,
            "output_bytes_per_second": limits.output_bytes_per_second,
            "output_burst_bytes": limits.output_burst_bytes,
            "state": STATE_FOLDER,
            "state_bytes": state_bytes,
            "state_files": STATE_FILES,
            "state_kept": int(executable.keeps_state),
            "state_restored": int(paths.state is not None and paths.state.restored.exists()),
        }
        if query_user is not None:
            init["query_uid"] = query_user
        if paths.standby is not None:
            init["standby"] = paths.standby.word
        lines = [f"{name}={value}\n" for name, value in init.items()]
        if executable.keepalive is not None:
            lines.append(f"keepalive_ttl_seconds={keepalive.seconds_left(executable.keepalive):.3f}\n")
        path = paths.spec / "init.conf"
        # Not written in place: it is read-only, also for a worker that is not root.
        path.unlink(missing_ok=True)
        _write(path, "".join(lines).encode(), 0o444)

    def standby(self, container: ManagedContainer) -> StandbyFolder:
        """Return the folder for the word to start of *container*, which was a standby."""
        return StandbyFolder(self._folder(container) / _STANDBY)

    def hosts_file(self, container: ManagedContainer) -> Path:
        """Return the path of its hosts file, which only a container with an allow-list of hosts has."""
        return self._folder(container) / _HOSTS

    def references(self, container: ManagedContainer) -> References | None:
        """Return the references in the config of *container*; None when there are none."""
        try:
            found = json.loads((self._folder(container) / _REFERENCES).read_text())
        except FileNotFoundError:
            return None
        return References({"references": found["references"]}, found["owner"])

    def secret_values(self, container: ManagedContainer) -> list[str] | None:
        """Return the values of its secrets; None after :meth:`remove_spec`."""
        folder = run_folder(self._specs, container.scope, container.name, container.token)
        try:
            return [str(value) for value in json.loads((folder / _VALUES).read_text())]
        except FileNotFoundError:
            return None

    def specs(self, scope: str) -> list[tuple[str, str, float]]:
        """Return the specs with secrets of *scope*, as :meth:`starts` does."""
        return _starts(scope_folder(self._specs, scope))

    def remove_spec(self, scope: str, name: str, token: str) -> None:
        """Remove the spec with secrets of one start whose container does not run. May be repeated."""
        _remove(run_folder(self._specs, scope, name, token))

    def read_outcome(self, container: ManagedContainer, limit_bytes: int = 0) -> Outcome:
        """Return the notes of *container*'s init; empty when missing or malformed.

        Args:
            limit_bytes: of the payload. A large one stays in the file, which :meth:`keep_payload` preserves.
        """
        path = self._folder(container) / "outcome"
        try:
            with open_regular(path) as file:
                line = file.readline(HEAD_BOUNDS.bytes)
                size = os.fstat(file.fileno()).st_size - len(line)
                too_large = size > limit_bytes
                small = size <= SMALL_BYTES and not too_large
                # Not to its end, which may change.
                text = file.read(SMALL_BYTES) if small or size <= REPORT_BYTES else b""
        except OSError:
            return Outcome()
        parsed = parse(line, HEAD_BOUNDS)
        if isinstance(parsed, Refused) or not isinstance(parsed.value, dict):
            return Outcome()
        head = parsed.value
        kept = small or too_large
        kind = _word(head.get("kind"), "none")
        return Outcome(
            reason=_word(head.get("reason"), ""),
            kind=kind,
            payload=Payload(text if small else b"") if kept else Payload(path=path, begin=len(line)),
            cpu_seconds=_number(head.get("cpu_seconds")),
            peak_memory_bytes=int(peak) if (peak := _number(head.get("peak_memory_bytes"))) is not None else None,
            oom_kills=int(_number(head.get("oom_kills")) or 0),
            too_large=too_large,
            stats=_stats(head),
            failure=failure_from(head.get("failure")),
            report=report_in(text) if kind in _REPORTING and size <= REPORT_BYTES else None,
        )

    def keep_payload(self, outcome: Outcome, path: Path) -> Outcome:
        """Return *outcome* with its payload file, if any, moved to *path*, so that the run's folder can be removed."""
        if outcome.payload.path is None:
            return outcome
        try:
            outcome.payload.path.rename(path)
        except OSError:
            return replace(outcome, reason="", payload=NO_PAYLOAD)
        return replace(outcome, payload=replace(outcome.payload, path=path))

    def read_stats(self, container: ManagedContainer) -> Stats | None:
        """Return its init's latest notes; None when they are missing, incomplete, or older than two intervals."""
        try:
            age = time.time() - (self._folder(container) / "outcome").lstat().st_mtime
        except OSError:
            return None
        found = self.read_outcome(container)
        return found.stats if found.reason == "running" and age < _NOTE_SECONDS * 2 else None

    def mark_stopped(self, container: ManagedContainer, reason: EndReason) -> None:
        """Record why *container* was ended, for its reaping. The first reason stays."""
        try:
            descriptor = os.open(self._folder(container) / "stopped", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except (FileExistsError, FileNotFoundError):
            return
        with os.fdopen(descriptor, "w") as file:
            file.write(reason)

    def stop_reason(self, container: ManagedContainer) -> EndReason | None:
        """Return the reason recorded by :meth:`mark_stopped`; None without one."""
        try:
            return EndReason((self._folder(container) / "stopped").read_text())
        except (OSError, ValueError):
            return None

    def output_path(self, container: ManagedContainer) -> Path:
        """Return the path for the output of a run; its folder is created."""
        folder = scope_folder(self._outputs, container.scope)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{container.name}-{container.token}.log"

    def remove(self, scope: str, name: str, token: str) -> None:
        """Remove the folder of one start. May be repeated."""
        if not token:
            return
        self.remove_spec(scope, name, token)
        _remove(run_folder(self._runs, scope, name, token))

    def starts(self, scope: str) -> list[tuple[str, str, float]]:
        """Return all folders of *scope*: container name, token, and Unix seconds of their creation."""
        return _starts(scope_folder(self._runs, scope))

    def state(self, container: ManagedContainer) -> StateFolder:
        """Return the folder for the state of *container*, which need not exist."""
        return StateFolder(self._folder(container) / _STATE, container.token)

    def kept_states(self, scope: str) -> KeptStates:
        """Return the last states of ended containers in *scope*."""
        return KeptStates(scope_folder(self._states, scope))

    def states(self, scope: str) -> list[StateFolder]:
        """Return those of all starts in *scope*."""
        folders = (StateFolder(begun / _STATE, begun.name) for begun in self._begun(scope))
        return [folder for folder in folders if folder.path.exists()]

    def _begun(self, scope: str) -> Iterable[Path]:
        return (begun for named in _entries(scope_folder(self._runs, scope)) for begun in _entries(named))

    def remove_outputs(self, scope: str, older_than: float) -> None:
        """Remove outputs from before *older_than* (Unix seconds) that were not taken."""
        for path in _entries(scope_folder(self._outputs, scope)):
            try:
                if path.stat().st_mtime < older_than:
                    path.unlink()
            except FileNotFoundError:
                continue

    @staticmethod
    def _write_secrets(folder: Path, closed: Path, executable: Executable, resolved: Resolved) -> None:
        references = [{str(found.kind): found.text} for found in references_in(executable.config)]
        named = {"owner": executable.owner, "references": references}
        # First, so that a spec with secrets never is without it.
        _write(folder / _REFERENCES, json.dumps(named).encode(), 0o600)
        _write(closed / _VALUES, json.dumps(resolved.values).encode(), 0o600)

    def _folder(self, container: ManagedContainer) -> Path:
        return run_folder(self._runs, container.scope, container.name, container.token)


def open_regular(path: Path) -> BinaryIO:
    """Open for reading a file that a container may have written or replaced; never waits, follows no link.

    Raises:
        OSError: there is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _write(path: Path, content: bytes, mode: int) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _starts(folder: Path) -> list[tuple[str, str, float]]:
    found = []
    for named in _entries(folder):
        for begun in _entries(named):
            try:
                found.append((named.name, begun.name, begun.stat().st_mtime))
            except FileNotFoundError:
                continue
    return found


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:
        # Another start of the same entity has its folder there, or it is gone.
        return


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stats(head: Mapping[str, object]) -> Stats | None:
    """Return all numbers of a sample; None when one of them is unknown."""
    names = ("memory_bytes", "memory_limit_bytes", "cpu_seconds", "pids", "received_bytes", "sent_bytes")
    memory, limit, cpu, pids, received, sent = (_number(head.get(name)) for name in names)
    if memory is None or limit is None or cpu is None or pids is None or received is None or sent is None:
        return None
    peak = _number(head.get("peak_memory_bytes"))
    return Stats(
        # Memory that the kernel reclaims at once does not count; as in `docker stats`.
        memory_bytes=int(max(0.0, memory - (_number(head.get("inactive_bytes")) or 0.0))),
        memory_limit_bytes=int(limit),
        cpu_seconds=cpu,
        pids=int(pids),
        network_received_bytes=int(received),
        network_sent_bytes=int(sent),
        peak_memory_bytes=int(peak) if peak is not None else None,
    )


def _word(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) and value.isascii() and len(value) <= _WORD_CHARACTERS else otherwise


def _number(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return float(value) if good else None  # type: ignore[arg-type]
