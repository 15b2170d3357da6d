"""The protocol as a worker sees it: a bare gRPC client against a real master."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest

from libs.core.errors import UserError
from libs.core.master.metrics import MasterCollector
from libs.core.master.server import SERVICE, CoordinationServer
from libs.core.observability.metrics import registry
from libs.core.store.client import Database
from libs.core.store.processes import KnownProcess
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.support.eventually import eventually
from tests.support.rigs.coordination import AT_ONCE_SECONDS, PATIENT_DEATH_SECONDS, Cluster, running_cluster

_ANSWER_SECONDS = 60
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Client:
    """One stream, by hand."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def register(self, worker_id: str = "a", **fields: Any) -> None:
        fields = {"instance_id": f"{worker_id}-1", "host": "h"} | fields
        await self.call.write(pb.WorkerMessage(register=pb.Register(worker_id=worker_id, **fields)))

    async def heartbeat(self, held: int | None = None, **fields: Any) -> None:
        state = pb.WorkerState(held=pb.HeldSegment(segment_id=held, epoch=1) if held is not None else None, **fields)
        await self.call.write(pb.WorkerMessage(heartbeat=state))

    async def next(self, kind: str) -> Any:
        message = await self._read()
        assert message.WhichOneof("kind") == kind, message
        return getattr(message, kind)

    async def until(self, kind: str) -> None:
        """Read on until a message of this kind comes."""
        while (await self._read()).WhichOneof("kind") != kind:
            pass

    async def end(self) -> grpc.StatusCode:
        with contextlib.suppress(grpc.RpcError):
            while await asyncio.wait_for(self.call.read(), timeout=_ANSWER_SECONDS) is not grpc.aio.EOF:
                pass
        code: grpc.StatusCode = await self.call.code()
        return code

    async def _read(self) -> Any:
        message = await asyncio.wait_for(self.call.read(), timeout=_ANSWER_SECONDS)
        assert message is not grpc.aio.EOF, await self.call.details()
        return message


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(database: Database) -> AsyncIterator[Cluster]:
    async with running_cluster(database) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def connected(cluster: Cluster, number: int = 0) -> AsyncIterator[Client]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.ports[number]}", options=options) as channel:
        yield Client(pb_grpc.CoordinationServiceStub(channel).Coordinate())  # type: ignore[no-untyped-call]


async def health_of(cluster: Cluster, number: int, service: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.ports[number]}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


async def is_serving(cluster: Cluster, number: int, service: str) -> bool:
    return bool(await health_of(cluster, number, service) == SERVING)


async def leading(cluster: Cluster, number: int = 0) -> Any:
    running = cluster.master(number)
    await eventually(lambda: running.master.leads)
    return running.master


async def test_a_registration_is_answered_with_what_the_master_expects(cluster: Cluster) -> None:
    await leading(cluster)
    async with connected(cluster) as client:
        await client.register()

        registered = await client.next("registered")

    assert registered.master_id == "master-0"
    assert registered.heartbeat_interval_milliseconds == 100
    assert registered.death_timeout_milliseconds == 1000 * PATIENT_DEATH_SECONDS


async def test_an_assignment_that_was_lost_is_sent_again_with_the_next_heartbeat(cluster: Cluster) -> None:
    await cluster.segments({4: 1})
    await leading(cluster)
    async with connected(cluster) as client:
        await client.register()
        await client.next("registered")
        assert (await client.next("assignment")).segment_id == 4

        for _ in range(2):
            await client.heartbeat(held=None)
            assert (await client.next("assignment")).segment_id == 4


async def test_worker_without_segment_gets_empty_assignment(cluster: Cluster) -> None:
    await leading(cluster)
    async with connected(cluster) as client:
        await client.register()
        await client.next("registered")

        assignment = await client.next("assignment")

    assert not assignment.HasField("segment_id")
    assert assignment.reason == "no segment waits for a worker"


async def test_a_worker_that_was_silent_for_too_long_is_asked_to_register_again(database: Database) -> None:
    async with running_cluster(database, death_seconds=1.5) as cluster:
        master = await leading(cluster)
        async with connected(cluster) as client:
            await client.register()
            await client.next("registered")
            await eventually(lambda: master.snapshot().workers == [])

            await client.heartbeat()
            await client.until("register_again")
            await client.register()

            await client.until("registered")
            assert [worker.worker_id for worker in master.snapshot().workers] == ["a"]


async def test_a_worker_whose_stream_ends_is_forgotten_at_once(cluster: Cluster) -> None:
    master = await leading(cluster)
    async with connected(cluster) as client:
        await client.register()
        await client.next("registered")

    await eventually(lambda: master.snapshot().workers == [], within_seconds=AT_ONCE_SECONDS)


async def test_a_draining_worker_is_given_nothing_although_a_segment_waits(cluster: Cluster) -> None:
    await cluster.segments({4: 1})
    master = await leading(cluster)
    async with connected(cluster) as client:
        await client.register(state=pb.WorkerState(draining=True))
        await client.next("registered")

        assert not (await client.next("assignment")).HasField("segment_id")
        assert [segment.state.value for segment in master.snapshot().segments] == ["waiting"]


async def test_a_namesake_is_announced_to_the_older_process_before_its_stream_ends(cluster: Cluster) -> None:
    await leading(cluster)
    async with connected(cluster) as older, connected(cluster) as newer:
        await older.register(started_at_milliseconds=1)
        await older.next("registered")
        await older.next("assignment")
        await newer.register(instance_id="a-2", host="h2", started_at_milliseconds=2)

        replaced = await older.next("replaced")

        assert (replaced.instance_id, replaced.host) == ("a-2", "h2")
        assert await older.end() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("fields", [{"worker_id": ""}, {"instance_id": ""}])
