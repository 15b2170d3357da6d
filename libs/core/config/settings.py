"""What an operator can set: the groups of settings, with their names, defaults, units and bounds.

``libs.core.config.settings_loader`` reads them. The names are in part an interface to the outside and do not change.
"""

import math
import os
import re
import socket
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from libs.core.config.settings_loader import Group, Named, Seconds

_ADDRESS = "host or host:port"
_BUCKET = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"
_BUCKET_ALLOWED = "a bucket name: 3 to 63 letters, digits, dots and dashes"
_KUBERNETES_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
_KUBERNETES_ALLOWED = "a Kubernetes name: lower-case letters, digits, dots and dashes"


def _mongo_uri(uri: SecretStr) -> SecretStr:
    if not re.match(r"mongodb(\+srv)?://[^/\s]", uri.get_secret_value()):
        raise ValueError("it does not begin with mongodb:// and a host")
    return uri


def _nats_url(url: str | None) -> str | None:
    for server in (url or "nats://x").split(","):
        if not re.match(r"^((nats|tls|ws|wss)://)?[^\s/:@]+(:[^\s/@]*)?(@[^\s/:@]+(:\d+)?)?/?$", server.strip()):
            raise ValueError("one of its servers is no address")
    return url


class IdentitySettings(Group):
    """Which worker this process is."""

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


class MongoSettings(Group):
    """Where the truth is kept."""

    uri: Annotated[
        SecretStr,
        Named("MONGO_URI", flag="--mongo-uri", allowed="a MongoDB connection string (mongodb://host:27017)"),
        Field(description="connection string of MongoDB"),
        AfterValidator(_mongo_uri),
    ] = SecretStr("mongodb://localhost:27017")
    timeout_seconds: Annotated[
        Seconds,
        Named("MONGO_TIMEOUT_SECONDS", unit="seconds"),
        Field(ge=0.1, le=60, description="how long an operation waits for a usable MongoDB server"),
    ] = 2.0


class NatsSettings(Group):
    """Where events come from and go to."""

    url: Annotated[
        str | None,
        Named("NATS_URL", allowed="one or more addresses with commas between (nats://host:4222)"),
        Field(
            repr=False, description="address of NATS; without it no events are ingested and MongoDB is scanned instead"
        ),
        AfterValidator(_nats_url),
    ] = None
    max_retries: Annotated[
        int,
        Named("MAX_RETRIES"),
        Field(ge=0, le=1000, description="number of retries of a failed operation"),
    ] = 3


