"""Admit starts within the quotas of owners, and free the places of entities that no longer run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import Counter

from libs.core.config.quota_settings import QuotaSettings
from libs.core.observability.log import get_logger
from libs.core.room import MIB, Need
from libs.core.store.client import Database
from libs.core.store.entities import Entity, EntityStore
from libs.core.store.quotas import CPUS_ROUNDING, Holder, Quota, QuotaKind, QuotaStore, Refusal
from libs.core.store.runs import LiveRuns

log = get_logger(__name__)

REFUSED = Counter("runtime_quota_refusals_total", "Entities whose start a quota of their owner refused.", ["quota"])
for _kind in QuotaKind:
    REFUSED.labels(str(_kind))  # exported as 0, so that the first one shows as an increase

LOOK_SECONDS = 2.0
"""The interval at which a refused start is tried again."""

_FULL_SECONDS = 0.5
# Of which it is remembered that they are counted; counting one again changes nothing.
_MOST_KNOWN = 100_000

_SETTINGS = {
    QuotaKind.COUNT: ("{used:g} of {limit:g} running", "QUOTA_RUNNING"),
    QuotaKind.MEMORY: ("{used:g} of {limit:g} MiB in use", "QUOTA_MEMORY_MB"),
    QuotaKind.CPUS: ("{used:g} of {limit:g} CPUs in use", "QUOTA_CPUS"),
    QuotaKind.STARTS: ("{used:g} of {limit:g} starts in the last minute", "QUOTA_STARTS_PER_MINUTE"),
}


class Starting(Protocol):
    """What is to be started."""

    @property
    def id(self) -> str:
        """The entity's id."""

    @property
    def owner(self) -> str:
        """Its owner."""

    @property
    def run_id(self) -> str:
        """The id of the run."""

    @property
    def need(self) -> Need:
        """The limits of its container."""


@dataclass(frozen=True)
class Place:
    """A run that is to be started, or given up, where there is no executable at hand."""

    id: str
    owner: str
    run_id: str
    need: Need = field(default_factory=Need)


KeepsPlace = Callable[[Entity, str], bool]
"""Whether an entity may still start or continue the run with this id, so that its place is not free."""


def keeps_while_it_should_run(entity: Entity, run_id: str) -> bool:
    """As bots: every run is followed by another one."""
    return entity.should_run


