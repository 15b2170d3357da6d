"""Data that only the leading master has, requested over HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from libs.core.api.paths import PREFIX, encoded
from libs.core.http.reader import header_of
from libs.core.process.service import ServiceDefinition
from libs.core.store.entities import Entity
from libs.core.store.leases import LeadershipStore
from libs.core.store.processes import ProcessStore
from tools.cli.connections import Connections
from tools.cli.local_user import user_of_this_machine

_LEASE_SECONDS = 5.0
_LEADER_SECONDS = 2.0
_MOST_ENTITIES = 1000


@dataclass(frozen=True)
class Leader:
    """The leading master of a service.

    Attributes:
        name: None while no master leads.
        urls: its possible addresses, best first.
        token: its own, which readers of MongoDB have, or HTTP_TOKEN for one of an older version; empty without either.
    """

    name: str | None = None
    urls: Sequence[str] = ()
    token: str = field(default="", repr=False)

    def session(self, timeout_seconds: float) -> aiohttp.ClientSession:
        """Return a session whose requests have its token, and the user of this command for the audit record."""
        headers = header_of(user_of_this_machine())
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_seconds), headers=headers)

    async def asked(self, path: str) -> Mapping[str, Any] | None:
        """Return the answer to *path* of the API; None when it is unreachable, or does not know the object."""
        async with self.session(_LEADER_SECONDS) as session:
            for url in self.urls:
                try:
                    async with session.get(f"{url}{PREFIX}{path}", allow_redirects=False) as answer:
                        if answer.status == 200:
                            found: Mapping[str, Any] = await answer.json()
                            return found
                except (TimeoutError, aiohttp.ClientError, ValueError):
                    continue
        return None

    async def workers(self) -> list[dict[str, Any]] | None:
        """Return the workers as known to it; None when it is unreachable."""
        status = await self.asked("/status")
        return list(status["workers"]) if status is not None and status.get("leads") else None


async def leader_of(servers: Connections, service: ServiceDefinition) -> Leader:
    """Return the leading master of the service."""
    database = await servers.database(service)
    leader = await LeadershipStore(database, _LEASE_SECONDS, timeout_seconds=10).leader()
    if leader is None:
        return Leader()
    master = await ProcessStore(database).find("master", leader.worker_id)
    if master is None:
        return Leader(leader.worker_id)
    given = servers.http_token
    return Leader(leader.worker_id, master.urls, master.token or (given.get_secret_value() if given else ""))


async def missing_room(servers: Connections, service: ServiceDefinition) -> dict[str, str]:
    """Return the missing room of each waiting entity, if the leader is reachable."""
    leader = await leader_of(servers, service)
    found = await leader.asked(f"/entities?state=waiting&limit={_MOST_ENTITIES}")
    return {one["id"]: one["missing"] for one in found["entities"] if one.get("missing")} if found is not None else {}


async def missing_of(servers: Connections, service: ServiceDefinition, entity_id: str) -> str:
    """Return the missing room of one waiting entity; "" when it lacks none, or the leader is unreachable."""
    found = await (await leader_of(servers, service)).asked(f"/entities/{encoded(entity_id)}")
    return str(found.get("missing") or "") if found is not None else ""


async def usage_of(servers: Connections, service: ServiceDefinition, entity: Entity) -> Mapping[str, Any] | None:
    """Return what the entity's container uses, from its worker; None when that is unreachable or does not know it."""
    owner = await ProcessStore(await servers.database(service)).owner(entity.segment_id)
    if owner is None:
        return None
    return await Leader(owner.name, owner.urls, owner.token).asked(f"/entities/{encoded(entity.id)}/usage")


def hindrance(worker: Mapping[str, Any]) -> str | None:
    """Return why a worker acquires no or not all assigned segments; None without a hindrance."""
    wish = "drained" if worker.get("drained") else "cordoned" if worker.get("cordoned") else ""
    reason = worker.get("cordon_reason")
    cordon = f"{wish}: {reason}" if wish and reason else wish
    refusal = worker.get("impediment") or "; ".join((worker.get("refused") or {}).values())
    return "; ".join(part for part in (cordon, refusal) if part) or None
