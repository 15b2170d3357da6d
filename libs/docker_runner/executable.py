"""An executable: everything about one container that is known before the engine is called."""

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from libs.core.room import MIB, Need
from libs.docker_runner.containers.names import container_name
from libs.docker_runner.engine.room import Priority, RoomRequest

NODE_SUFFIXES = (".js", ".mjs", ".cjs")


def script_files(script: str, runtime: str) -> list[str]:
    """Return the files that *script* may mean, best first: for Node the suffix is optional."""
    return [script, *(script + suffix for suffix in NODE_SUFFIXES)] if runtime.startswith("node") else [script]


def new_run_id() -> str:
    """Return a unique id of a run."""
    return uuid.uuid4().hex


class Entrypoint(StrEnum):
    """The entry of the bot that is run, and the names of its environment."""

    BOT = "bot"
    BACKTEST = "backtest"


class Network(StrEnum):
    """The networks that a container can reach.

    BRIDGE: the internet, but neither other containers nor the link-local metadata address. NONE: nothing.
    HOST: everything that the host can reach; no isolation. CLUSTER: of a pod, as the cluster's policies permit.
    """

    BRIDGE = "bridge"
    NONE = "none"
    HOST = "host"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class CodeRef:
    """The location of the bot's archive in object storage."""

    bucket: str
    key: str
    sha256: str | None = None


@dataclass(frozen=True)
class NetworkLimits:
    """The limits of one container on the host's network.

    Attributes:
        connections: maximum open at once, as counted by the kernel's connection tracking, including UDP exchanges.
        new_per_second: TCP connections; ten times as many in one burst after a pause.
        packets_per_second, bytes_per_second: of sent packets; the excess is dropped.
        received_bytes_per_second: the same of received ones.
    """

    connections: int = 1024
    new_per_second: int = 50
    packets_per_second: int = 20_000
    bytes_per_second: int = 25_000_000
    received_bytes_per_second: int = 50_000_000


@dataclass(frozen=True)
class Limits:
    """The limits of one container. See :mod:`libs.docker_runner.sandbox.limits` for requests of other values.

    Attributes:
        memory_bytes: resident memory with page cache, /tmp and /state, without swap. Beyond it the kernel kills.
        cpu_shares: weight against other containers when the CPUs are busy; 1024 is the default.
        cpus: maximum number of CPUs, such as 0.5; None for no limit.
        pids: processes and threads.
        tmp_bytes: size of /tmp; counts as memory.
        open_files: open files of one process.
        result_bytes: maximum size of the JSON that ``main`` returns.
        output_bytes_per_second: output rate above which a bot is throttled, without loss.
        output_burst_bytes: output at full speed before that.
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
        """The part that counts against the engine's room."""
        return Need(self.memory_bytes, self.cpus or 0.0)

    def room(self, name: str, priority: Priority) -> RoomRequest:
        """Return the room request of the container *name* with these limits."""
        return RoomRequest(name, self.need, priority)


@dataclass(frozen=True)
class Placement:
    """The operator's settings for bots of one runtime, made by ``RunnerSettings.placement``.

    ``container_runtime`` is the engine's name of a runtime such as ``runsc``; None for the engine's default.
    """

    image: str
    network: Network = Network.BRIDGE
    container_runtime: str | None = None


@dataclass(frozen=True)
class Question:
    """One question to the entrypoint ``query``; *parameters* is a JSON object as text."""

    path: str
    parameters: str


@dataclass(frozen=True)
class Executable:
    """One bot, backtest or scheduled run, ready to be started in a container.

    Attributes:
        id: any string; never used in a path.
        service: the service's name, such as ``bot-runner``.
        scope: the deployment id; containers of other scopes are never changed.
        runtime: ``python3.11`` or ``nodejs20``.
        script: the entrypoint file's path inside the archive.
        code_etag: the version of the code object to run; None for the current one at the start.
        config: passed to ``main``; a secret. References to secrets in it are resolved at the start.
        owner: whose secrets it may refer to; empty for none.
        environment: more variables for its process, which the engine shows; only of runs in the foreground.
        query: the file that answers queries beside the bot; None: there is none.
        question: for a container that only answers it, by *script*; any number of them may run beside the entity's own.
        egress: the hosts that it may reach, as in its config and as one line (``api.example.com:443,…``); None for all
            public ones.
        data: names of the data sets that are mounted, each in its version at the start.
        segment, epoch, worker, run_id, revision: labels, for the next owner; a change needs no restart.
        keepalive: the folder of :class:`~libs.docker_runner.containers.keepalive.KeepaliveFile`; None for no dead-man's
            switch.
        traceparent: W3C trace context for the bot's process.
        restart: the id of a requested restart; "" without one.
        priority: the share of the engine's room that its start leaves free for others; a change needs no restart.
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
    owner: str = ""
    egress: str | None = None
    restart: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: str | None = None
    question: Question | None = None
    data: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its container: one for each entity, and one for each question."""
        entity_id = self.id if self.question is None else f"{self.id}\0{self.run_id}"
        return container_name(self.service, self.scope, entity_id)

    @property
    def need(self) -> Need:
        """The part of its limits that counts against the engine's room and its owner's quota."""
        return self.limits.need

    @property
    def has_state(self) -> bool:
        """Whether it starts with the saved state; the /state of a backtest is empty."""
        return self.entrypoint is Entrypoint.BOT

    @property
    def keeps_state(self) -> bool:
        """Whether what it changes in its state is saved; what a query changes is not."""
        return self.has_state and self.question is None

    @property
    def room(self) -> RoomRequest:
        """The room that its container needs."""
        return self.limits.room(self.name, self.priority)

    @cached_property
    def config_json(self) -> str:
        """The config as one line of JSON, in its own order. NaN and infinities, which JSON lacks, become null."""
        return to_json(self.config)

    def spec_hash(self) -> str:
        """A digest of everything whose change requires a restart; the code's ETag is a separate label."""
        return self._spec_hash

    @cached_property
    def _spec_hash(self) -> str:
        spec = {
            "runtime": self.runtime,
            "entrypoint": self.entrypoint,
            "script": self.script,
            # Without a digest, the hash equals that of versions before digests, so that an upgrade restarts no bot.
            "code": {name: value for name, value in asdict(self.code).items() if value is not None},
            "version": self.version,
            "placement": asdict(self.placement),
            "limits": asdict(self.limits),
            "config": json.loads(self.config_json),
        }
        if self.restart:
            spec["restart"] = self.restart
        if self.query is not None:
            # Otherwise the hash equals that of versions before queries.
            spec["query"] = self.query
        if self.data:
            spec["data"] = list(self.data)
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def to_json(value: object) -> str:
    """Return *value* as compact JSON. NaN and infinities become null, dates ISO 8601, other types their ``str``."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except ValueError:
        # Searching for them first would traverse every other value.
        return json.dumps(_without_nan(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    return _without_nan(_plain(value))
