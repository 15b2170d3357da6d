"""Makes a schedule's firing into what the docker runner starts."""

from dataclasses import replace
from pathlib import Path

from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.definition import Deployed, ExecutableFactory, Ownership
from libs.docker_runner.executable import CodeRef, Executable
from services.bot_scheduler.state import Firing, ScheduleState


class Workshop:
    """Builds the executables of one owned segment."""

    def __init__(
        self, owned: OwnedSegment, *, factory: ExecutableFactory, code_bucket: str, keepalive: Path | None, worker: str
    ) -> None:
        self._owned = owned
        self._factory = factory
        self._code_bucket = code_bucket
        self._keepalive = keepalive
        self._worker = worker

    def build(self, state: ScheduleState, firing: Firing) -> Executable:
        """The executable of one attempt.

        Raises:
            UserError: something in the document is missing or wrong; the message names the field.
        """
        entity = state.entity
        location = entity.code
        deployed = Deployed(
            id=entity.id,
            revision=entity.revision,
            config=entity.config,
            custom_config=entity.bot,
            version=entity.version,
            code=CodeRef(location.bucket or self._code_bucket, location.key) if location is not None else None,
            traceparent=entity.trace.get("traceparent"),
        )
        ownership = Ownership(self._owned.segment_id, self._owned.epoch, self._worker, self._keepalive)
        return replace(self._factory.build(deployed, ownership), run_id=firing.run_id)
