"""Masters' servers and workers' streams over real gRPC, with certificates made here."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from libs.core.aio.backoff import Backoff
from libs.core.coordination import WorkerIdentity, WorkerState
from libs.core.http.health import Readiness
from libs.core.master.registry import SessionId
from libs.core.master.server import CoordinationServer
from libs.core.transport.certificates import certificate_files
from libs.core.transport.grpc_listener import GrpcListener, PortTaken
from libs.core.transport.peer_limits import PeerLimits
from libs.core.transport.pod_tokens import PodProofs, PodTokenUnchecked, ReviewedPod
from libs.core.transport.security import TransportSecurity
from libs.core.transport.tokens import SharedTokens, token_file
from libs.core.transport.worker_key import WorkerKey
from libs.core.worker.session import DEPENDENCY, MasterSession
from proto.runtime.v1 import coordination_pb2 as pb
from proto.runtime.v1 import coordination_pb2_grpc as pb_grpc
from tests.support.certificates import Authority, Files
from tests.support.eventually import eventually

MASTER, WORKER = "master.bot-runner.the0", "worker.bot-runner.the0"
OLD, NEW = "old-token-of-20-bytes", "new-token-of-20-bytes"
NONE = SharedTokens()


class Registrations:
    """A master's decisions: it takes every worker that the server lets through."""

    leads = True
    leader = "this"

    async def leader_addresses(self) -> Sequence[str]:
        return ()

    def __init__(self) -> None:
        self.registered: list[str] = []
        self.connected: set[SessionId] = set()

    def is_bound(self, worker_id: str, public_key: bytes) -> bool:
        return bool(public_key)

    def register(self, session: SessionId, identity: WorkerIdentity, state: WorkerState) -> None:
        self.registered.append(identity.worker_id)
        self.connected.add(session)

    def heartbeat(self, session: SessionId, state: WorkerState) -> None:
        pass

    def leave(self, session: SessionId) -> None:
        self.connected.discard(session)


