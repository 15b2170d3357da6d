"""Turn a deployed entity into an `Executable`, or into an error for its owner."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from libs.core.errors import UserError
from libs.core.placement import placement_of
from libs.core.storage.code_keys import TOOLS_ROOT
from libs.docker_runner.containers.names import container_name
from libs.docker_runner.data.names import data_names
from libs.docker_runner.engine.room import Priority, RoomRequest
from libs.docker_runner.errors import DockerRunnerError
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Network, Question, new_run_id
from libs.docker_runner.sandbox.egress import egress_for, written
from libs.docker_runner.sandbox.limits import limits_for
from libs.docker_runner.settings import RunnerSettings


class DefinitionInvalid(DockerRunnerError, UserError):
    """A field of the deployed entity is missing or wrong; its owner must correct it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason


class Location(Protocol):
    """The location of code. *bucket* is None for the configured bucket, *sha256* for an archive without a digest."""

    @property
    def bucket(self) -> str | None:
        """The bucket."""

    @property
    def key(self) -> str:
        """The object's key."""

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the archive in hexadecimal digits."""


class Deployed(Protocol):
    """One deployed entity as stored."""

    @property
    def id(self) -> str:
        """Its id: any string."""

    @property
    def revision(self) -> int:
        """The number of its changes."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The argument of ``main``."""

    @property
    def bot(self) -> Mapping[str, Any]:
        """The bot's description: ``custom.config`` of the document."""

    @property
    def version(self) -> str:
        """The version of the code."""

    @property
    def code(self) -> Location | None:
        """The location of its archive; None when the document has none."""

    @property
    def trace(self) -> Mapping[str, str]:
        """The W3C trace headers of its event."""

    @property
    def restart(self) -> str:
        """The id of the restart that was requested last; empty without one."""

    def owner(self, field: str) -> str:
        """The owner that the *field* of its document names; empty for none."""


# Without an interface of its own, or without the relay of queries.
_NO_QUERIES = (Network.HOST, Network.CLUSTER)


@dataclass(frozen=True)
class CodeSources:
    """Where code may be.

    Attributes:
        bucket: where it is unless its location names a bucket.
        prefix: what keys in that bucket begin with; keys of the runtime's own tools (``.the0/``) need not.
        named: the buckets that locations may name; None for all but *closed*.
        closed: buckets that are never taken for code: those with logs and results of all users.
    """

    bucket: str
    prefix: str = ""
    named: tuple[str, ...] | None = None
    closed: tuple[str, ...] = ()

    def ref(self, location: Location) -> CodeRef:
        """Return where the code at *location* is.

        Raises:
            DefinitionInvalid: the operator does not allow code there, or its digest is none.
        """
        if location.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", location.sha256):
            raise DefinitionInvalid("custom.sha256", f"must be 64 hexadecimal digits, not {location.sha256!r}")
        field = "custom.filePath" if location.bucket is None else "custom.gcsPath"
        if ".." in location.key.split("/"):
            # Some HTTP clients and servers resolve it, which would leave the prefix, or the bucket.
            raise DefinitionInvalid(field, f"must not have the part '..', as {location.key!r} has")
        if location.bucket is None or location.bucket == self.bucket:
            if not location.key.startswith((self.prefix, TOOLS_ROOT)):
                raise DefinitionInvalid(
                    field, f"must begin with {self.prefix!r} (MINIO_BOTS_PREFIX), not {location.key!r}"
                )
        elif location.bucket in self.closed or (self.named is not None and location.bucket not in self.named):
            allowed = ", ".join((self.bucket, *(self.named or ())))
            raise DefinitionInvalid(
                "custom.gcsPath", f"names the bucket {location.bucket!r}; allowed are {allowed} (GCS_BUCKETS)"
            )
        return CodeRef(location.bucket or self.bucket, location.key, location.sha256)


