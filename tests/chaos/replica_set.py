"""A MongoDB replica set of three members, each with links of its own to the others."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import PyMongoError

from tests.chaos.party import Party
from tests.support.eventually import eventually
from tests.support.servers.mongo_clock import LIBRARIES, SettableMongoServer
from tools.stack.mongod import MongoServer

_NAME = "rs0"
_ELECTION_MILLISECONDS = 2000


class Member(SettableMongoServer):
    """One member.

    Args:
        settable: whether its clock can be set, which costs processor time, and needs libfaketime.
    """

    def __init__(self, party: Party, directory: Path, *, settable: bool) -> None:
        super().__init__(directory)
        self.party = party
        self._settable = settable and bool(LIBRARIES)

    def read(self, command: str) -> dict[str, Any]:
        """Return the answer to an administrative command; raises PyMongoError. Blocks."""
        client: MongoClient[dict[str, Any]] = MongoClient(
            self.uri, serverSelectionTimeoutMS=1000, connectTimeoutMS=1000, socketTimeoutMS=5000
        )
        with client:
            return dict(client.admin.command(command))

    def is_primary(self) -> bool:
        """Whether it accepts writes. Blocks."""
        try:
            return bool(self.read("hello").get("isWritablePrimary"))
        except PyMongoError:
            return False

    async def _prepare(self) -> None:
        await (SettableMongoServer if self._settable else MongoServer)._prepare(self)

    def _command(self) -> Sequence[str | Path]:
        return self.party.command(super()._command())

    def _environment(self) -> dict[str, str]:
        if not self._settable:
            return {}
        # Read once a second: reading the file at each call takes most of a processor.
        found = {**super()._environment(), "FAKETIME_CACHE_DURATION": "1"}
        del found["FAKETIME_NO_CACHE"]
        return found

    async def _answers(self) -> bool:
        try:
            await asyncio.to_thread(self.read, "ping")
        except PyMongoError:
            return False
        return True


class ReplicaSet:
    """Three members; `uri` is for processes whose `/etc/hosts` knows the members' names."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self._clients: dict[int, AsyncMongoClient[dict[str, Any]]] = {}

    @property
    def servers(self) -> dict[str, int]:
        """The ports of the members, by their names."""
        return {member.party.name: member.port for member in self.members}

    @property
    def uri(self) -> str:
        """The connection string."""
        hosts = ",".join(f"{name}:{port}" for name, port in self.servers.items())
        return f"mongodb://{hosts}/?replicaSet={_NAME}"

    async def open(self) -> None:
        """Start the members, and wait for a primary."""
        for member in self.members:
            await member.party.link(self.servers)
        await asyncio.gather(*(member.launch() for member in self.members))
        await asyncio.to_thread(self._initiate)
        await self.primary()

    async def primary(self) -> Member:
        """Return the primary, once there is one."""

        async def found() -> list[Member]:
            states = await asyncio.gather(*(asyncio.to_thread(one.is_primary) for one in self.members))
            return [member for member, leads in zip(self.members, states, strict=True) if leads]

        return (await eventually(found, 60.0))[0]

    async def client(self) -> AsyncMongoClient[dict[str, Any]]:
        """Return a client of the primary, which connects directly, not by a link."""
        primary = await self.primary()
        if primary.port not in self._clients:
            self._clients[primary.port] = AsyncMongoClient(primary.uri, timeoutMS=10_000)
        return self._clients[primary.port]

    async def close(self) -> None:
        """End the members."""
        for client in self._clients.values():
            await client.close()
        for member in self.members:
            with suppress(RuntimeError):  # it was never started
                member.resume()
        await asyncio.gather(*(member.kill() for member in self.members))
        for member in self.members:
            await member.party.close()

    def _initiate(self) -> None:
        members = [
            {"_id": number, "host": f"{name}:{port}"} for number, (name, port) in enumerate(self.servers.items())
        ]
        settings = {"electionTimeoutMillis": _ELECTION_MILLISECONDS, "heartbeatIntervalMillis": 500}
        client: MongoClient[dict[str, Any]] = MongoClient(self.members[0].uri, serverSelectionTimeoutMS=10_000)
        with client:
            client.admin.command("replSetInitiate", {"_id": _NAME, "members": members, "settings": settings})
