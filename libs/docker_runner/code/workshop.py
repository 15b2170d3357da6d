"""Makes the entities of one owned segment into what the runner starts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from libs.docker_runner.code.definition import Deployed, ExecutableFactory, Ownership
from libs.docker_runner.engine.room import RoomRequest
from libs.docker_runner.executable import CodeRef, Executable


class Location(Protocol):
    """Where code is. *bucket* is None when it is the configured one."""

    @property
    def bucket(self) -> str | None:
        """The bucket."""

    @property
    def key(self) -> str:
        """The object's key."""


class Described(Protocol):
    """What somebody deployed, as it is stored: an entity of the store is one."""

    @property
    def id(self) -> str:
        """Any string."""

    @property
    def revision(self) -> int:
        """Counts its changes."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Handed to the bot."""

    @property
    def bot(self) -> Mapping[str, Any]:
        """The bot's own description: `custom.config`."""

    @property
    def version(self) -> str:
        """Of the code."""

    @property
    def code(self) -> Location | None:
        """Where the code is; None when nothing says."""

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace headers of the event that brought it."""


class Workshop:
    """Builds the executables of one owned segment.

    Args:
        code_bucket: where the code is when the document does not say.
    """

    def __init__(self, factory: ExecutableFactory, ownership: Ownership, code_bucket: str) -> None:
        self._factory = factory
        self._ownership = ownership
        self._code_bucket = code_bucket

    def build(self, entity: Described, run_id: str | None = None) -> Executable:
        """The executable of *entity*, with *run_id* or one of its own.

        Raises:
            UserError: something in the document is missing or wrong; the message names the field.
        """
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
        executable = self._factory.build(deployed, self._ownership)
        return replace(executable, run_id=run_id) if run_id is not None else executable

    def room(self, entity: Described) -> RoomRequest:
        """What the container of *entity* needs of the engine; far cheaper than to build its executable.

        Raises:
            UserError: its limits are wrong or too high.
        """
        return self._factory.room(entity.id, entity.config)