class Rig:
    """One master's server, and any number of workers."""

    def __init__(self) -> None:
        self.workers = Registrations()
        self.server: CoordinationServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(
        self,
        security: TransportSecurity,
        *,
        death_timeout_seconds: float = 60,
        pods: PodProofs | None = None,
        **limits: PeerLimits,
    ) -> None:
        server = CoordinationServer(
            self.workers,
            "m",
            "127.0.0.1:0",
            heartbeat_interval_seconds=0.1,
            death_timeout_seconds=death_timeout_seconds,
            security=security,
            pods=pods,
            **limits,
        )
        await server.start()
        self.server = server

    @property
    def target(self) -> str:
        assert self.server is not None
        return f"127.0.0.1:{self.server.port}"

    def worker(
        self, security: TransportSecurity, name: str = "a", key: WorkerKey | None = None
    ) -> tuple[MasterSession, Readiness]:
        readiness = Readiness()
        session = MasterSession(
            WorkerIdentity(name, f"{name}-1", "host", public_key=key.public if key is not None else b""),
            [self.target],
            state=WorkerState,
            assigned=lambda _: None,
            readiness=readiness,
            backoff=Backoff(0.05, 0.2),
            security=security,
            key=key,
        )
        self._tasks.append(asyncio.create_task(session.run()))
        return session, readiness

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.server is not None:
            await self.server.stop(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


def tls(mode: Any, files: Files, tokens: SharedTokens = NONE) -> TransportSecurity:
    certificates = certificate_files(("CA", files.authority), ("CERT", files.certificate), ("KEY", files.key))
    return TransportSecurity("bot-runner", mode, certificates, tokens)


def detail(readiness: Readiness) -> str:
    return readiness.states[DEPENDENCY].detail


async def is_refused(readiness: Readiness, part: str) -> None:
    await eventually(lambda: part in detail(readiness))


@contextlib.asynccontextmanager
async def stream(target: str, security: TransportSecurity, *, encrypted: bool) -> AsyncIterator[Any]:
    """A stream by hand."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with security.channel(target, options, encrypted=encrypted) as channel:
        yield pb_grpc.CoordinationServiceStub(channel).Coordinate()  # type: ignore[no-untyped-call]


async def code_of(call: Any) -> grpc.StatusCode:
    with contextlib.suppress(grpc.RpcError):
        while await asyncio.wait_for(call.read(), timeout=60) is not grpc.aio.EOF:
            pass
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize("mode", ["allow", "require"])
async def test_worker_and_master_of_one_service_connect_with_tls(rig: Rig, authority: Authority, mode: str) -> None:
    await rig.serve(tls(mode, authority.issue("m", MASTER)))

    with capture_logs() as logs:
        session, _ = rig.worker(tls(mode, authority.issue("w", WORKER)))
        await eventually(lambda: session.master_id == "m")

    assert [line for line in logs if "without TLS" in line["event"]] == []


@pytest.mark.parametrize(
    "name", ["worker.bot-scheduler.the0", MASTER, "bot-runner-worker", "worker.bot-runner.the0.example"]
)
async def test_certificate_of_another_role_or_service_is_no_worker(rig: Rig, authority: Authority, name: str) -> None:
    await rig.serve(tls("require", authority.issue("m", MASTER)))

    _, readiness = rig.worker(tls("require", authority.issue("other", name)))

    await is_refused(readiness, f"PERMISSION_DENIED: this master accepts certificates of {WORKER}; this one is of")
    assert rig.workers.registered == []


@pytest.mark.parametrize("name", [WORKER, "master.bot-scheduler.the0", "localhost"])
async def test_certificate_of_another_role_or_service_is_no_master(rig: Rig, authority: Authority, name: str) -> None:
    await rig.serve(tls("require", authority.issue("false", name, addresses=["127.0.0.1"])))

    session, readiness = rig.worker(tls("require", authority.issue("w", WORKER)))

    await is_refused(readiness, "Hostname Verification Check failed")
    assert session.master_id is None
    assert rig.workers.registered == []


async def test_certificates_of_a_strange_authority_are_refused_on_both_sides(
    rig: Rig, authority: Authority, stranger: Authority
) -> None:
    true_master, true_worker = authority.issue("m", MASTER), authority.issue("w", WORKER)
    false_worker = stranger.issue("fw", WORKER)
    await rig.serve(tls("require", true_master))

    # It trusts the master; the master does not trust it.
    _, trusting = rig.worker(
        tls("require", Files(true_worker.authority, false_worker.certificate, false_worker.key)), "false"
    )
    _, distrusting = rig.worker(tls("require", false_worker), "strict")

    await is_refused(trusting, "running entities continue")
    await is_refused(distrusting, "no connection: failed to connect")
    assert rig.workers.registered == []


async def test_plain_worker_cannot_reach_a_master_that_requires_tls(rig: Rig, authority: Authority) -> None:
    await rig.serve(tls("require", authority.issue("m", MASTER)))

    _, readiness = rig.worker(TransportSecurity())

    await is_refused(readiness, "running entities continue")
    assert rig.workers.registered == []


async def test_worker_that_requires_tls_does_not_join_a_plain_master(rig: Rig, authority: Authority) -> None:
    await rig.serve(TransportSecurity())

    session, readiness = rig.worker(tls("require", authority.issue("w", WORKER)))

    await is_refused(readiness, "no connection")
    assert session.master_id is None
    assert rig.workers.registered == []


async def test_master_that_allows_tls_takes_plain_workers_beside_proven_ones(rig: Rig, authority: Authority) -> None:
    await rig.serve(tls("allow", authority.issue("m", MASTER)))

    for name, security in {
        "old": TransportSecurity(),
        "between": tls("allow", authority.issue("w", WORKER)),
        "new": tls("require", authority.issue("w2", WORKER)),
    }.items():
        rig.worker(security, name)

    await eventually(lambda: set(rig.workers.registered) == {"old", "between", "new"})


async def test_worker_that_allows_tls_joins_an_older_master_and_warns_once(rig: Rig, authority: Authority) -> None:
    await rig.serve(TransportSecurity())

    with capture_logs() as logs:
        session, _ = rig.worker(tls("allow", authority.issue("w", WORKER)))
        await eventually(lambda: session.master_id == "m")
        assert rig.server is not None
        rig.server.end_all("to see a second stream")
        await eventually(lambda: len(rig.workers.registered) == 2)

    warnings = [line for line in logs if "without TLS" in line["event"]]
    assert [line["log_level"] for line in warnings] == ["warning"]


async def test_master_that_allows_tls_still_refuses_a_certificate_of_another_role(
    rig: Rig, authority: Authority
) -> None:
    await rig.serve(tls("allow", authority.issue("m", MASTER)))
    other = tls("require", authority.issue("other", "worker.bot-scheduler.the0"))

    async with stream(rig.target, other, encrypted=True) as call:
        assert await code_of(call) is grpc.StatusCode.PERMISSION_DENIED


async def test_replaced_certificates_are_used_without_a_restart(rig: Rig, authority: Authority) -> None:
    """Both sides move to a new authority, by one that trusts both, while the worker stays registered."""
    master, worker = authority.issue("rm", MASTER), authority.issue("rw", WORKER)
    await rig.serve(tls("require", master))
    session, _ = rig.worker(tls("require", worker))
    await eventually(lambda: session.master_id == "m")
    successor = Authority(master.certificate.parent / "successor", "successor")
    both = master.authority.read_bytes() + successor.certificate.read_bytes()
    new_master, new_worker = successor.issue("m", MASTER), successor.issue("w", WORKER)
    for files in (master, worker):
        files.authority.write_bytes(both)

    # The stream is opened again with each replacement.
    for files, new in ((master, new_master), (worker, new_worker)):
        new.authority.write_bytes(both)
        files.replace_by(new)
    await eventually(lambda: len(rig.workers.registered) >= 2)
    for files in (master, worker):
        files.authority.write_bytes(successor.certificate.read_bytes())

    async with stream(rig.target, tls("require", successor.issue("w2", WORKER)), encrypted=True) as call:
        await call.write(pb.WorkerMessage(register=pb.Register(worker_id="b", instance_id="b")))
        assert (await asyncio.wait_for(call.read(), 60)).WhichOneof("kind") == "registered"
    await eventually(lambda: session.master_id == "m")


@pytest.mark.parametrize("mode", ["allow", "require"])
async def test_worker_of_a_removed_authority_loses_its_stream_and_connection(
    rig: Rig, authority: Authority, stranger: Authority, mode: str
) -> None:
    master = authority.issue("xm", MASTER)
    both = authority.certificate.read_bytes() + stranger.certificate.read_bytes()
    master.authority.write_bytes(both)
    await rig.serve(tls(mode, master))
    removed = stranger.issue("xw", WORKER)
    removed.authority.write_bytes(both)
    session, _ = rig.worker(tls("require", removed))
    await eventually(lambda: session.master_id == "m")

    master.authority.write_bytes(authority.certificate.read_bytes())

    await eventually(lambda: session.master_id is None and not rig.workers.connected)
    other, _ = rig.worker(tls("require", authority.issue("xw2", WORKER)), "b")
    await eventually(lambda: other.master_id == "m")
    assert rig.workers.registered == ["a", "b"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (SharedTokens(), "UNAUTHENTICATED: this worker presented no token; set GRPC_TOKEN"),
        (SharedTokens(lambda: (NEW,)), "UNAUTHENTICATED: this worker presented another token"),
    ],
    ids=["none", "another"],
)
async def test_worker_without_the_shared_token_is_refused(rig: Rig, sent: SharedTokens, reason: str) -> None:
    await rig.serve(TransportSecurity(tokens=SharedTokens(lambda: (OLD,))))

    _, readiness = rig.worker(TransportSecurity(tokens=sent))

    await is_refused(readiness, reason)
    assert rig.workers.registered == []


async def test_token_is_required_with_tls_too(rig: Rig, authority: Authority) -> None:
    tokens = SharedTokens(lambda: (OLD,))
    await rig.serve(tls("require", authority.issue("m", MASTER), tokens))
    worker = authority.issue("w", WORKER)

    _, without = rig.worker(tls("require", worker), "without")
    session, _ = rig.worker(tls("require", worker, tokens), "with")

    await is_refused(without, "presented no token")
    await eventually(lambda: session.master_id == "m")


async def test_worker_with_a_token_joins_a_master_without_one(rig: Rig) -> None:
    await rig.serve(TransportSecurity())

    session, _ = rig.worker(TransportSecurity(tokens=SharedTokens(lambda: (OLD,))))

    await eventually(lambda: session.master_id == "m")


async def test_tokens_are_replaced_without_a_restart_and_without_a_lost_stream(rig: Rig, tmp_path: Path) -> None:
    files = [tmp_path / "of-master", tmp_path / "of-worker"]
    for file in files:
        file.write_text(OLD)
    await rig.serve(TransportSecurity(tokens=token_file("T", files[0])))
    session, readiness = rig.worker(TransportSecurity(tokens=token_file("T", files[1])))
    await eventually(lambda: session.master_id == "m")

    files[0].write_text(f"{NEW}\n{OLD}\n")
    files[1].write_text(f"{NEW}\n")
    assert rig.workers.registered == ["a"]
    files[0].write_text(f"{NEW}\n")

    # Its stream was opened with the old token; the next one has the new one.
    await eventually(lambda: rig.workers.registered == ["a", "a"] and session.master_id == "m")
    assert readiness.states[DEPENDENCY].ok


async def test_streams_beyond_the_limit_of_an_address_are_refused_until_one_ends(rig: Rig) -> None:
    await rig.serve(TransportSecurity(), limits=PeerLimits(total=10, per_address=1))
    plain = TransportSecurity()

    async with stream(rig.target, plain, encrypted=False) as first:
        await first.write(pb.WorkerMessage(register=pb.Register(worker_id="a", instance_id="a")))
        await first.read()
        async with stream(rig.target, plain, encrypted=False) as second:
            assert await code_of(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "workers of 127.0.0.1, which is the limit" in await second.details()
    session, _ = rig.worker(plain, "b")

    await eventually(lambda: session.master_id == "m")


async def test_connections_beyond_the_limit_of_an_address_are_closed_where_tls_is_allowed(
    rig: Rig, authority: Authority
) -> None:
    await rig.serve(tls("allow", authority.issue("m", MASTER)), connection_limits=PeerLimits(10, 1))
    assert rig.server is not None

    with socket.create_connection(("127.0.0.1", rig.server.port)):
        _, readiness = rig.worker(TransportSecurity())
        await is_refused(readiness, "no connection")
    await eventually(lambda: rig.workers.registered == ["a"])


async def test_listener_that_could_not_listen_again_tries_until_it_can(
    authority: Authority, stranger: Authority
) -> None:
    master = authority.issue("again", MASTER)
    taken = True

    def register(server: grpc.aio.Server) -> None:
        if len(made) > 1 and taken:
            raise OSError("no resources, as the test requires")

    made: list[None] = []

    def counted(server: grpc.aio.Server) -> None:
        made.append(None)
        register(server)

    listener = GrpcListener(
        "127.0.0.1:0", tls("require", master), counted, options=[], interceptors=[], limits=PeerLimits()
    )
    await listener.start()
    try:
        master.authority.write_bytes(authority.certificate.read_bytes() + stranger.certificate.read_bytes())
        await eventually(lambda: len(made) > 2)
        taken = False

        async with tls("require", authority.issue("w", WORKER)).channel(
            f"127.0.0.1:{listener.port}", [], encrypted=True
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
    finally:
        await listener.stop(0)


@pytest.mark.parametrize("mode", ["off", "allow", "require"])
async def test_address_that_is_in_use_is_an_error_with_the_remedy(rig: Rig, authority: Authority, mode: str) -> None:
    def security() -> TransportSecurity:
        return tls(mode, authority.issue("m", MASTER))

    await rig.serve(security())
    second = CoordinationServer(
        rig.workers, "m2", rig.target, heartbeat_interval_seconds=1, death_timeout_seconds=2, security=security()
    )

    with pytest.raises(PortTaken, match="set GRPC_PORT to a free port"):
        await second.start()


async def test_stream_without_a_registration_ends(rig: Rig) -> None:
    await rig.serve(TransportSecurity(), death_timeout_seconds=0.5)

    async with stream(rig.target, TransportSecurity(), encrypted=False) as call:
        assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED


async def pod_of(token: str) -> ReviewedPod:
    """Review in place of the API server: a token names its pod."""
    if token.startswith("unknown-"):
        raise PodTokenUnchecked("no answer")
    return ReviewedPod("the0", "worker", token.removesuffix("-token-of-the-pod"))


@pytest.mark.parametrize(
    ("token", "refusal"),
    [
        ("a-token-of-the-pod", ""),
        ("b-token-of-the-pod", "PERMISSION_DENIED"),
        ("unknown-token-of-the-pod", "UNAVAILABLE"),
        (None, "UNAUTHENTICATED"),
    ],
)
async def test_worker_registers_under_the_name_of_its_pod_alone(rig: Rig, token: str | None, refusal: str) -> None:
    await rig.serve(TransportSecurity(), pods=PodProofs("require", "the0", "worker", pod_of))
    own = (lambda: token) if token is not None else None

    session, readiness = rig.worker(TransportSecurity(pod_token=own), "a")

    if refusal:
        await eventually(lambda: refusal in readiness.states[DEPENDENCY].detail)
        assert rig.workers.registered == []
    else:
        await eventually(lambda: session.master_id)
        assert rig.workers.registered == ["a"]


async def test_worker_that_proves_the_key_of_its_id_needs_no_review_while_there_is_none(
    rig: Rig, tmp_path: Path
) -> None:
    await rig.serve(TransportSecurity(), pods=PodProofs("require", "the0", "worker", pod_of))
    security = TransportSecurity(pod_token=lambda: "unknown-token-of-the-pod")

    session, _ = rig.worker(security, "a", key=WorkerKey.load(tmp_path))

    await eventually(lambda: session.master_id)
    assert rig.workers.registered == ["a"]
