"""Writes the revisions of one owned segment's bots into the history; see :mod:`libs.core.store.revisions`."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.core.secrets.withholding import withhold
from libs.core.store.entities import Entity
from libs.core.store.revisions import BY_FIELD, Revision, RevisionStore
from libs.docker_runner.executable import to_json
from services.bot_runner.desired_bot import DesiredBot
from services.bot_runner.status import utc_now

log = get_logger(__name__)


@dataclass(frozen=True)
class _Known:
    """What the history says of a bot's newest version."""

    key: str
    accepted: bool
    code_etag: str
    rejection: str


class RevisionLog:
    """The newest version of each bot, noted when it is new or was accepted or rejected.

    The history decides nothing: a failed write is repeated in a later round, and delays no bot.

    Args:
        owner_field: the field of a document that names its owner.
    """

    def __init__(self, store: RevisionStore, owner_field: str) -> None:
        self._store = store
        self._owner_field = owner_field
        self._written: dict[str, _Known] = {}

    async def note(self, entities: Iterable[Entity], desired: Mapping[str, DesiredBot]) -> None:
        """Write what is new since the last call. May be repeated."""
        for gone in self._written.keys() - desired.keys():
            del self._written[gone]
        known = {entity.id: (entity, _known(entity, desired[entity.id])) for entity in entities if _is_whole(entity)}
        new = {bot_id: one for bot_id, one in known.items() if self._written.get(bot_id) != one[1]}
        try:
            await self._store.write([self._revision(entity, one) for entity, one in new.values()])
        except Retryable as error:
            log.warning("revisions are noted later", bots=len(new), reason=str(error))
        else:
            self._written |= {bot_id: one for bot_id, (_, one) in new.items()}

    def _revision(self, entity: Entity, known: _Known) -> Revision:
        config, withheld = withhold(entity.config)
        by = entity.custom.get(BY_FIELD)
        return Revision(
            bot_id=entity.id,
            revision=entity.revision,
            incarnation=entity.document["_id"],
            key=known.key,
            at=utc_now(),
            who=by if isinstance(by, str) and by else entity.owner(self._owner_field),
            config=config,
            withheld=withheld,
            custom=entity.custom,
            config_digest=hashlib.sha256(to_json(entity.config).encode("utf-8", "replace")).hexdigest(),
            accepted=known.accepted,
            code_etag=known.code_etag,
            rejection=known.rejection,
        )


def _is_whole(entity: Entity) -> bool:
    return bool(entity.custom)


def _known(entity: Entity, bot: DesiredBot) -> _Known:
    current = bot.release.current
    is_current = current is not None and current.revision == entity.revision
    rejection = bot.rejection if bot.rejection is not None and not is_current else None
    return _Known(
        key=_key(entity),
        accepted=is_current,
        code_etag=current.code_etag if current is not None and is_current else "",
        rejection=rejection.detail if rejection is not None else "",
    )


def _key(entity: Entity) -> str:
    """Return the key of the event that made the version: the revision also counts events that came too late."""
    event = entity.document.get("event")
    stamp = to_json({**event, "fields": None, "kept": None}) if isinstance(event, Mapping) else entity.revision
    digest = hashlib.sha256(f"{entity.document['_id']} {stamp}".encode("utf-8", "replace")).hexdigest()
    return digest[:32]
