"""Settings of masters, workers and their segments."""

import math
import os
import re
import socket
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from libs.core.config.settings_loader import Group, Named, Seconds
from libs.core.placement import Labels, labels_in

_ADDRESS = "host or host:port"
_KUBERNETES_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
_KUBERNETES_ALLOWED = "a Kubernetes name: lower-case letters, digits, dots and dashes"


def _labels(value: object) -> object:
    return labels_in(value) if isinstance(value, str) else value


class IdentitySettings(Group):
    """The identity of this worker."""

    worker_id: Annotated[
        str,
        Named(
            "WORKER_ID",
            flag="--worker-id",
            allowed="1 to 200 characters without spaces",
            default_text="<hostname>-<pid>",
        ),
        Field(
            default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
            pattern=r"^[^\s\x00-\x1f\x7f]{1,200}$",
            description="name of this worker; with the same name after a restart it takes over its segments at once",
        ),
    ]
    labels: Annotated[
        Labels,
        Named(
            "WORKER_LABELS",
            allowed="KEY=VALUE, with commas between (egress=static-1, region=eu)",
            default_text="none",
        ),
        Field(
            description="labels of this worker, such as a name for its stable egress address; an entity whose "
            "config.placement requires labels runs only on workers that have them"
        ),
        BeforeValidator(_labels),
    ] = frozenset()
    template: Annotated[
        str,
        Named("POD_TEMPLATE", default_text="none"),
        Field(
            max_length=200,
            description="hash of the template of the worker's pod: in a rollout, segments move to the newest one, each "
            "once; unset: the version stands for it",
        ),
    ] = ""


BOTS_END_BEFORE_LEASE_SECONDS = 1.2
"""How long before the end of its lease a bot may get SIGTERM from its init, which checks five times a second."""


class LeaseSettings(Group):
    """The duration and renewal of leases."""

    life_seconds: Annotated[
        Seconds,
        Named("LEASE_SECONDS", unit="seconds"),
        Field(ge=1.5, le=300, description="duration of a lease; after it, the bots of a dead worker start elsewhere"),
    ] = 5.0
    renew_interval_seconds: Annotated[
        Seconds,
        Named("LEASE_RENEW_SECONDS", unit="seconds"),
        Field(ge=0.1, le=100, description="interval between renewals of a lease"),
    ] = 2.0

    @model_validator(mode="after")
    def _one_renewal_may_fail(self) -> Self:
        if self.renew_interval_seconds * 2 > self.life_seconds:
            raise ValueError(
                f"LEASE_RENEW_SECONDS={self.renew_interval_seconds:g} is more than half of "
                f"LEASE_SECONDS={self.life_seconds:g}, "
                "so that one slow renewal would stop every bot; lower it or raise the other"
            )
        # A tenth of the life is left for the request and its way to the containers.
        least = (self.renew_interval_seconds + BOTS_END_BEFORE_LEASE_SECONDS) / 0.9
        if self.life_seconds < least:
            raise ValueError(
                f"LEASE_SECONDS={self.life_seconds:g} is too short for LEASE_RENEW_SECONDS="
                f"{self.renew_interval_seconds:g}: bots end {BOTS_END_BEFORE_LEASE_SECONDS:g} s before their lease, "
                f"renewed or not yet; raise it to {math.ceil(least * 10) / 10:g} or more, or lower the other"
            )
        return self


class CoordinationSettings(Group):
    """The connection between masters and workers."""

    mode: Annotated[
        Literal["cluster", "standalone"],
        Named("MODE", flag="--mode"),
        Field(description="cluster: workers find the master by MASTER_SERVICE; standalone: by MASTER_HOST"),
    ] = "cluster"
    master_service: Annotated[
        str,
        Named(
            "MASTER_SERVICE",
            allowed=f"{_ADDRESS}, or several with commas between",
            default_of=lambda service: f"{service.name}-master",
        ),
        Field(
            pattern=r"^[^\s/,]+(,[^\s/,]+)*$",
            description="addresses of the masters in mode cluster, tried in turn; so are those that a name resolves to",
        ),
    ]
    master_host: Annotated[
        str,
        Named("MASTER_HOST", allowed=_ADDRESS),
        Field(pattern=r"^[^\s/]+$", description="address of the master in mode standalone"),
    ] = "localhost"
    grpc_port: Annotated[
        int,
        Named("GRPC_PORT", default_of=lambda service: service.grpc_port),
        Field(
            ge=0, le=65535, description="port on which masters listen and to which workers connect; 0: any free port"
        ),
    ]
    heartbeat_interval_seconds: Annotated[
        Seconds,
        Named("HEARTBEAT_INTERVAL_SECONDS", unit="seconds"),
        Field(ge=0.05, le=60, description="interval between a worker's heartbeats to the master"),
    ] = 2.0
    death_timeout_seconds: Annotated[
        Seconds,
        Named("DEATH_TIMEOUT_SECONDS", unit="seconds"),
        Field(ge=0.1, le=600, description="time without a heartbeat after which the master considers a worker dead"),
    ] = 5.0
    assign_interval_seconds: Annotated[
        Seconds,
        Named("ASSIGN_INTERVAL_SECONDS", unit="seconds"),
        Field(ge=0.05, le=600, description="interval at which the master assigns segments when no event triggers it"),
    ] = 10.0
    settle_seconds: Annotated[
        Seconds,
        Named("SETTLE_SECONDS", unit="seconds"),
        Field(
            ge=0,
            le=60,
            description="time that the master waits after a worker has registered before it assigns segments without "
            "an owner, so that they are spread over all workers that register",
        ),
    ] = 0.5
    max_segments_per_worker: Annotated[
        int,
        Named("MAX_SEGMENTS_PER_WORKER"),
        Field(
            ge=1,
            le=1_000_000,
            description="number of segments per worker up to which they are spread evenly; a worker owns more while no "
            "other worker can take them, and releases them when one can",
        ),
    ] = 16
    max_segment: Annotated[
        int,
        Named("MAX_SEGMENT", flag="--max-segment"),
        Field(
            ge=1,
            le=1_000_000,
            description="number of segments that this deployment is sized for; masters warn above it",
        ),
    ] = 16

    @property
    def master_addresses(self) -> list[str]:
        """Return ``host:port`` of each master that a worker connects to."""
        if self.mode == "standalone":
            return [self._with_port(self.master_host)]
        return [self._with_port(address) for address in self.master_service.split(",")]

    def _with_port(self, address: str) -> str:
        is_bare_ipv6 = address.count(":") > 1 and not address.startswith("[")
        if is_bare_ipv6:
            return f"[{address}]:{self.grpc_port}"
        return address if re.search(r":\d+$", address) else f"{address}:{self.grpc_port}"

    @model_validator(mode="after")
    def _one_heartbeat_may_be_late(self) -> Self:
        if self.heartbeat_interval_seconds * 2 > self.death_timeout_seconds:
            raise ValueError(
                f"HEARTBEAT_INTERVAL_SECONDS={self.heartbeat_interval_seconds:g} is more than half of "
                f"DEATH_TIMEOUT_SECONDS={self.death_timeout_seconds:g}, so that one late heartbeat would look like a "
                "death; lower it or raise the other"
            )
        return self


