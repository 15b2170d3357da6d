"""An executable: everything about one container that is known before the engine is called."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from libs.core.room import Need
from libs.docker_runner.containers.json_text import to_json
from libs.docker_runner.containers.names import container_name
from libs.docker_runner.engine.room import Priority, RoomRequest

MIB = 1024 * 1024


NODE_SUFFIXES = (".js", ".mjs", ".cjs")


def script_files(script: str, runtime: str) -> list[str]:
    """The files that *script* may mean, best first: for Node it may lack its suffix."""
    return [script, *(script + suffix for suffix in NODE_SUFFIXES)] if runtime.startswith("node") else [script]


def new_run_id() -> str:
    """An id that no other run has."""
    return uuid.uuid4().hex


class Entrypoint(StrEnum):
    """Which of the bot's files is run, and by what names it sees itself."""

    BOT = "bot"
    BACKTEST = "backtest"


class Network(StrEnum):
    """What a container can reach.

    BRIDGE: the internet, but neither other containers nor the link-local metadata address. NONE: nothing.
    HOST: everything the host can; no isolation at all.
    """

    BRIDGE = "bridge"
    NONE = "none"
    HOST = "host"


@dataclass(frozen=True)
class CodeRef:
    """Where the bot's archive is in object storage."""

    bucket: str
    key: str


@dataclass(frozen=True)
class NetworkLimits:
    """What one container may use of the host's network.

    Attributes:
        connections: open at the same time, as the kernel's connection tracking counts them; UDP exchanges included.
        new_per_second: TCP connections; ten times as many in one go after a pause.
        packets_per_second, bytes_per_second: what it sends; the rest is dropped.
    """

    connections: int = 1024
    new_per_second: int = 50
    packets_per_second: int = 20_000
    bytes_per_second: int = 25_000_000


@dataclass(frozen=True)
class Limits:
    """What one container may use. See :mod:`libs.docker_runner.sandbox.limits` for how a bot asks for other values.

    Attributes:
        memory_bytes: resident memory with page cache and /tmp; there is no swap. Beyond it the kernel kills.
        cpu_shares: weight against other containers when the CPUs are busy; 1024 is the usual one.
        cpus: the CPUs it may keep busy at most, such as 0.5; None for no such limit.
        pids: processes and threads.
        tmp_bytes: size of /tmp, the only place it can write to; counts as memory.
        open_files: open files of one process.
        result_bytes: the JSON of what ``main`` returns.
        output_bytes_per_second: a bot that prints faster in the long run is slowed down, and loses nothing.
        output_burst_bytes: what it may print at full speed before that.
    """

    memory_bytes: int = 512 * MIB
    cpu_shares: int = 1024
    cpus: float | None = None
    pids: int = 256
    tmp_bytes: int = 64 * MIB
    open_files: int = 4096
    result_bytes: int = 16 * MIB
    output_bytes_per_second: int = MIB
    output_burst_bytes: int = 32 * MIB

    @property
    def need(self) -> Need:
        """What of it counts against the engine's room."""
        return Need(self.memory_bytes, self.cpus or 0.0)

    def room(self, name: str, priority: Priority) -> RoomRequest:
        """What the container *name* with these limits needs of the engine."""
        return RoomRequest(name, self.need, priority)


@dataclass(frozen=True)
class Placement:
    """What the operator's settings say about where a bot of some runtime runs: made by ``RunnerSettings.placement``.

    ``container_runtime`` is the engine's name of a runtime such as ``runsc``; None is the engine's default.
    """

    image: str
    network: Network = Network.BRIDGE
    container_runtime: str | None = None


@dataclass(frozen=True)
class Executable:
    """One bot, backtest or scheduled run, ready to become a container.

    Attributes:
        id: any string somebody chose; it becomes no part of a path.
        service: the service's name, such as ``bot-runner``.
        scope: the deployment id: containers of other scopes are never touched.
        runtime: ``python3.11`` or ``nodejs20``.
        script: the entrypoint file's path inside the archive.
        code_etag: the version of the code object to run; None for the one that it has at the start.
        config: handed to ``main``; a secret.
        segment, epoch, worker, run_id, revision: labels, for the next owner; no reason to restart.
        keepalive: the folder of :class:`~libs.docker_runner.containers.keepalive.KeepaliveFile`; None for no dead-man's
            switch.
        traceparent: W3C trace context for the bot's process.
        priority: how much of the engine's room its start leaves free for others; no reason to restart either.
    """

    id: str
    service: str
    scope: str
    runtime: str
    entrypoint: Entrypoint
    script: str
    code: CodeRef
    placement: Placement
    version: str = ""
    config: Mapping[str, object] = field(default_factory=dict, repr=False)
    limits: Limits = field(default_factory=Limits)
    segment: int = -1
    epoch: int = 0
    worker: str = ""
    run_id: str = ""
    revision: int = 0
    keepalive: Path | None = None
    traceparent: str | None = None
    priority: Priority = Priority.BOT
    code_etag: str | None = None

    @property
    def room(self) -> RoomRequest:
        """What its container needs of the engine."""
        return self.limits.room(container_name(self.service, self.scope, self.id), self.priority)

    @cached_property
    def config_json(self) -> str:
        """The config as one line of JSON, in its own order. NaN and infinities, which JSON has not, become null."""
        return to_json(self.config)

    def spec_hash(self) -> str:
        """A digest of everything that needs a restart when it changes; the code's ETag is a label of its own."""
        return self._spec_hash

    @cached_property
    def _spec_hash(self) -> str:
        spec = {
            "runtime": self.runtime,
            "entrypoint": self.entrypoint,
            "script": self.script,
            "code": asdict(self.code),
            "version": self.version,
            "placement": asdict(self.placement),
            "limits": asdict(self.limits),
            "config": json.loads(self.config_json),
        }
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
