"""MongoDB on this machine, as a replica set of one, as required for transactions and change streams."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from tools.stack import binaries
from tools.stack.server import EmbeddedServer

_REPLICA_SET = "rs0"
_NOT_YET_INITIALIZED = 94


class MongoServer(EmbeddedServer):
    """mongod with a small cache (about 140 MB resident) with its data in the folder."""

    name: ClassVar[str] = "mongod"

    @property
    def uri(self) -> str:
        """The connection string. It connects directly to this server, so that its absence is detected at once."""
        return f"mongodb://{self.address}/?directConnection=true"

    async def _prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)

    def _command(self) -> Sequence[str | Path]:
        return [
            binaries.mongod(),
            *("--bind_ip", "127.0.0.1", "--port", str(self.port), "--nounixsocket"),
            *("--dbpath", self.directory / "data", "--replSet", _REPLICA_SET, "--oplogSize", "64"),
            *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]

    async def _answers(self) -> bool:
        # The blocking client in a thread: the asynchronous one, closed while it still opens its monitoring
        # connection, leaves that socket to the garbage collector (PyMongo 4.20).
        return await asyncio.to_thread(self._is_primary)

    def _is_primary(self) -> bool:
        client: MongoClient[dict[str, Any]] = MongoClient(
            self.uri, serverSelectionTimeoutMS=500, connectTimeoutMS=500, socketTimeoutMS=5000
        )
        with client:
            try:
                self._form_replica_set(client)
                return bool(client.admin.command("hello").get("isWritablePrimary"))
            except (ConnectionFailure, OperationFailure):
                return False

    def _form_replica_set(self, client: MongoClient[dict[str, Any]]) -> None:
        member = {"_id": 0, "host": self.address}
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code != _NOT_YET_INITIALIZED:
                raise
            settings = {"electionTimeoutMillis": 1000}
            client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": [member], "settings": settings})
            return
        if config["members"][0]["host"] != self.address:  # the data was created with another port
            config["members"] = [member]
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)