class PartitionSettings(Group):
    """The division of entities into segments."""

    max_per_partition: Annotated[
        int,
        Named(
            lambda service: service.max_per_partition_env,
            aliases=lambda service: service.max_per_partition_older_envs,
        ),
        Field(ge=1, le=100_000, description="maximum number of entities in one segment"),
    ] = 10


class CompactionSettings(Group):
    """The merging of half-empty segments."""

    enabled: Annotated[
        bool,
        Named("COMPACTION"),
        Field(
            description="whether the leading master merges half-empty segments of bots and schedules, one entity at a "
            "time, when that saves a segment"
        ),
    ] = True
    pause_seconds: Annotated[
        Seconds,
        Named("COMPACTION_PAUSE_SECONDS", unit="seconds"),
        Field(
            ge=0.1,
            le=86_400,
            description="how long nothing may have changed, such as the owner of a segment, before an entity is moved; "
            "at the same time the pause between two moves",
        ),
    ] = 120.0


class ScanSettings(Group):
    """The interval of reading the state without events."""

    scan_interval_seconds: Annotated[
        Seconds,
        Named("SCAN_INTERVAL_SECONDS", unit="seconds"),
        Field(ge=0.05, le=3600, description="interval at which MongoDB is scanned when no event arrives"),
    ] = 5.0


class AutoscalerSettings(Group):
    """The scaled Kubernetes Deployment of workers, and its bounds."""

    namespace: Annotated[
        str,
        Named("NAMESPACE", allowed=_KUBERNETES_ALLOWED),
        Field(pattern=_KUBERNETES_NAME, description="namespace of the workers' Deployment"),
    ] = "default"
    deployment_name: Annotated[
        str,
        Named("DEPLOYMENT_NAME", allowed=_KUBERNETES_ALLOWED),
        Field(pattern=_KUBERNETES_NAME, description="name of the workers' Deployment"),
    ] = "runtime-worker"
    min_replicas: Annotated[
        int, Named("MIN_REPLICAS"), Field(ge=0, le=100_000, description="minimum number of workers")
    ] = 3
    max_replicas: Annotated[
        int, Named("MAX_REPLICAS"), Field(ge=1, le=100_000, description="maximum number of workers")
    ] = 4

    standby_workers: Annotated[
        Literal["node"] | Annotated[int, Field(ge=0, le=100_000)],
        Named("STANDBY_WORKERS", allowed="a whole number from 0 to 100000, or node"),
        Field(
            description="standby workers beyond those that the segments need; node: as many as own a segment on the "
            "fullest node, so that its loss leaves no bot without a worker"
        ),
    ] = 0

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"MIN_REPLICAS={self.min_replicas} is above MAX_REPLICAS={self.max_replicas}; "
                "lower it or raise the other"
            )
        return self


class BatchSettings(Group):
    """The execution of backtests."""

    batch_size: Annotated[
        int,
        Named("BATCH_SIZE"),
        Field(ge=1, le=1000, description="number of backtests that one worker runs concurrently"),
    ] = 5
    timeout_seconds: Annotated[
        Seconds,
        Named("BATCH_TIMEOUT", unit="seconds"),
        Field(gt=0, le=604_800, description="time limit of one backtest, after which it is killed"),
    ] = 300.0
    interval_seconds: Annotated[
        Seconds,
        Named("BATCH_INTERVAL", unit="seconds"),
        Field(
            ge=0.05, le=3600, description="interval at which MongoDB is scanned for backtests that no event announced"
        ),
    ] = 10.0
    max_retries: Annotated[
        int,
        Named("MAX_RETRIES"),
        Field(ge=0, le=1000, description="number of retries of a failed operation"),
    ] = 3