@dataclass(frozen=True, kw_only=True)
class ExecutableBuilder:
    """Builds the executables of one owned segment, within the operator's settings.

    Attributes:
        code: where code may be.
        answers_queries: whether a process beside the entity's own answers queries, if the entity has one.
        segment, epoch, worker, keepalive, priority: as in :class:`Executable`; none of them changes what is run.
    """

    settings: RunnerSettings
    service: str
    scope: str
    entrypoint: Entrypoint
    code: CodeSources
    segment: int
    epoch: int
    worker: str
    keepalive: Path | None
    priority: Priority = Priority.BOT
    answers_queries: bool = False

    def build(self, deployed: Deployed, run_id: str | None = None) -> Executable:
        """Return the executable of *deployed*, with *run_id* or a new one.

        Raises:
            UserError: a field is missing or wrong, the runtime is unknown, the limits are too high, or the allow-list
                of hosts, the list of data sets or the placement is malformed; the message names the field.
        """
        runtime = _text(deployed.bot.get("runtime"), "custom.config.runtime")
        placement_of(deployed.config)  # The master has followed it, unless it is malformed.
        hosts = egress_for(deployed.config, self.settings.network, guard=self.settings.metadata_guard)
        return Executable(
            id=deployed.id,
            service=self.service,
            scope=self.scope,
            runtime=runtime,
            entrypoint=self.entrypoint,
            script=self._script(deployed),
            code=self._code(deployed),
            placement=self.settings.placement(runtime),
            version=deployed.version,
            config=deployed.config,
            limits=limits_for(deployed.config, self.settings.limits, self.settings.maxima),
            segment=self.segment,
            epoch=self.epoch,
            worker=self.worker,
            run_id=run_id if run_id is not None else new_run_id(),
            revision=deployed.revision,
            keepalive=self.keepalive,
            traceparent=deployed.trace.get("traceparent"),
            priority=self.priority,
            owner=deployed.owner(self.settings.owner_field),
            egress=written(hosts) if hosts is not None else None,
            restart=deployed.restart,
            data=data_names(deployed.config, deployed.bot),
            # On the host's network, bots would share the port.
            query=self._query(deployed) if self.answers_queries and self.settings.network not in _NO_QUERIES else None,
        )

    def question(self, deployed: Deployed, question: Question, answer_bytes: int) -> Executable:
        """Return the executable that answers one question about *deployed* in a container of its own.

        Raises:
            UserError: as :meth:`build`; also without an entrypoint ``query``.
        """
        script = self._query(deployed)
        if script is None:
            raise DefinitionInvalid("custom.config.entrypoints.query", "is missing")
        made = self.build(deployed)
        return replace(
            made,
            service=query_service(made.service),
            script=script,
            query=None,
            question=question,
            limits=replace(made.limits, result_bytes=answer_bytes),
            # It leaves room for what has to run.
            priority=Priority.BACKTEST,
        )

    def room(self, deployed: Deployed) -> RoomRequest:
        """Return the room that the container of *deployed* needs; far cheaper than :meth:`build`.

        Raises:
            LimitsRejected: its limits are wrong or too high.
        """
        limits = limits_for(deployed.config, self.settings.limits, self.settings.maxima)
        return limits.room(container_name(self.service, self.scope, deployed.id), self.priority)

    def _query(self, deployed: Deployed) -> str | None:
        entrypoints = deployed.bot.get("entrypoints")
        script = entrypoints.get("query") if isinstance(entrypoints, Mapping) else None
        return script if isinstance(script, str) and script.strip() else None

    def _script(self, deployed: Deployed) -> str:
        entrypoints = deployed.bot.get("entrypoints")
        if not isinstance(entrypoints, Mapping):
            raise DefinitionInvalid("custom.config.entrypoints", "must be an object that names the file to run")
        return _text(entrypoints.get(str(self.entrypoint)), f"custom.config.entrypoints.{self.entrypoint}")

    def _code(self, deployed: Deployed) -> CodeRef:
        location = deployed.code
        if location is None:
            raise DefinitionInvalid("custom.filePath", "is missing: it must name the archive in the code bucket")
        return self.code.ref(location)


def query_service(service: str) -> str:
    """Return the name of a service for containers that answer one question. No other service's name begins with it."""
    return f"queries-of-{service}"


def _text(value: object, field: str) -> str:
    if value is None:
        raise DefinitionInvalid(field, "is missing")
    if not isinstance(value, str) or not value.strip():
        raise DefinitionInvalid(field, f"must be a non-empty string, not {value!r}")
    return value