class OwnerQuotas:
    """The quotas of one service.

    Args:
        owner_field: the field of a document that names its owner.
        keeps_place: whether a run that has no live container keeps its place.
    """

    def __init__(
        self,
        database: Database,
        quota: Quota,
        entities: EntityStore,
        live_runs: LiveRuns,
        owner_field: str,
        keeps_place: KeepsPlace = keeps_while_it_should_run,
    ) -> None:
        self._store = QuotaStore(database, quota)
        self._quota = quota
        self._entities = entities
        self._live_runs = live_runs
        self._owner_field = owner_field
        self._keeps_place = keeps_place
        self._refused: set[str] = set()
        self._known: set[tuple[str, str]] = set()
        self._full: dict[str, tuple[float, Refusal]] = {}

    def __bool__(self) -> bool:
        """Whether there is any quota."""
        return bool(self._quota)

    async def admit(self, starting: Starting) -> str:
        """Hold a place for a start; return why its owner's quota does not permit it, or an empty string.

        Raises:
            StoreUnavailable: unknown; call again.
        """
        if not self._quota:
            return ""
        refusal = self._known_refusal(starting) or await self._claim(starting)
        if refusal is None:
            self._refused.discard(starting.id)
            self._know(starting)
            return ""
        if starting.id not in self._refused:
            if len(self._refused) >= _MOST_KNOWN:
                self._refused.clear()
            self._refused.add(starting.id)
            REFUSED.labels(str(refusal.kind)).inc()
            log.info("start refused by a quota", id=starting.id, owner=starting.owner, quota=str(refusal.kind))
        return sentence(refusal, starting.need)

    def _known_refusal(self, starting: Starting) -> Refusal | None:
        """Return a recent refusal that does not depend on what is started: of many that wait, one asks."""
        until, refusal = self._full.get(starting.owner, (0.0, None))
        return refusal if time.monotonic() < until and (starting.owner, starting.id) not in self._known else None

    async def _claim(self, starting: Starting) -> Refusal | None:
        holder = Holder(starting.id, starting.run_id, starting.need)
        refusal = await self._store.claim(starting.owner, holder)
        if refusal is not None and refusal.kind is not QuotaKind.STARTS and await self._freed(starting.owner):
            refusal = await self._store.claim(starting.owner, holder)
        if refusal is not None and refusal.kind in (QuotaKind.COUNT, QuotaKind.STARTS):
            self._full = {owner: full for owner, full in self._full.items() if full[0] > time.monotonic()}
            self._full[starting.owner] = (time.monotonic() + _FULL_SECONDS, refusal)
        return refusal

    async def count(self, running: Starting, run_id: str) -> None:
        """Count an entity that runs, such as one that was started before there were quotas. May be repeated."""
        if not self._quota or (running.owner, running.id) in self._known:
            return
        await self._store.claim(running.owner, Holder(running.id, run_id, running.need), runs_already=True)
        self._know(running)

    async def misfit(self, changed: Starting) -> str:
        """Return why a new version of a running entity exceeds its owner's quota; an empty string when it fits.

        Nothing is claimed: a version that does not fit must not stop the one that runs.
        """
        if not self._quota.memory_bytes and not self._quota.cpus:
            return ""
        refusal = await self._misfit(changed)
        if refusal != "" and await self._freed(changed.owner):
            refusal = await self._misfit(changed)
        return refusal

    async def _misfit(self, changed: Starting) -> str:
        holders = await self._store.holders(changed.owner)
        others = sum((holder.need for holder in holders if holder.entity_id != changed.id), Need())
        quota, need, owner = self._quota, changed.need, changed.owner
        if quota.memory_bytes and others.memory_bytes + need.memory_bytes > quota.memory_bytes:
            used, limit = others.memory_bytes / MIB, quota.memory_bytes / MIB
            return sentence(Refusal(QuotaKind.MEMORY, owner, used, limit), need)
        if quota.cpus and others.cpus + need.cpus > quota.cpus + CPUS_ROUNDING:
            return sentence(Refusal(QuotaKind.CPUS, owner, others.cpus, quota.cpus), need)
        return ""

    async def give_up(self, starting: Starting) -> None:
        """Give the place of a start that failed, or of a run that has ended, up. May be repeated."""
        if self._quota:
            self._known.discard((starting.owner, starting.id))
            self._full.pop(starting.owner, None)
            await self._store.drop(starting.owner, [Holder(starting.id, starting.run_id)])

    def _know(self, counted: Starting) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known.add((counted.owner, counted.id))

    async def _freed(self, owner: str) -> bool:
        """Drop the places of *owner* whose entities do not run any more; return whether there were any."""
        holders = await self._store.holders(owner)
        ids = [holder.entity_id for holder in holders]
        entities = await self._entities.by_ids(ids)

        def is_over(holder: Holder) -> bool:
            entity = entities.get(holder.entity_id)
            if entity is None or entity.owner(self._owner_field) != owner:
                return True
            return not self._keeps_place(entity, holder.run_id)

        over = [holder for holder in holders if is_over(holder)]
        if not over:
            return False
        # Its container may still be stopping, and uses what the quota limits until then.
        alive = await self._live_runs.of([holder.entity_id for holder in over])
        ended = [holder for holder in over if holder.entity_id not in alive]
        await self._store.drop(owner, ended)
        return bool(ended)


def quota_of(settings: QuotaSettings) -> Quota:
    """Return the quota that the operator has set."""
    return Quota(settings.running, settings.memory_mb * MIB, settings.cpus, settings.starts_per_minute)


def sentence(refusal: Refusal, need: Need) -> str:
    """Return the reason for users: the quota, its use, and the setting."""
    used, setting = _SETTINGS[refusal.kind]
    more = ""
    if refusal.kind is QuotaKind.MEMORY:
        more = f", needs {need.memory_bytes / MIB:g} MiB"
    elif refusal.kind is QuotaKind.CPUS:
        more = f", needs {need.cpus:g}"
    return f"quota of owner {refusal.owner!r}: {used.format(used=refusal.used, limit=refusal.limit)}{more} ({setting})"
