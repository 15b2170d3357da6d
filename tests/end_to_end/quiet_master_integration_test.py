"""The log of a master of a cluster during its start."""

import json
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.fakes.fake_kubernetes import FakeKubernetes
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server


async def test_master_of_healthy_cluster_starts_without_warnings(
    tmp_path: Path, nats_server: NatsServer, s3_server: S3Server
) -> None:
    async with MongoServer.start(tmp_path / "mongod") as mongod, FakeKubernetes(3) as cluster:
        log = tmp_path / "master.log"
        master = ServiceProcess(
            "master",
            ["bot-runner", "master", "--mode", "cluster"],
            {
                "MONGO_URI": mongod.uri,
                "NATS_URL": nats_server.url,
                "MINIO_ENDPOINT": s3_server.endpoint,
                "MINIO_ACCESS_KEY_ID": s3_server.access_key,
                "MINIO_SECRET_ACCESS_KEY": s3_server.secret_key,
                "NAMESPACE": cluster.namespace,
                "DEPLOYMENT_NAME": cluster.deployment_name,
                "KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig")),
                "GRPC_PORT": str(free_port()),
                "QUERY_PORT": str(free_port()),
                "LOG_FORMAT": "json",
            },
            http_port=free_port(),
            log_path=log,
            tethered=True,
        )
        master.launch()
        try:
            await master.wait_ready()
            await eventually(
                lambda: ("get", "deployments/scale") in cluster.calls and ("list", "pods") in cluster.calls
            )
        finally:
            await master.process.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert lines
    assert [line for line in lines if line["level"] not in ("debug", "info")] == []