async def test_a_registration_without_ids_is_refused(cluster: Cluster, fields: dict[str, str]) -> None:
    await leading(cluster)
    async with connected(cluster) as client:
        await client.register(**fields)

        assert await client.end() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_the_master_that_leads_is_healthy_and_takes_workers(cluster: Cluster) -> None:
    await leading(cluster, 0)
    second = cluster.master(1)
    await eventually(lambda: second.master.leader == "master-0")
    await eventually(lambda: is_serving(cluster, 0, SERVICE))

    for service in ("", SERVICE):
        assert await health_of(cluster, 0, service) == SERVING
        assert await health_of(cluster, 1, service) == NOT_SERVING
    async with connected(cluster, 1) as client:
        assert await client.end() is grpc.StatusCode.FAILED_PRECONDITION
        assert await client.call.details() == "this master is not the leader; master-0 is"


async def test_refusal_of_a_standby_carries_the_addresses_of_the_leader(cluster: Cluster) -> None:
    await leading(cluster, 0)
    second = cluster.master(1)
    await eventually(lambda: second.master.leader == "master-0")
    leader = KnownProcess("master-0", "master", "h", ["10.1.2.3", "fd00::7"], 8080, grpc_port=50051)
    await cluster.processes.seen(leader)

    async def addresses() -> list[str]:
        async with connected(cluster, 1) as client:
            assert await client.end() is grpc.StatusCode.FAILED_PRECONDITION
            return [value for key, value in await client.call.trailing_metadata() if key == "leader-address"]

    # A leader that is not registered yet is looked up again a second later.
    assert await eventually(addresses) == ["10.1.2.3:50051", "[fd00::7]:50051"]


async def test_standby_is_healthy_when_the_same_master_has_led_for_a_while(cluster: Cluster) -> None:
    await leading(cluster, 0)
    second = cluster.master(1)
    await eventually(lambda: second.master.leader == "master-0")

    assert await health_of(cluster, 1, "") == NOT_SERVING
    await eventually(lambda: is_serving(cluster, 1, ""))
    assert second.readiness.ready
    assert await health_of(cluster, 1, SERVICE) == NOT_SERVING


async def test_a_master_that_steps_down_ends_its_streams(cluster: Cluster) -> None:
    running = cluster.master()
    await eventually(lambda: running.master.leads)
    async with connected(cluster) as client:
        await client.register()
        await client.next("registered")

        # Another master has the leadership: the next renewal detects it.
        await cluster.database["leadership"].update_one({}, {"$inc": {"lease.epoch": 1}})

        assert await client.end() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_port_that_is_taken_is_an_error_with_the_remedy(cluster: Cluster) -> None:
    master = await leading(cluster)
    second = CoordinationServer(
        master, "other", f"127.0.0.1:{master.port}", heartbeat_interval_seconds=1, death_timeout_seconds=2
    )

    with pytest.raises(UserError, match="set GRPC_PORT to a free port"):
        await second.start()


async def test_the_metrics_count_segments_and_workers_by_state(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 1})
    master = await leading(cluster)
    worker = cluster.worker("a")
    await eventually(lambda: worker.owns == [1, 2])
    await eventually(lambda: [segment.state for segment in master.snapshot().segments] == ["owned", "owned"])
    shown = CollectorRegistry()
    shown.register(MasterCollector(master.counts))

    text = generate_latest(shown).decode()

    assert 'runtime_segments{state="owned"} 2.0' in text
    assert 'runtime_segments{state="waiting"} 0.0' in text
    assert 'runtime_workers{state="owning"} 1.0' in text
    assert "runtime_master_leading 1.0" in text


def grpc_calls(operation: str, outcome: str) -> float:
    labels = {"system": "grpc", "operation": operation, "outcome": outcome}
    return registry.get_sample_value("runtime_operation_seconds_count", labels) or 0


async def test_a_stream_and_its_messages_are_measured_on_both_sides(cluster: Cluster) -> None:
    messages = ("send register", "receive register", "send registered", "receive registered", "send heartbeat")
    before = {message: grpc_calls(message, "ok") for message in messages}
    streams = grpc_calls("serve Coordinate", "cancelled") + grpc_calls("serve Coordinate", "ok")
    await leading(cluster)

    worker = cluster.worker("a")
    await eventually(lambda: all(grpc_calls(message, "ok") > before[message] for message in messages))
    await worker.kill()

    # A stream counts when it has ended.
    await eventually(
        lambda: grpc_calls("serve Coordinate", "cancelled") + grpc_calls("serve Coordinate", "ok") > streams
    )


async def test_a_refused_stream_and_an_unknown_method_count_as_refused(cluster: Cluster) -> None:
    await leading(cluster)
    second = cluster.master(1)
    await eventually(lambda: second.master.leader == "master-0")
    refused, unknown = grpc_calls("serve Coordinate", "refused"), grpc_calls("serve unknown method", "refused")
    checked = grpc_calls("serve Check", "ok")

    async with connected(cluster, 1) as client:
        assert await client.end() is grpc.StatusCode.FAILED_PRECONDITION
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.ports[0]}") as channel:
        made_up: Any = channel.unary_unary("/made.up.Service/" + "x" * 50)
        with pytest.raises(grpc.aio.AioRpcError):
            await made_up(b"")
    await health_of(cluster, 0, SERVICE)

    # The client may have its answer before the server has counted it.
    await eventually(lambda: grpc_calls("serve Coordinate", "refused") == refused + 1)
    await eventually(lambda: grpc_calls("serve unknown method", "refused") == unknown + 1)
    await eventually(lambda: grpc_calls("serve Check", "ok") == checked + 1)
