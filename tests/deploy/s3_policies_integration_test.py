"""The policies of deploy/users/s3-policies.py on a real S3 server: each role does what it does, and nothing else."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from libs.core.config.connection_settings import StorageSettings
from libs.core.config.settings_loader import load
from libs.core.http.health import Readiness
from libs.core.storage.errors import StorageRejected
from libs.core.storage.object_store import ObjectStore, Piece
from tests.deploy.manifests import ROOT, USERS
from tools.stack.s3 import S3Server

SCRIPT = ROOT / "deploy" / "users" / "s3-policies.py"
MASTERS = [role for role in USERS if role.endswith("-master")]
WORKERS = [role for role in USERS if role.endswith("-worker")]
BUCKETS = ("bots", "logs", "results", "bot-state")
OLD = "old"
# The parts of a multipart upload have at least 5 MiB.
LARGE = bytes(5 * 1024 * 1024)

READS = {("bots", "read")}
WRITES_LOGS = {("logs", "read"), ("logs", "write"), ("logs", "remove")}
SWEEPS = {("bots", "read"), ("bots", "remove"), ("logs", "read"), ("logs", "remove")}


def all_of(bucket: str) -> set[tuple[str, str]]:
    return {(bucket, "read"), (bucket, "write"), (bucket, "remove")}


RIGHTS = {
    "bot-runner-worker": READS | WRITES_LOGS | all_of("bot-state"),
    "bot-scheduler-worker": READS | WRITES_LOGS | all_of("bot-state"),
    "backtest-runner-worker": READS | WRITES_LOGS | all_of("results"),
    "bot-runner-master": SWEEPS | {("bot-state", "read"), ("bot-state", "remove")},
    "bot-scheduler-master": SWEEPS | {("bot-state", "read"), ("bot-state", "remove")},
    "backtest-runner-master": SWEEPS | {("results", "read"), ("results", "remove")},
}


def printed(*arguments: str) -> dict[str, Any]:
    """The policy that the script prints."""
    ran = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(ran.stdout))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """A server with the buckets, an object in each, and a user for each role."""
    async with S3Server.start(tmp_path_factory.mktemp("s3")) as started:
        await asyncio.to_thread(prepare, started)
        yield started


def prepare(server: S3Server) -> None:
    root = Minio(server.endpoint, server.access_key, server.secret_key, secure=False)
    credentials = StaticProvider(server.access_key, server.secret_key)
    admin = MinioAdmin(endpoint=server.endpoint, credentials=credentials, secure=False)
    for bucket in BUCKETS:
        root.make_bucket(bucket)
    for role in USERS:
        admin.user_add(role, secret_of(role))
        admin.policy_add(role, policy=printed("user", role))
        admin.policy_set(role, user=role)


def secret_of(role: str) -> str:
    return f"secret-of-{role}"


@asynccontextmanager
async def store_of(server: S3Server, role: str) -> AsyncIterator[ObjectStore]:
    key, secret = (role, secret_of(role)) if role else (server.access_key, server.secret_key)
    environ = {"MINIO_ENDPOINT": server.endpoint, "MINIO_ACCESS_KEY_ID": key, "MINIO_SECRET_ACCESS_KEY": secret}
    store = ObjectStore(load(StorageSettings, environ=environ))
    try:
        yield store
    finally:
        await store.close()


async def allowed(store: ObjectStore, bucket: str, action: str) -> bool:
    try:
        if action == "read":
            await store.get(bucket, OLD)
        elif action == "write":
            await store.put(bucket, "new", b"x")
        else:
            await store.remove(bucket, OLD)
    except StorageRejected:
        return False
    return True


@pytest.mark.parametrize("role", USERS)
async def test_key_of_a_role_reaches_its_buckets_alone(server: S3Server, role: str) -> None:
    found = set()
    async with store_of(server, "") as root, store_of(server, role) as store:
        for bucket in BUCKETS:
            for action in ("read", "write", "remove"):
                await root.put(bucket, OLD, b"x")
                if await allowed(store, bucket, action):
                    found.add((bucket, action))
        with pytest.raises(StorageRejected):
            await store.ensure_bucket("another")

    assert found == RIGHTS[role]


@pytest.mark.parametrize("role", WORKERS)
async def test_worker_finds_its_buckets_and_appends_to_a_log(server: S3Server, role: str) -> None:
    async with store_of(server, role) as store:
        await asyncio.wait_for(store.wait_until_up(Readiness(), BUCKETS), 60)
        for part in ("part-1", "part-2"):
            await store.put("logs", part, LARGE)
        await store.compose("logs", f"{role}.log", [Piece("part-1"), Piece("part-2")])
        assert (await store.stat("logs", f"{role}.log")).size == 2 * len(LARGE)
        assert f"{role}.log" in [info.key async for info in store.list("logs", role)]


@pytest.mark.parametrize("role", MASTERS)
async def test_master_lists_what_it_may_remove(server: S3Server, role: str) -> None:
    async with store_of(server, "") as root, store_of(server, role) as store:
        await root.put("logs", OLD, b"x")
        await store.now("logs")
        assert OLD in [info.key async for info in store.list("logs", "")]


def test_policy_of_a_bucket_gives_each_role_what_its_own_policy_gives() -> None:
    policies = {bucket: printed("bucket", bucket)["Statement"] for bucket in BUCKETS}
    for role in USERS:
        own = [
            {name: value for name, value in statement.items() if name != "Principal"}
            for statements in policies.values()
            for statement in statements
            if statement["Principal"] == [role]
        ]
        wanted = printed("user", role)["Statement"]
        assert sorted(own, key=repr) == sorted(wanted, key=repr)


def test_unknown_role_is_refused_with_the_names_of_all() -> None:
    ran = subprocess.run([sys.executable, SCRIPT, "user", "x"], capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 2
    assert all(role in ran.stderr for role in USERS)
