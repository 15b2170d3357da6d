"""The Compose project on a real engine: started, upgraded, saved, restored and removed by its Makefile."""

import asyncio
import io
import os
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import docker
import grpc
import nats
import pytest
from minio import Minio
from minio.error import S3Error
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from libs.core.process.service import SERVICES
from libs.core.transport.certificates import Certificates
from libs.core.transport.security import role_name
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.deploy.compose_images import StandIns
from tests.deploy.compose_leftovers import project_name, remove_leftovers
from tests.deploy.compose_project import SERVICE_LABEL, ComposeProject
from tests.support.eventually import eventually
from tests.support.rigs.platform import Platform, zipped
from tests.support.rigs.service_images import build_service_images
from tests.support.sdk import sdk_files
from tools.debian.packages import PackageMissingError, ensure_unpacked
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

WORKERS = {"bot-runner-worker": 1, "backtest-runner-worker": 1}
MASTERS = {f"{service.name}-{role}": 1 for service in SERVICES for role in ("master", "master-2")}
BOT = "import time\n\ndef main(id, config):\n    time.sleep(600)\n"
QUERY = """
from the0 import query

@query.handler("/price")
def price(req):
    return req.get("symbol")

query.run()
"""


@pytest.fixture(scope="module")
def client(docker_engine: Engine) -> Iterator[docker.DockerClient]:
    engine_client = docker.DockerClient(base_url=docker_engine.url, timeout=600)
    yield engine_client
    engine_client.close()


@pytest.fixture(scope="module")
async def project(
    docker_engine: Engine, client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ComposeProject]:
    """The project, healthy, with the first version of our images.

    Away from CI, a user who may not fetch `make` skips the tests.
    """
    try:
        make = await ensure_unpacked("make", "make")
    except PackageMissingError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
    build_service_images(client, tmp_path_factory.mktemp("context"))
    await asyncio.to_thread(remove_leftovers, client)
    with project_name() as name:
        stand_ins = StandIns(client, name)
        try:
            await asyncio.to_thread(stand_ins.build, tmp_path_factory.mktemp("stand-ins"))
            found = ComposeProject(tmp_path_factory.mktemp("project"), client, docker_engine.url, make, stand_ins)
            try:
                found.prepare()
                await found.make_aside("up")
                yield found
            finally:
                await asyncio.to_thread(found.remove)
        finally:
            await asyncio.to_thread(stand_ins.remove)


@pytest.fixture
def mongo(project: ComposeProject) -> Iterator[MongoClient[dict[str, Any]]]:
    """The project's MongoDB, as the user of `.env`."""
    uri = f"mongodb://the0:{project.environment()['MONGO_PASSWORD']}@{project.address('mongo')}/?authSource=admin"
    with MongoClient[dict[str, Any]](uri, directConnection=True) as found:
        yield found


class Bot:
    """A bot that the platform has announced to the project."""

    def __init__(self, client: docker.DockerClient, project: ComposeProject) -> None:
        self.id = project.name
        self._client = client
        self._project = project

    async def create(self) -> None:
        """Upload the code, and publish the event."""
        settings = self._project.environment()
        address = f"{self._project.address('s3')}:9000"
        storage = Minio(address, settings["S3_ACCESS_KEY"], settings["S3_SECRET_KEY"], secure=False)
        url = f"nats://the0:{settings['NATS_PASSWORD']}@{self._project.address('nats')}:4222"
        connection = await nats.connect(url)
        platform = Platform(connection, storage)
        code = zipped({"main.py": BOT, "query.py": QUERY, **sdk_files()})
        await asyncio.to_thread(platform.upload, self.id, code)
        payload = platform.payload(self.id, {}, key=self.id)
        payload["custom"]["config"]["entrypoints"]["query"] = "query.py"
        await platform.publish("the0.bot.created", payload)
        await connection.close()

    async def answer(self, master: str) -> dict[str, Any] | None:
        """Its answer to a query at *master*; None while there is none."""
        url = f"http://{self._project.address(master)}:9477/query"
        headers = {"Authorization": f"Bearer {self._project.environment()['HTTP_TOKEN']}"}
        request = {"bot_id": self.id, "query_path": "/price", "params": {"symbol": "ETH"}, "timeout_sec": 30}
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=request) as got:
            return dict(await got.json()) if got.status == 200 else None

    def containers(self) -> set[str]:
        """The ids of its containers that run."""
        listed = self._client.api.containers(filters={"label": f"runtime.id={self.id}"})
        return {found["Id"] for found in listed}


