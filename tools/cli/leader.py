"""What only the master that leads knows, asked over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from libs.core.api.paths import PREFIX
from libs.core.process.service import ServiceDefinition
from libs.core.store.leases import LeadershipStore
from libs.core.store.processes import ProcessStore
from tools.cli.connections import Connections

_LEASE_SECONDS = 5.0
_LEADER_SECONDS = 2.0
_MOST_ENTITIES = 1000


async def leader_urls(servers: Connections, service: ServiceDefinition) -> tuple[str | None, Sequence[str]]:
    """Who leads the service, and where that master may answer."""
    database = await servers.database(service)
    leader = await LeadershipStore(database, _LEASE_SECONDS, timeout_seconds=10).leader()
    if leader is None:
        return None, []
    master = await ProcessStore(database).find("master", leader.worker_id)
    return leader.worker_id, master.urls if master is not None else []


async def asked(urls: Sequence[str], path: str) -> Mapping[str, Any] | None:
    """The answer to *path* of the API; None when the leader cannot be asked from here, or knows nothing of it."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LEADER_SECONDS)) as session:
        for url in urls:
            try:
                async with session.get(f"{url}{PREFIX}{path}", allow_redirects=False) as answer:
                    if answer.status == 200:
                        found: Mapping[str, Any] = await answer.json()
                        return found
            except (TimeoutError, aiohttp.ClientError, ValueError):
                continue
    return None


async def workers(urls: Sequence[str]) -> list[dict[str, Any]] | None:
    """The workers, as the leader knows them; None when it cannot be asked from here."""
    status = await asked(urls, "/status")
    return list(status["workers"]) if status is not None and status.get("leads") else None


async def missing_room(servers: Connections, service: ServiceDefinition) -> dict[str, str]:
    """What each entity that waits for room lacks on the roomiest worker, as far as the leader can be asked."""
    _, urls = await leader_urls(servers, service)
    found = await asked(urls, f"/entities?state=waiting&limit={_MOST_ENTITIES}")
    return {one["id"]: one["missing"] for one in found["entities"] if one.get("missing")} if found is not None else {}


def hindrance(worker: Mapping[str, Any]) -> str | None:
    """Why a worker takes nothing, or not all that it is given, in words; None when nothing hinders it."""
    wish = "drained" if worker.get("drained") else "cordoned" if worker.get("cordoned") else ""
    reason = worker.get("cordon_reason")
    cordon = f"{wish}: {reason}" if wish and reason else wish
    told = worker.get("impediment") or "; ".join((worker.get("refused") or {}).values())
    return "; ".join(part for part in (cordon, told) if part) or None
