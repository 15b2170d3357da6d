"""A master process, the same for all three services."""

import asyncio
import secrets
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from aiohttp import web

from libs.core.aio.wake import Wake
from libs.core.config.connection_settings import NatsSettings
from libs.core.config.coordination_settings import (
    AutoscalerSettings,
    CompactionSettings,
    CoordinationSettings,
    LeaseSettings,
    PartitionSettings,
)
from libs.core.config.query_settings import QuerySettings
from libs.core.config.retention_settings import RetentionSettings
from libs.core.config.transport_settings import TransportSettings
from libs.core.errors import Retryable
from libs.core.events.connection import NatsConnection
from libs.core.events.wakeups import WakeUps
from libs.core.leases.lease import Holder
from libs.core.leases.lease_keeper import LeaseTiming
from libs.core.master.api import MasterApi
from libs.core.master.leader_proxy import LeaderProxy
from libs.core.master.master import Master
from libs.core.master.metrics import MasterCollector
from libs.core.master.observatory import Observatory
from libs.core.master.page.handlers import StatusPage
from libs.core.master.query_port import PATH as QUERY_PATH
from libs.core.master.query_port import QueryHandler, QueryPort
from libs.core.master.query_router import QueryRouter
from libs.core.master.unowned import UnownedEntities
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe, registry
from libs.core.process.presence import be_present, reachable_at
from libs.core.process.process import Process, ProcessSettings
from libs.core.store.cordons import CordonStore
from libs.core.store.entities import EntityStore
from libs.core.store.entity_counts import EntityCounts
from libs.core.store.leases import LeadershipStore, LeaseStore
from libs.core.store.partitions import PartitionStore
from libs.core.store.processes import KnownProcess, ProcessStore
from libs.core.transport.peer_limits import PeerLimits
from libs.core.transport.pod_tokens import PodProofs
from libs.core.transport.security import TransportSecurity

log = get_logger(__name__)

_REPAIR_SECONDS = 10.0
# A new leader reads all deletions, and then only recent ones.
_DELETIONS_SECONDS = 600.0

Loop = tuple[str, Callable[[], Awaitable[None]]]
Loops = Callable[[Process, "Master", "MasterSettings"], Sequence[Loop]]
"""Creates loops that run only while this master leads, such as the autoscaler."""


@dataclass(frozen=True)
class MasterSettings(ProcessSettings):
    """The settings of a master."""

    nats: NatsSettings
    lease: LeaseSettings
    coordination: CoordinationSettings
    transport: TransportSettings
    partitions: PartitionSettings
    autoscaler: AutoscalerSettings
    compaction: CompactionSettings
    retention: RetentionSettings
    queries: QuerySettings