def command_lines() -> str:
    """The command lines of all processes of this machine, those in containers included."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(lines).decode(errors="replace")


async def dependencies(project: ComposeProject, service: str) -> dict[str, dict[str, Any]]:
    """What `/readyz` of the only container of *service* shows."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{project.address(service)}:8080/readyz") as got:
        return dict((await got.json())["dependencies"])


async def test_worker_joins_the_second_master_once_the_leader_is_gone(project: ComposeProject) -> None:
    masters = {name: project.containers(name)[0] for name in ("bot-runner-master", "bot-runner-master-2")}

    async def joined() -> str:
        """The master with which the worker is registered, which names itself by its container."""
        master = (await dependencies(project, "bot-runner-worker"))["master"]
        (name,) = [name for name, found in masters.items() if found.attrs["Config"]["Hostname"] in master["detail"]]
        assert master["ok"], master
        return name

    async def has_joined(name: str) -> bool:
        return await joined() == name

    leader = await eventually(joined)
    (standby,) = masters.keys() - {leader}
    await asyncio.to_thread(masters[leader].stop, timeout=30)
    try:
        await eventually(lambda: has_joined(standby))
    finally:
        await asyncio.to_thread(masters[leader].start)


@pytest.fixture
def certificates(project: ComposeProject) -> Certificates:
    """Those of a worker of bot-runner, as the container has them."""
    files = project.files("bot-runner-worker", "/etc/the0/tls/current/")
    return Certificates(files["ca.crt"], files["tls.crt"], files["tls.key"])


async def test_master_accepts_the_certificate_of_a_worker_and_no_client_without_one(
    project: ComposeProject, certificates: Certificates
) -> None:
    target = f"{project.address('bot-runner-master')}:50051"
    own = grpc.ssl_channel_credentials(certificates.authorities, certificates.key, certificates.chain)
    override = [("grpc.ssl_target_name_override", role_name("master", "bot-runner"))]
    without = {
        "no TLS": grpc.aio.insecure_channel(target),
        "no certificate": grpc.aio.secure_channel(
            target, grpc.ssl_channel_credentials(certificates.authorities), options=override
        ),
    }

    async with grpc.aio.secure_channel(target, own, options=override) as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)
    codes = {}
    for name, channel in without.items():
        async with channel:
            call = pb_grpc.CoordinationServiceStub(channel).Coordinate()  # type: ignore[no-untyped-call]
            codes[name] = await asyncio.wait_for(call.code(), 60)

    async def worker_is_joined() -> bool:
        return bool((await dependencies(project, "bot-runner-worker"))["master"]["ok"])

    assert codes == dict.fromkeys(without, grpc.StatusCode.UNAVAILABLE)
    await eventually(worker_is_joined)


async def test_renewed_certificates_are_used_without_a_restart(project: ComposeProject) -> None:
    (worker,) = project.containers("bot-runner-worker")
    before = project.files("bot-runner-worker", "/etc/the0/tls/current/")

    await project.make_aside("certificates")
    after = project.files("bot-runner-worker", "/etc/the0/tls/current/")

    async def is_joined_with_the_new_ones() -> bool:
        used = b"changed files are in use" in await asyncio.to_thread(worker.logs)
        return used and bool((await dependencies(project, "bot-runner-worker"))["master"]["ok"])

    assert after["tls.key"] != before["tls.key"]
    assert after["ca.crt"] == before["ca.crt"]
    await eventually(is_joined_with_the_new_ones, within_seconds=60)
    assert [found.id for found in project.containers("bot-runner-worker")] == [worker.id]


async def test_worker_logs_in_as_a_user_who_reads_the_database_of_its_service_alone(project: ComposeProject) -> None:
    (worker,) = project.containers("bot-runner-worker")
    variables = dict(line.split("=", 1) for line in worker.attrs["Config"]["Env"])
    uri = variables["MONGO_URI"].replace("@mongo:27017", f"@{project.address('mongo')}:27017")

    with MongoClient[dict[str, Any]](uri.replace("replicaSet=rs0&", ""), directConnection=True) as mongo:
        own = mongo["bot_runner"]["processes"].count_documents({})
        with pytest.raises(OperationFailure, match="not authorized"):
            mongo["backtest_runner"]["backtests"].find_one()

    assert own > 0


