"""Which connections to MongoDB a process keeps its leases over."""

from pathlib import Path

from pymongo import AsyncMongoClient

from tests.support.eventually import eventually
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.ports import free_port


async def test_master_keeps_its_leadership_over_connections_of_their_own(tmp_path: Path) -> None:
    async with MongoServer.start(tmp_path / "mongod") as mongod:
        master = ServiceProcess(
            "master",
            ["backtest-runner", "standalone", "--node=master"],
            {"MONGO_URI": mongod.uri, "GRPC_PORT": str(free_port())},
            http_port=free_port(),
            log_path=tmp_path / "master.log",
            tethered=True,
        )
        master.launch()
        client: AsyncMongoClient[dict[str, str]] = AsyncMongoClient(mongod.uri)
        try:
            await master.wait_ready()

            # Without a request a client opens no connection.
            await eventually(lambda: _names(client, {"the0-runtime", "the0-runtime leases"}))
        finally:
            await client.close()
            await master.process.stop()


async def _names(client: AsyncMongoClient[dict[str, str]], wanted: set[str]) -> bool:
    """Whether MongoDB has connections of all *wanted* applications."""
    found = await client.admin.aggregate([{"$currentOp": {"idleConnections": True}}])
    return wanted <= {operation.get("appName", "") async for operation in found}
