"""A container's labels and state, and the way it ended."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from libs.core.room import Need
from libs.docker_runner.containers.failure import Failure
from libs.docker_runner.containers.names import standby_name
from libs.docker_runner.containers.returned import Returned
from libs.docker_runner.executable import Entrypoint

FORMER_USER = 10_001
"""The user of the bots in all containers of versions before the label of it."""
_INTEGER_CHARACTERS = 20


class Label(StrEnum):
    """The labels of a managed container; the first four are the contract's."""

    MANAGED = "runtime.managed"
    ID = "runtime.id"
    ENTRYPOINT = "runtime.entrypoint"
    SEGMENT = "runtime.segment"
    SERVICE = "runtime.service"
    SCOPE = "runtime.scope"
    SPEC_HASH = "runtime.spec-hash"
    CODE_ETAG = "runtime.code-etag"
    REVISION = "runtime.revision"
    RUN_ID = "runtime.run-id"
    EPOCH = "runtime.epoch"
    WORKER = "runtime.worker"
    KEEPALIVE = "runtime.keepalive"
    TOKEN = "runtime.token"  # noqa: S105 - the last part of its folder's name, no secret
    MEMORY = "runtime.memory-bytes"
    CPUS = "runtime.cpus"
    SECRETS = "runtime.secrets"
    EGRESS = "runtime.egress"
    USER = "runtime.user"
    RESTART = "runtime.restart"
    QUERY_USER = "runtime.query-user"
    QUERY_RUNTIME = "runtime.query-runtime"
    STANDBY = "runtime.standby"


class ContainerState(StrEnum):
    """CREATED: not started yet, or its start failed. RUNNING: its process lives (a paused one counts)."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class EndReason(StrEnum):
    """Why a container is no longer running.

    FINISHED: exit code 0 by itself. ERROR: another exit code by itself. OOM: the kernel killed it for its memory.
    TIMEOUT: :meth:`DockerRunner.stop` ended it after its time limit. STOPPED: the same, for another reason. LEASE_LOST:
    its dead-man's switch ended it. KILLED: a signal from outside of the runtime. MISSING: it was removed, so the reason
    is unknown. Of a pod alone: NODE_LOST: its node could not be reached until no lease kept it alive. EVICTED: its node
    ended it, to save a resource.
    """

    FINISHED = "finished"
    ERROR = "error"
    OOM = "oom"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    LEASE_LOST = "lease-lost"
    KILLED = "killed"
    MISSING = "missing"
    NODE_LOST = "node-lost"
    EVICTED = "evicted"


@dataclass(frozen=True)
class ManagedContainer:
    """One managed container, as the engine described it at one time. Times are UTC.

    Attributes:
        id: the entity's id; the engine's id is *container_id*.
        exit_code: None while it runs.
        limits: by its labels; None for one of an older version without such labels.
        keepalive: the folder with the lease file that it watches; "" for one of an older version.
        secrets: how the values of its secrets are found (``secret_label``); "" without secrets, and for one of an older
            version.
        egress: the hosts that it may reach, as in :class:`Executable`; None for all public ones.
        refused: addresses with ports that it was refused in the last minutes: its egress does not list them, or no bot
            may reach them.
        state_problem: a sentence about why its latest state is not saved; "" when it is.
        user: the number of the user and of the group of its bot.
        restart: as in :class:`Executable`; "" without one, and for a container of an older version.
        name: by which the engine has it once it runs its bot; a standby has another one until then.
        is_standby: it has the name of a standby, and runs nothing of its bot.
        was_standby: it was started as a standby.
    """

    container_id: str
    name: str
    id: str
    service: str
    scope: str
    entrypoint: Entrypoint
    segment: int
    spec_hash: str
    code_etag: str
    revision: int
    run_id: str
    epoch: int
    worker: str
    token: str = field(repr=False)
    state: ContainerState = ContainerState.RUNNING
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    created_at: datetime | None = None
    limits: Need | None = None
    keepalive: str = ""
    secrets: str = field(default="", repr=False)
    egress: str | None = None
    refused: Sequence[str] = ()
    state_problem: str = ""
    user: int = FORMER_USER
    restart: str = ""
    query_user: int | None = None
    query_runtime: str = ""
    is_standby: bool = False
    was_standby: bool = False

    @property
    def reservation(self) -> str:
        """The name under which it counts in the engine's room."""
        return standby_name(self.name) if self.is_standby else self.name


