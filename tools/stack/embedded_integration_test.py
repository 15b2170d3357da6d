import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import nats
import pytest
from minio import Minio
from pymongo import AsyncMongoClient

from tests.support.eventually import eventually
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port, is_free
from tools.stack.process import ProcessFailedError
from tools.stack.process_identity import ProcessIdentity
from tools.stack.s3 import S3Server
from tools.stack.server import PortTakenError


def connected(server: MongoServer) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(server.uri, serverMonitoringMode="poll")  # opens no second connection that a close may cut


async def test_a_killed_mongod_comes_back_with_its_data_and_takes_transactions(tmp_path: Path) -> None:
    async with MongoServer.start(tmp_path) as server, connected(server) as client:
        await client.shop.orders.insert_one({"_id": 1})
        await server.kill()
        await server.launch()

        async with client.start_session() as session:
            # As clients must: the first try may be made on a connection that the kill has broken.
            await session.with_transaction(lambda taken: client.shop.orders.insert_one({"_id": 2}, session=taken))

        assert await client.shop.orders.count_documents({}) == 2


async def test_mongod_data_may_move_to_another_port(tmp_path: Path) -> None:
    async with MongoServer.start(tmp_path) as server, connected(server) as client:
        await client.shop.orders.insert_one({"_id": 1})

    async with MongoServer.start(tmp_path, free_port()) as server, connected(server) as client:
        assert await client.shop.orders.count_documents({}) == 1


async def test_a_restarted_nats_server_keeps_its_stream(tmp_path: Path) -> None:
    async with NatsServer.start(tmp_path) as server:
        connection = await nats.connect(server.url)
        await connection.jetstream().add_stream(name="S", subjects=["s"])
        await connection.jetstream().publish("s", b"1")
        await connection.close()
        await server.stop()
        await server.launch()

        connection = await nats.connect(server.url)
        assert (await connection.jetstream().stream_info("S")).state.messages == 1
        await connection.close()


async def test_a_restarted_s3_server_keeps_its_objects(tmp_path: Path) -> None:
    async with S3Server.start(tmp_path) as server:
        client = Minio(server.endpoint, server.access_key, server.secret_key, secure=False)
        await asyncio.to_thread(client.make_bucket, "bucket")
        source = tmp_path / "source"
        source.write_bytes(b"hello")
        await asyncio.to_thread(client.fput_object, "bucket", "a/b", str(source))
        await server.kill()
        await server.launch()

        assert (await asyncio.to_thread(client.stat_object, "bucket", "a/b")).size == 5


async def test_server_with_taken_port_reports_it(tmp_path: Path) -> None:
    async with NatsServer.start(tmp_path / "one") as first:
        with pytest.raises(PortTakenError, match=f"nats-server cannot listen on 127.0.0.1:{first.port}"):
            await NatsServer(tmp_path / "two", first.port).launch()


async def test_failed_server_start_shows_last_log_lines(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the server needs a folder")

    with pytest.raises(ProcessFailedError, match=r"(?s)nats-server did not start.*Last lines of .*not a directory"):
        await NatsServer(tmp_path).launch()


async def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = """
        import asyncio, sys, pathlib
        from tools.stack.nats import NatsServer
        async def main():
            async with NatsServer.start(pathlib.Path(sys.argv[1])) as server:
                print(server.identity.pid, server.port, flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        pid, port = map(int, (await asyncio.to_thread(parent.stdout.readline)).split())
        server = ProcessIdentity.of(pid)
        assert not is_free(port)
        parent.send_signal(signal.SIGKILL)

    await eventually(lambda: not server.alive)