class MasterRole:
    """Decides which worker owns which segment.

    Args:
        loops: run beside the master while it leads.
        pods: returns what is required of the tokens of worker pods.
    """

    name = "master"
    settings = MasterSettings

    def __init__(self, *loops: Loops, pods: Callable[[MasterSettings], PodProofs] = lambda _: PodProofs()) -> None:
        self._loops = loops
        self._pods = pods
        self._api = MasterApi()
        self._queries = QueryHandler()
        self._master: Master | None = None

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes of the API, the status page, and a probe."""
        probe = web.get("/grpcz", self._grpcz)
        # Beside the query port, for standbys and commands, which know this port.
        query = web.post(QUERY_PATH, self._queries.handle)
        return [*self._api.routes(), *StatusPage(self._api).routes(), probe, query]

    async def build(self, process: Process, settings: MasterSettings) -> None:
        """Declare the components of the master."""
        partitions = PartitionStore(process.database, process.service.collection, settings.partitions.max_per_partition)
        master_name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        own_loops: list[Loop] = []
        master = Master(
            segments=LeaseStore(process.database, settings.lease.life_seconds),
            leadership=LeadershipStore(process.lease_database, settings.lease.life_seconds),
            cordons=CordonStore(process.database),
            processes=ProcessStore(process.database),
            holder=Holder(master_name, uuid.uuid4().hex, socket.gethostname()),
            settings=settings.coordination,
            timing=LeaseTiming.of(settings.lease.life_seconds, settings.lease.renew_interval_seconds),
            address=f"{settings.transport.host}:{settings.coordination.grpc_port}",
            readiness=process.readiness,
            security=_security(process, settings.transport),
            pods=self._pods(settings),
            limits=_limits(settings.transport),
            connection_limits=_limits(settings.transport),
            while_leading=own_loops,
        )
        self._master = master
        entities = EntityStore(process.database, process.service.collection, partitions)
        own_loops.append(("repair", lambda: _repair_for_ever(entities, master)))
        for loops in self._loops:
            own_loops.extend(loops(process, master, settings))
        proxy = self._show(process, settings, master, master_name)
        if process.service.answers_queries:
            self._queries.open(
                QueryRouter(entities, master, process.service.noun), proxy, settings.queries.timeout_seconds
            )
            port = QueryPort(settings.queries, settings.http, self._queries)
            await port.start()
            process.lifecycle.on_close("query port", port.close, limit_seconds=3)
        registry.register(MasterCollector(master.counts))
        unowned = UnownedEntities(EntityCounts(process.database, process.service.collection))
        own_loops.append(("entities without an owner", unowned.count_for_ever))
        registry.register(unowned)
        process.lifecycle.part("master", master.run)
        process.lifecycle.on_stop("resign", lambda: process.lifecycle.end_part("master"), limit_seconds=5)
        connection = NatsConnection.of(
            settings.nats,
            name=f"{process.service.name} master",
            readiness=process.readiness,
            inbox=f"{process.service.name}-master",
        )
        if connection is not None:
            process.lifecycle.part("nats", connection.run)
            process.lifecycle.part("wake-ups", lambda: _heed(WakeUps(connection, process.service.name), master))

    async def _grpcz(self, request: web.Request) -> web.Response:
        """Answer the health status of gRPC, for probes that do not support TLS."""
        serving = self._master is not None and self._master.is_ready
        return web.json_response({"serving": serving}, status=200 if serving else 503)

    def _show(self, process: Process, settings: MasterSettings, master: Master, name: str) -> LeaderProxy:
        """Serve HTTP, and publish the address. Return what forwards requests to the leader."""
        observatory = Observatory(process.service, process.database, master.snapshot)
        process.lifecycle.on_close("observatory", observatory.close, limit_seconds=2)
        proxy = LeaderProxy(master.leader_directory)
        process.lifecycle.on_close("leader proxy", proxy.close, limit_seconds=2)
        self._api.open(observatory, proxy)
        token = secrets.token_urlsafe(32)
        # A standby forwards requests with it.
        process.http.accept(token)
        here = KnownProcess(
            name,
            self.name,
            socket.gethostname(),
            reachable_at(settings.http.host),
            process.http.port,
            token,
            public_url=settings.http.public_url or "",
            grpc_port=settings.coordination.grpc_port,
        )
        process.lifecycle.part("presence", lambda: be_present(ProcessStore(process.database), here))
        return proxy


def _limits(settings: TransportSettings) -> PeerLimits:
    return PeerLimits(settings.max_workers, settings.max_workers_per_address)


def _security(process: Process, settings: TransportSettings) -> TransportSecurity:
    security = TransportSecurity.of(settings, process.service.name)
    if not security.proves_workers and not settings.is_private:
        log.info(
            "everyone who reaches the gRPC port can register as a worker",
            host=settings.host,
            remedy="set TLS_MODE=require, or GRPC_TOKEN_FILE, on masters and workers",
        )
    return security


async def _repair_for_ever(entities: EntityStore, master: Master) -> None:
    """Repair what crashed processes left incomplete: deletions, and the counts of partitions."""
    within_seconds = None
    while True:
        try:
            with observe("reconcile", "partitions"):
                finished = await entities.finish_deletions(within_seconds)
                if await entities.partitions.repair() or finished.occupancy_changed:
                    master.changed()
            within_seconds = _DELETIONS_SECONDS
        except Retryable as error:
            log.warning("entities and partition counts could not be checked", error=str(error))
        await asyncio.sleep(_REPAIR_SECONDS)


async def _heed(wake_ups: WakeUps, master: Master) -> None:
    wake = Wake()
    await wake_ups.on_partitions(wake, master.led_by)
    while True:
        await wake.wait_at_most(None)
        master.changed()