async def test_worker_has_a_key_of_s3_that_reaches_the_buckets_of_its_role_alone(project: ComposeProject) -> None:
    (worker,) = project.containers("bot-runner-worker")
    variables = dict(line.split("=", 1) for line in worker.attrs["Config"]["Env"])
    key, secret = variables["MINIO_ACCESS_KEY_ID"], variables["MINIO_SECRET_ACCESS_KEY"]
    storage = Minio(f"{project.address('s3')}:9000", key, secret, secure=False)

    storage.put_object("bot-state", "of-a-test", io.BytesIO(b"x"), 1)
    for bucket in ("bots", "results"):
        with pytest.raises(S3Error) as refused:
            storage.put_object(bucket, "of-a-test", io.BytesIO(b"x"), 1)
        assert refused.value.code == "AccessDenied"

    root = project.environment()["S3_SECRET_KEY"]
    running = [container for container in project.containers() if container.labels[SERVICE_LABEL] != "s3"]
    having = [container.name for container in running if root in str(container.attrs["Config"])]
    assert len(running) > len(SERVICES)
    assert having == []


async def test_upgrade_replaces_every_process_and_touches_no_bot(
    project: ComposeProject, client: docker.DockerClient
) -> None:
    bot = Bot(client, project)
    await bot.create()
    before = await eventually(bot.containers, within_seconds=120)
    moments: list[Counter[str]] = []

    async def watch() -> None:
        moments.append(await asyncio.to_thread(project.running))

    await project.make_aside("upgrade", f"TAG={project.second}", watch=watch)

    assert project.versions() == {name: [project.second] * count for name, count in (WORKERS | MASTERS).items()}
    assert project.environment()["PREVIOUS_TAG"] == project.first
    assert bot.containers() == before
    for master in ("bot-runner-master", "bot-runner-master-2"):
        answer = await eventually(lambda: bot.answer(master), within_seconds=60)  # noqa: B023 - awaited at once
        assert answer == {"status": "ok", "data": "ETH"}
    assert len(moments) > 1
    for worker in WORKERS:
        assert min(moment[worker] for moment in moments) == 1
    for service in SERVICES:
        assert min(moment[f"{service.name}-master"] + moment[f"{service.name}-master-2"] for moment in moments) >= 1


async def test_back_up_is_its_owners_alone_and_restores_what_was_lost(
    project: ComposeProject, mongo: MongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    password = project.environment()["MONGO_PASSWORD"]
    notes = mongo["bot_runner"]["notes_of_a_test"]
    notes.insert_one({"_id": "kept"})
    # After those of a fresh project, whose numbers are small.
    leases = [mongo[service.database][name] for service in SERVICES for name in ("partitions", "leadership")]
    for collection in leases:
        collection.insert_one({"_id": "of a test", "bot_count": 0, "lease": {"epoch": 7}})
    begun = time.time()
    seen = []

    async def watch() -> None:
        seen.append(password in await asyncio.to_thread(command_lines))

    await project.make_aside("backup", f"BACKUPS={tmp_path / 'backups'}", watch=watch)
    (saved,) = (tmp_path / "backups").iterdir()
    notes.delete_one({"_id": "kept"})
    notes.insert_one({"_id": "newer"})
    await project.make_aside("restore", f"FROM={saved}")

    assert [document["_id"] for document in notes.find()] == ["kept"]
    epochs = [document["lease"]["epoch"] for collection in leases for document in collection.find()]
    assert len(epochs) >= len(leases)
    assert min(epochs) >= int(begun)
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.iterdir()} == {0o600}
    assert {path.name for path in saved.iterdir()} == {
        *(f"{database}.mongo.gz" for database in ("bot_runner", "backtest_runner", "bot_scheduler")),
        "objects.tgz",
    }
    assert len(seen) > 1
    assert not any(seen)


async def test_down_keeps_the_data_alone_and_clean_keeps_nothing(project: ComposeProject) -> None:
    attached = project.attached_volumes()
    named = {name for name in project.volumes() if name.startswith(project.name)}
    code = list((project.work / "code").iterdir())

    await project.make_aside("down")
    left = attached & project.volumes()
    await project.make_aside("clean")

    assert code
    assert left == attached & named
    assert [name for name in project.volumes() if name.startswith(project.name)] == []
    assert list(project.work.iterdir()) == []
    assert not (project.folder / ".env").exists()
