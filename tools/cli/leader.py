"""Data that only the leading master has, requested over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from pydantic import SecretStr

from libs.core.api.paths import PREFIX
from libs.core.process.service import ServiceDefinition
from libs.core.store.leases import LeadershipStore
from libs.core.store.processes import ProcessStore
from tools.cli.connections import Connections

_LEASE_SECONDS = 5.0
_LEADER_SECONDS = 2.0
_MOST_ENTITIES = 1000


async def leader_urls(servers: Connections, service: ServiceDefinition) -> tuple[str | None, Sequence[str]]:
    """The leader of the service, and its possible addresses."""
    database = await servers.database(service)
    leader = await LeadershipStore(database, _LEASE_SECONDS, timeout_seconds=10).leader()
    if leader is None:
        return None, []
    master = await ProcessStore(database).find("master", leader.worker_id)
    return leader.worker_id, master.urls if master is not None else []


async def asked(urls: Sequence[str], path: str, token: SecretStr | None = None) -> Mapping[str, Any] | None:
    """Return the answer to *path* of the API; None when the leader is unreachable, or does not know the object.

    Args:
        token: HTTP_TOKEN, where masters require it.
    """
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token is not None else {}
    timeout = aiohttp.ClientTimeout(total=_LEADER_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        for url in urls:
            try:
                async with session.get(f"{url}{PREFIX}{path}", allow_redirects=False) as answer:
                    if answer.status == 200:
                        found: Mapping[str, Any] = await answer.json()
                        return found
            except (TimeoutError, aiohttp.ClientError, ValueError):
                continue
    return None


async def workers(urls: Sequence[str], token: SecretStr | None = None) -> list[dict[str, Any]] | None:
    """Return the workers as known to the leader; None when it is unreachable."""
    status = await asked(urls, "/status", token)
    return list(status["workers"]) if status is not None and status.get("leads") else None


async def missing_room(servers: Connections, service: ServiceDefinition) -> dict[str, str]:
    """Return the missing room of each waiting entity, if the leader is reachable."""
    _, urls = await leader_urls(servers, service)
    found = await asked(urls, f"/entities?state=waiting&limit={_MOST_ENTITIES}", servers.http_token)
    return {one["id"]: one["missing"] for one in found["entities"] if one.get("missing")} if found is not None else {}


def hindrance(worker: Mapping[str, Any]) -> str | None:
    """Return why a worker acquires no or not all assigned segments; None without a hindrance."""
    wish = "drained" if worker.get("drained") else "cordoned" if worker.get("cordoned") else ""
    reason = worker.get("cordon_reason")
    cordon = f"{wish}: {reason}" if wish and reason else wish
    refusal = worker.get("impediment") or "; ".join((worker.get("refused") or {}).values())
    return "; ".join(part for part in (cordon, refusal) if part) or None