class StorageSettings(Group):
    """Where code comes from, and where logs and results go."""

    endpoint: Annotated[
        str,
        Named("MINIO_ENDPOINT", allowed="host or host:port without http:// (MINIO_USE_SSL chooses)"),
        Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s/:]+)(:\d+)?$", description="address of the S3 server"),
    ] = "localhost:9000"
    access_key: Annotated[
        SecretStr,
        Named("MINIO_ACCESS_KEY_ID", aliases=("MINIO_ACCESS_KEY",), allowed="the access key of the S3 server"),
        Field(min_length=1, description="access key of the S3 server"),
    ]
    secret_key: Annotated[
        SecretStr,
        Named("MINIO_SECRET_ACCESS_KEY", aliases=("MINIO_SECRET_KEY",), allowed="the secret key of the S3 server"),
        Field(min_length=1, description="secret key of the S3 server"),
    ]
    secure: Annotated[
        bool,
        Named("MINIO_USE_SSL", aliases=("MINIO_SSL",)),
        Field(description="whether to use TLS for the S3 server"),
    ] = False
    code_bucket: Annotated[
        str,
        Named("MINIO_BOTS_BUCKET", aliases=("MINIO_CODE_BUCKET",), allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the bots' code"),
    ] = "bots"
    logs_bucket: Annotated[
        str,
        Named("MINIO_LOGS_BUCKET", allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the bots' logs"),
    ] = "logs"
    results_bucket: Annotated[
        str,
        Named("MINIO_RESULTS_BUCKET", aliases=("MINIO_BACKTESTS_BUCKET",), allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the backtests' results"),
    ] = "results"


BOTS_END_BEFORE_LEASE_SECONDS = 1.2
"""How long before the end of its lease a bot may get SIGTERM from its supervisor, which looks five times a second."""


class LeaseSettings(Group):
    """How long a worker may own a segment without proving it."""

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
    """How masters and workers find and watch each other."""

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
        """``host:port`` of each master that a worker dials."""
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


class HttpSettings(Group):
    """The HTTP server of every process."""

    port: Annotated[
        int,
        Named("HTTP_PORT"),
        Field(
            ge=0,
            le=65535,
            description="port of health checks, metrics and the status page; 0: any free port; "
            "when it is not set and 8080 is in use, any free port",
        ),
    ] = 8080
    host: Annotated[
        str,
        Named("HTTP_HOST", allowed="an address of this machine"),
        Field(pattern=r"^\S+$", description="address on which the HTTP server listens"),
    ] = "0.0.0.0"  # noqa: S104 - kubelet and Prometheus come from outside the pod
    public_url: Annotated[
        str | None,
        Named("PUBLIC_URL", allowed="http:// or https:// and an address"),
        Field(
            pattern=r"^https?://[^\s/]+$",
            description="address under which users reach this process's HTTP server, shown by "
            "`runtime status`; unset: its own address",
        ),
    ] = None

    @property
    def port_was_chosen(self) -> bool:
        """Whether somebody set the port, so that no other will do."""
        return "port" in self.model_fields_set


class MetricsSettings(Group):
    """What is shown to Prometheus."""

    per_bot: Annotated[
        bool,
        Named("METRICS_PER_BOT"),
        Field(
            description="whether the bot-runner's workers export CPU time, memory and restarts of each bot, which "
            "creates several series per bot; the sums are always exported"
        ),
    ] = False


class LogSettings(Group):
    """How log lines look."""

    format: Annotated[
        Literal["auto", "json", "console"],
        Named("LOG_FORMAT"),
        Field(
            description="format of log lines: json, console (coloured), or auto: console at a terminal, otherwise json"
        ),
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Named("LOG_LEVEL"),
        Field(description="minimum severity of log lines"),
    ] = "info"


class TracingSettings(Group):
    """Where traces go: the standard variables of OpenTelemetry. Those that are not here its SDK reads by itself."""

    endpoint: Annotated[
        str | None,
        Named(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            aliases=("OTEL_EXPORTER_OTLP_ENDPOINT",),
            allowed="http://host:4317, or https:// for TLS",
        ),
        Field(description="OTLP endpoint (gRPC) for traces; without it none are recorded"),
    ] = None
    protocol: Annotated[
        str,
        Named(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            aliases=("OTEL_EXPORTER_OTLP_PROTOCOL",),
            allowed="grpc",
        ),
        Field(description="protocol for traces"),
    ] = "grpc"
    exporter: Annotated[
        str,
        Named("OTEL_TRACES_EXPORTER", allowed="otlp or none"),
        Field(description="exporter of traces; none turns tracing off"),
    ] = "otlp"
    disabled: Annotated[
        bool,
        Named("OTEL_SDK_DISABLED"),
        Field(description="whether tracing is turned off"),
        BeforeValidator(lambda value: str(value).lower() == "true"),
    ] = False

    @property
    def exporting(self) -> bool:
        """Whether this process records spans and sends them."""
        return self.endpoint is not None and self.exporter != "none" and not self.disabled

    @model_validator(mode="after")
    def _can_be_exported(self) -> Self:
        if self.exporting and self.exporter != "otlp":
            raise ValueError(f"OTEL_TRACES_EXPORTER={self.exporter!r} is not supported; set otlp or none")
        if self.exporting and self.protocol != "grpc":
            raise ValueError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL={self.protocol!r} is not supported: traces are sent by OTLP over gRPC; "
                "set grpc and give the collector's gRPC port (usually 4317)"
            )
        return self


class PartitionSettings(Group):
    """How entities are cut into segments."""

    max_per_partition: Annotated[
        int,
        Named(
            lambda service: service.max_per_partition_env,
            aliases=lambda service: service.max_per_partition_older_envs,
        ),
        Field(ge=1, le=100_000, description="maximum number of entities in one segment"),
    ] = 10


class ScanSettings(Group):
    """How often the state is read again when nothing is heard."""

    scan_interval_seconds: Annotated[
        Seconds,
        Named("SCAN_INTERVAL_SECONDS", unit="seconds"),
        Field(ge=0.05, le=3600, description="interval at which MongoDB is scanned when no event arrives"),
    ] = 5.0


class HistorySettings(Group):
    """How long the past is kept."""

    keep_runs_days: Annotated[
        float,
        Named("RUN_HISTORY_DAYS", unit="days"),
        Field(gt=0, le=3650, allow_inf_nan=False, description="time for which records of runs are kept"),
    ] = 30.0


class RetentionSettings(Group):
    """What the leading master removes, and when."""

    interval_seconds: Annotated[
        Seconds,
        Named("GC_INTERVAL_SECONDS", unit="seconds"),
        Field(ge=1, le=604_800, description="interval at which the leading master removes expired data"),
    ] = 3600.0
    dry_run: Annotated[
        bool,
        Named("GC_DRY_RUN"),
        Field(description="whether expired data is only logged and counted, not removed"),
    ] = False
    code_days: Annotated[
        float,
        Named("CODE_RETENTION_DAYS", unit="days"),
        Field(
            ge=0,
            le=3650,
            allow_inf_nan=False,
            description="time after its upload for which unreferenced code is kept; 0: forever. An event may wait for "
            "half of that time until a worker reads it",
        ),
    ] = 16.0
    log_days: Annotated[
        float,
        Named("LOG_RETENTION_DAYS", unit="days"),
        Field(
            ge=0,
            le=3650,
            allow_inf_nan=False,
            description="time for which a day's log is kept after its last write; 0: forever",
        ),
    ] = 180.0
    log_count: Annotated[
        int,
        Named("LOG_RETENTION_COUNT"),
        Field(
            ge=0,
            le=100_000,
            description="number of days with output for which the logs of one id are kept; 0: unlimited",
        ),
    ] = 0
    result_days: Annotated[
        float,
        Named("RESULT_RETENTION_DAYS", unit="days"),
        Field(
            ge=0,
            le=3650,
            allow_inf_nan=False,
            description="time for which a backtest's result and output are kept; 0: forever",
        ),
    ] = 365.0
    result_count: Annotated[
        int,
        Named("RESULT_RETENTION_COUNT"),
        Field(ge=0, le=100_000, description="number of backtests whose result and output are kept; 0: unlimited"),
    ] = 0
    run_count: Annotated[
        int,
        Named("RUN_HISTORY_COUNT"),
        Field(
            ge=0, le=1_000_000_000, description="number of records of ended runs that are kept per entity; 0: unlimited"
        ),
    ] = 10_000

    @property
    def code_keep_seconds(self) -> float:
        """How long unreferenced code is kept; 0 for ever."""
        return self.code_days * 86_400

    @property
    def log_keep_seconds(self) -> float:
        """How long logs are kept; 0 for ever."""
        return self.log_days * 86_400

    @property
    def result_keep_seconds(self) -> float:
        """How long results are kept; 0 for ever."""
        return self.result_days * 86_400


class AutoscalerSettings(Group):
    """Which Kubernetes Deployment of workers is scaled, and within which bounds."""

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
    """How backtests are run."""

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
