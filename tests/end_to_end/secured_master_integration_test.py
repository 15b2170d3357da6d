"""A master process with certificates and a token by its settings."""

import asyncio
from pathlib import Path
from typing import Any

import grpc

from libs.core.transport.certificates import certificate_files
from libs.core.transport.security import TransportSecurity
from libs.core.transport.tokens import SharedTokens
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.support.certificates import Authority
from tools.dev.http import get_json
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.ports import free_port

TOKEN = "shared-token-of-the-test"


async def test_master_process_accepts_only_proven_workers_and_has_a_probe_without_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    grpc_port = free_port()
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    worker = authority.issue("worker", "worker.bot-runner.the0")
    certificates = certificate_files(("CA", worker.authority), ("CERT", worker.certificate), ("KEY", worker.key))
    async with MongoServer.start(tmp_path / "mongod") as mongod:
        master = ServiceProcess(
            "master",
            ["bot-runner", "master", "--mode", "standalone"],
            {
                "MONGO_URI": mongod.uri,
                "MINIO_ACCESS_KEY_ID": "k",
                "MINIO_SECRET_ACCESS_KEY": "k",
                "GRPC_PORT": str(grpc_port),
                "GRPC_HOST": "127.0.0.1",
                "GRPC_TOKEN_FILE": str(token_file),
                "TLS_MODE": "require",
                **authority.issue("master", "master.bot-runner.the0").settings,
            },
            http_port=free_port(),
            log_path=tmp_path / "master.log",
            tethered=True,
        )
        master.launch()
        try:
            await master.wait_ready()
            assert await get_json(master.http_port, "/grpcz") == (200, {"serving": True})

            without = TransportSecurity("bot-runner", "require", certificates)
            proven = TransportSecurity("bot-runner", "require", certificates, SharedTokens(lambda: (TOKEN,)))
            outcomes = [await _register(f"127.0.0.1:{grpc_port}", security) for security in (without, proven)]
        finally:
            await master.process.stop()

    assert outcomes == [grpc.StatusCode.UNAUTHENTICATED, "registered"]


async def _register(target: str, security: TransportSecurity) -> Any:
    """Return the kind of the first message, or the status code."""
    async with security.channel(target, [("grpc.use_local_subchannel_pool", 1)], encrypted=True) as channel:
        call = pb_grpc.CoordinationServiceStub(channel).Coordinate(  # type: ignore[no-untyped-call]
            metadata=security.metadata
        )
        try:
            async with asyncio.timeout(60):
                await call.write(pb.WorkerMessage(register=pb.Register(worker_id="w", instance_id="w-1")))
                message = await call.read()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return await call.code()
        return message.WhichOneof("kind") if message is not grpc.aio.EOF else await call.code()
