"""The processes of a service and their HTTP addresses, for requests to one of them.

The runtime itself does not depend on them. A process that ended is removed within minutes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING

from libs.core.store.client import Database, translated

COLLECTION = "processes"
KEPT_SECONDS = 600.0
"""How long a process is kept after its last registration."""


@dataclass(frozen=True)
class KnownProcess:
    """One process. *name* is the worker's or master's id; *addresses* are its HTTP addresses, best first.

    *token* gives access to guarded operations, for readers of MongoDB; empty without one. *public_url*
    has precedence over the addresses; empty without one. *grpc_port* is where a master listens for workers; else 0.
    """

    name: str
    role: str
    hostname: str
    addresses: Sequence[str]
    http_port: int
    token: str = field(default="", repr=False)
    public_url: str = ""
    grpc_port: int = 0

    @property
    def urls(self) -> list[str]:
        """Its base URLs, best first: the public URL, and ``http://host:port`` for each address."""
        own = [f"http://{bracketed(address)}:{self.http_port}" for address in self.addresses]
        return [self.public_url, *own] if self.public_url else own

    @property
    def grpc_addresses(self) -> list[str]:
        """``host:port`` of each address, best first; empty for a process without a gRPC server."""
        return [f"{bracketed(address)}:{self.grpc_port}" for address in self.addresses] if self.grpc_port else []


class ProcessStore:
    """The collection ``processes`` of a service's database."""

    def __init__(self, database: Database) -> None:
        self._processes = database[COLLECTION]
        self._partitions = database["partitions"]

    async def ensure_indexes(self) -> None:
        """Create the index that expires processes. May be repeated."""
        with translated():
            await self._processes.create_index(
                [("seen_at", ASCENDING)], name="seen_at_ttl", expireAfterSeconds=int(KEPT_SECONDS)
            )

    async def seen(self, process: KnownProcess) -> None:
        """Register *process*, replacing an earlier one of the same role and name. Repeat it every few minutes."""
        document = {
            "role": process.role,
            "name": process.name,
            "hostname": process.hostname,
            "addresses": list(process.addresses),
            "http_port": process.http_port,
            "token": process.token,
            "public_url": process.public_url,
            "grpc_port": process.grpc_port,
            "seen_at": datetime.now(UTC),
        }
        with translated():
            await self._processes.replace_one({"_id": _key(process.role, process.name)}, document, upsert=True)

    async def find(self, role: str, name: str) -> KnownProcess | None:
        """Return the latest process of this role and name; None without a recent one."""
        recent = datetime.now(UTC) - timedelta(seconds=KEPT_SECONDS)
        with translated():
            document = await self._processes.find_one({"_id": _key(role, name), "seen_at": {"$gt": recent}})
        return _process(document) if document is not None else None

    async def owner(self, segment_id: int) -> KnownProcess | None:
        """Return the worker that holds the lease of a segment now; None without a holder or a recent registration."""
        live = {"$gt": ["$lease.expires_at", "$$NOW"]}
        with translated():
            segment = await self._partitions.find_one({"_id": segment_id, "$expr": live}, {"lease.worker_id": 1})
        worker_id = segment["lease"].get("worker_id") if segment is not None else None
        return await self.find("worker", worker_id) if worker_id is not None else None

    async def some(self, role: str, limit: int) -> list[KnownProcess]:
        """Return some processes of this role, most recently registered first."""
        with translated():
            found = self._processes.find({"role": role}).sort("seen_at", DESCENDING).limit(limit)
            return [_process(document) async for document in found]


def bracketed(address: str) -> str:
    """Return *address* as in a URL: IPv6 in brackets."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _key(role: str, name: str) -> str:
    return f"{role}:{name}"


def _process(document: Mapping[str, Any]) -> KnownProcess:
    return KnownProcess(
        name=str(document["name"]),
        role=str(document["role"]),
        hostname=str(document.get("hostname", "")),
        addresses=tuple(map(str, document.get("addresses", ()))),
        http_port=int(document["http_port"]),
        token=str(document.get("token", "")),
        public_url=str(document.get("public_url", "")),
        grpc_port=int(document.get("grpc_port", 0)),
    )
