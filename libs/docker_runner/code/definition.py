"""Turn a config or a bot's description into an `Executable`, or into an error for the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.core.errors import UserError
from libs.docker_runner.containers.names import container_name
from libs.docker_runner.engine.room import Priority, RoomRequest
from libs.docker_runner.errors import DockerRunnerError
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, new_run_id
from libs.docker_runner.sandbox.limits import limits_for
from libs.docker_runner.settings import RunnerSettings


class DefinitionInvalid(DockerRunnerError, UserError):
    """A field of what was deployed is missing or wrong; only its owner can mend that."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Deployed:
    """One entity as it was deployed.

    Attributes:
        custom_config: the bot's own description: `custom.config` of the document.
        code: where its archive lies; None when the document names none.
        traceparent: W3C trace context of the event that brought it.
    """

    id: str
    revision: int
    config: Mapping[str, object]
    custom_config: Mapping[str, object]
    version: str
    code: CodeRef | None
    traceparent: str | None = None


@dataclass(frozen=True)
class Ownership:
    """On whose behalf it is run: none of this changes what it is."""

    segment: int
    epoch: int
    worker: str
    keepalive: Path | None


class ExecutableFactory:
    """Makes the executables of one service in one deployment, within the operator's settings."""

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        service: str,
        scope: str,
        entrypoint: Entrypoint,
        priority: Priority = Priority.BOT,
    ) -> None:
        self._settings = settings
        self._priority = priority
        self._service = service
        self._scope = scope
        self._entrypoint = entrypoint

    def build(self, deployed: Deployed, ownership: Ownership) -> Executable:
        """The executable of *deployed*, with a run id of its own.

        Raises:
            UserError: a field is missing or wrong, the runtime is unknown, or the limits are too high; the message
                names the field.
        """
        runtime = _text(deployed.custom_config.get("runtime"), "custom.config.runtime")
        return Executable(
            id=deployed.id,
            service=self._service,
            scope=self._scope,
            runtime=runtime,
            entrypoint=self._entrypoint,
            script=self._script(deployed),
            code=_code(deployed),
            placement=self._settings.placement(runtime),
            version=deployed.version,
            config=deployed.config,
            limits=limits_for(deployed.config, self._settings.limits, self._settings.maxima),
            segment=ownership.segment,
            epoch=ownership.epoch,
            worker=ownership.worker,
            run_id=new_run_id(),
            revision=deployed.revision,
            keepalive=ownership.keepalive,
            traceparent=deployed.traceparent,
            priority=self._priority,
        )

    def room(self, entity_id: str, config: Mapping[str, object]) -> RoomRequest:
        """What the container of an entity needs of the engine.

        Raises:
            LimitsRejected: its limits are wrong or too high.
        """
        limits = limits_for(config, self._settings.limits, self._settings.maxima)
        return limits.room(container_name(self._service, self._scope, entity_id), self._priority)

    def _script(self, deployed: Deployed) -> str:
        entrypoints = deployed.custom_config.get("entrypoints")
        if not isinstance(entrypoints, Mapping):
            raise DefinitionInvalid("custom.config.entrypoints", "must be an object that names the file to run")
        return _text(entrypoints.get(str(self._entrypoint)), f"custom.config.entrypoints.{self._entrypoint}")


def _text(value: object, field: str) -> str:
    if value is None:
        raise DefinitionInvalid(field, "is missing")
    if not isinstance(value, str) or not value.strip():
        raise DefinitionInvalid(field, f"must be a text that is not empty, not {value!r}")
    return value


def _code(deployed: Deployed) -> CodeRef:
    if deployed.code is None:
        raise DefinitionInvalid("custom.filePath", "is missing: it names the archive in the code bucket")
    return deployed.code