@dataclass(frozen=True)
class Ended:
    """How a container ended.

    Attributes:
        finished_at: by the engine's clock. After SIGKILL, the time of the signal; otherwise the time of the engine's
            event, which may be half a second late when thirty end at once.
        peak_memory_bytes: the maximum use of the whole container, with page cache. Exact, but up to 10 s old when
            it was killed from outside, and None when that was in its first second.
        cpu_seconds: of all its processes, likewise.
        last_lines: the end of its output, at most :data:`~libs.docker_runner.logs.output.LAST_LINES` lines.
        error: the engine's message about a failed start; empty otherwise.
        failure: the bot's failure; None when it finished, and when it did not end by itself.
        message: in its result, about a run that finished; empty without one.
    """

    container: ManagedContainer
    exit_code: int | None
    oom_killed: bool
    reason: EndReason
    started_at: datetime | None
    finished_at: datetime | None
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    last_lines: Sequence[str] = ()
    error: str = ""
    failure: Failure | None = None
    message: str = ""

    @property
    def duration_seconds(self) -> float | None:
        """How long it ran; None when it never ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run.

    Attributes:
        returned: the return value of ``main``; None without one, and when *failure* is the reason.
        failure: why there is no result; None when ``main`` returned.
        output_path: stdout and stderr in their order, in a file of the caller's, who removes it with the file of a
            large result by :meth:`discard`.
        output_truncated: the file has only the first part, since it exceeded the limit.
    """

    ended: Ended
    returned: Returned | None
    failure: Failure | None
    output_path: Path
    output_truncated: bool = False

    @property
    def result(self) -> object:
        """The value that ``main`` returned. Only for a result that is known to be small."""
        return self.returned.value() if self.returned is not None else None

    @property
    def result_error(self) -> str | None:
        """One sentence when there is no result."""
        return (self.failure.message or self.failure.summary) if self.failure is not None else None

    @property
    def succeeded(self) -> bool:
        """Whether ``main`` returned and its result is available."""
        return self.ended.reason is EndReason.FINISHED and self.failure is None

    def discard(self) -> None:
        """Remove the files. May be repeated."""
        self.output_path.unlink(missing_ok=True)
        if self.returned is not None:
            self.returned.discard()


def from_labels(
    labels: Mapping[str, str],
    *,
    container_id: str,
    name: str,
    state: ContainerState,
    exit_code: int | None = None,
    oom_killed: bool = False,
    started_at: datetime | None = None,
    finished_at: datetime | None = None,
    created_at: datetime | None = None,
) -> ManagedContainer:
    """Return the container with these labels. Missing or malformed labels become neutral values, never an error.

    Args:
        name: by which the engine has it now.
    """
    own_name = labels.get(Label.STANDBY) or name
    entrypoint = labels.get(Label.ENTRYPOINT, "")
    return ManagedContainer(
        container_id=container_id,
        name=own_name,
        is_standby=Label.STANDBY in labels and name == standby_name(own_name),
        was_standby=Label.STANDBY in labels,
        id=labels.get(Label.ID, ""),
        service=labels.get(Label.SERVICE, ""),
        scope=labels.get(Label.SCOPE, ""),
        entrypoint=Entrypoint(entrypoint) if entrypoint in set(Entrypoint) else Entrypoint.BOT,
        segment=_integer(labels.get(Label.SEGMENT), -1),
        spec_hash=labels.get(Label.SPEC_HASH, ""),
        code_etag=labels.get(Label.CODE_ETAG, ""),
        revision=_integer(labels.get(Label.REVISION), 0),
        run_id=labels.get(Label.RUN_ID, ""),
        epoch=_integer(labels.get(Label.EPOCH), 0),
        worker=labels.get(Label.WORKER, ""),
        token=labels.get(Label.TOKEN, ""),
        keepalive=labels.get(Label.KEEPALIVE, ""),
        secrets=labels.get(Label.SECRETS, ""),
        egress=labels.get(Label.EGRESS),
        user=_integer(labels.get(Label.USER), FORMER_USER),
        restart=labels.get(Label.RESTART, ""),
        query_runtime=labels.get(Label.QUERY_RUNTIME, ""),
        query_user=_integer(labels[Label.QUERY_USER], FORMER_USER) if Label.QUERY_USER in labels else None,
        state=state,
        exit_code=exit_code,
        oom_killed=oom_killed,
        started_at=started_at,
        finished_at=finished_at,
        created_at=created_at,
        limits=_limits(labels),
    )


def _limits(labels: Mapping[str, str]) -> Need | None:
    memory_bytes, cpus = _integer(labels.get(Label.MEMORY), 0), _number(labels.get(Label.CPUS), 0.0)
    return Need(memory_bytes, max(0.0, cpus)) if memory_bytes > 0 else None


def _number(text: str | None, otherwise: float) -> float:
    try:
        number = float(text) if text is not None else otherwise
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise


def _integer(text: str | None, otherwise: int) -> int:
    """Return a number that fits the database."""
    # The interpreter rejects longer ones, but only from 4,300 digits on.
    if text is None or len(text) > _INTEGER_CHARACTERS:
        return otherwise
    try:
        value = int(text)
    except ValueError:
        return otherwise
    return value if -(1 << 63) <= value < 1 << 63 else otherwise
