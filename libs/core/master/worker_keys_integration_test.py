"""Worker ids and their keys, with real masters and workers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from libs.core.store.client import Database
from libs.core.transport.worker_key import WorkerKey
from libs.core.worker.session import DEPENDENCY, WorkerReplaced
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.support.eventually import eventually
from tests.support.rigs.coordination import SHORT_LIFE_SECONDS, Cluster, RunningWorker, running_cluster


@pytest.fixture
def key(tmp_path: Path) -> WorkerKey:
    return WorkerKey.load(tmp_path / "own")


@pytest.fixture
def other_key(tmp_path: Path) -> WorkerKey:
    return WorkerKey.load(tmp_path / "other")


@contextlib.asynccontextmanager
async def stream(cluster: Cluster) -> AsyncIterator[Any]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.ports[0]}", options=options) as channel:
        yield pb_grpc.CoordinationServiceStub(channel).Coordinate()  # type: ignore[no-untyped-call]


async def register(call: Any, public_key: bytes, instance_id: str = "false", worker_id: str = "a") -> Any:
    """Return the first answer of the master."""
    message = pb.Register(
        worker_id=worker_id,
        instance_id=instance_id,
        host=f"host-of-{worker_id}",
        started_at_milliseconds=10**15,
        public_key=public_key,
    )
    await call.write(pb.WorkerMessage(register=message))
    return await asyncio.wait_for(call.read(), 60)


async def code_of(call: Any) -> grpc.StatusCode:
    with contextlib.suppress(grpc.RpcError):
        while await asyncio.wait_for(call.read(), 60) is not grpc.aio.EOF:
            pass
    code: grpc.StatusCode = await call.code()
    return code


async def owning(cluster: Cluster, key: WorkerKey | None) -> RunningWorker:
    """Start a master and a worker `a` that owns the only segment."""
    await cluster.segments({1: 1})
    master = cluster.master()
    worker = cluster.worker("a", key=key)
    await eventually(lambda: worker.owns == [1])
    await eventually(lambda: master.master.counts().workers)
    return worker


async def test_registration_under_the_id_of_an_owner_is_refused_and_ends_nothing(
    database: Database, key: WorkerKey, other_key: WorkerKey
) -> None:
    async with running_cluster(database) as cluster:
        worker = await owning(cluster, key)

        codes = []
        for public_key in (b"", other_key.public):
            async with stream(cluster) as call:
                with contextlib.suppress(grpc.RpcError):
                    answer = await register(call, public_key)
                if public_key:
                    signature = other_key.sign(answer.challenge.nonce, "a", "false")
                    await call.write(pb.WorkerMessage(proof=pb.Proof(signature=signature)))
                codes.append(await code_of(call))

        assert codes == [grpc.StatusCode.PERMISSION_DENIED] * 2
        assert not worker.task.done()
        assert worker.owns == [1]


async def test_overheard_proof_is_of_no_use_in_another_stream(database: Database, key: WorkerKey) -> None:
    async with running_cluster(database) as cluster:
        worker = await owning(cluster, key)
        async with stream(cluster) as first, stream(cluster) as second:
            # As overheard from the true worker, which has the same key.
            heard = (await register(first, key.public, "a-2")).challenge.nonce
            signature = key.sign(heard, "a", "a-2")
            await register(second, key.public, "a-2")
            await second.write(pb.WorkerMessage(proof=pb.Proof(signature=signature)))

            assert await code_of(second) is grpc.StatusCode.PERMISSION_DENIED
        assert not worker.task.done()


async def test_restarted_worker_with_its_key_replaces_the_former_process(database: Database, key: WorkerKey) -> None:
    async with running_cluster(database) as cluster:
        former = await owning(cluster, key)

        restarted = cluster.worker("a", key=key)

        await eventually(lambda: restarted.owns == [1])
        with pytest.raises(WorkerReplaced):
            await former.task


async def test_lease_keeps_its_id_bound_when_the_owner_is_gone(
    database: Database, key: WorkerKey, other_key: WorkerKey
) -> None:
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS) as cluster:
        former = await owning(cluster, key)
        await former.kill()

        namesake = cluster.worker("a", host="elsewhere", key=other_key)
        await eventually(lambda: "belongs to another worker" in namesake.readiness.states[DEPENDENCY].detail)

        # Once the lease has ended the id is free.
        await eventually(lambda: namesake.owns == [1])


async def test_new_leader_knows_from_the_lease_to_whom_a_worker_id_belongs(
    database: Database, key: WorkerKey, other_key: WorkerKey
) -> None:
    async with running_cluster(database, masters=1) as cluster:
        await cluster.segments({1: 1})
        master = cluster.master()
        worker = cluster.worker("a", key=key)
        await eventually(lambda: worker.owns == [1])
        await worker.kill()
        await master.stop()

        # It may be the first one that the next leader hears of.
        false = cluster.worker("a", host="elsewhere", key=other_key)
        cluster.master()
        await eventually(lambda: "belongs to another worker" in false.readiness.states[DEPENDENCY].detail)
        restarted = cluster.worker("a", key=key)

        await eventually(lambda: restarted.owns == [1])
        assert false.owns == []


async def test_worker_of_an_older_version_registers_without_a_key(database: Database) -> None:
    async with running_cluster(database) as cluster:
        worker = await owning(cluster, None)

        assert worker.owns == [1]


async def test_unproven_registration_has_no_effect_and_ends(database: Database, key: WorkerKey) -> None:
    async with running_cluster(database, masters=1, death_seconds=0.6) as cluster:
        master = cluster.master()
        await eventually(lambda: master.master.leads)
        async with stream(cluster) as call:
            answer = await register(call, key.public)
            for _ in range(3):
                await call.write(pb.WorkerMessage(heartbeat=pb.WorkerState()))

            assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert answer.WhichOneof("kind") == "challenge"
        assert sum(master.master.counts().workers.values()) == 0
