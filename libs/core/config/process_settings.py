"""Settings of a process: HTTP, metrics, log and traces."""

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from libs.core.config.destinations import is_loopback
from libs.core.config.settings_loader import Group, Named

HTTP_TOKEN = re.compile(r"[\x21-\x7e]{16,}")


def _token(token: SecretStr | None) -> SecretStr | None:
    if token is not None and not HTTP_TOKEN.fullmatch(token.get_secret_value()):
        raise ValueError("it is too short, or has spaces")
    return token


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())


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

    token: Annotated[
        SecretStr | None,
        Named(
            "HTTP_TOKEN",
            file="HTTP_TOKEN_FILE",
            file_may_be_missing=True,
            allowed="16 characters or more, without spaces",
        ),
        Field(
            description="token for the status page and the API, as a bearer token or as the password of any user; "
            "unset: they are closed, unless HTTP_HOST is a loopback address (127.0.0.1)"
        ),
        AfterValidator(_token),
    ] = None
    token_file: Annotated[
        str | None,
        Named("HTTP_TOKEN_FILE", allowed="a file"),
        Field(
            description="file with that token; a replaced one is used for the next request; if its folder lacks it "
            "when the process starts, HTTP_TOKEN is unset"
        ),
    ] = None
    user_header: Annotated[
        str | None,
        Named("HTTP_USER_HEADER", allowed="the name of a header"),
        Field(
            pattern=r"^[A-Za-z0-9-]+$",
            description="header with the user's name that an authenticating proxy sets (X-Forwarded-User); requests "
            "of HTTP_TRUSTED_PROXIES with it need no token",
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Named(
            "HTTP_TRUSTED_PROXIES",
            allowed="addresses or networks with commas between (10.1.2.3, 10.8.0.0/16)",
            default_text="127.0.0.0/8,::1",
        ),
        Field(
            description="addresses of the authenticating proxy, whose HTTP_USER_HEADER is believed; it must remove the "
            "header from requests that it receives"
        ),
        BeforeValidator(_networks),
    ] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))

    @property
    def is_private(self) -> bool:
        """Whether it listens only for this machine."""
        return is_loopback(self.host)

    @property
    def port_was_chosen(self) -> bool:
        """Whether the port is configured, so that no other may be used."""
        return "port" in self.model_fields_set


class MetricsSettings(Group):
    """The metrics for Prometheus."""

    per_bot: Annotated[
        bool,
        Named("METRICS_PER_BOT"),
        Field(
            description="whether the bot-runner's workers export CPU time, memory and restarts of each bot, which "
            "creates several series per bot; the sums are always exported"
        ),
    ] = False
    bot_values: Annotated[
        bool,
        Named("METRICS_BOT_VALUES"),
        Field(
            description="whether workers export the latest values of the metrics that bots and schedules print, as "
            "runtime_bot_value, which creates up to METRICS_BOT_NAMES series per bot; pages, API and commands always "
            "show them"
        ),
    ] = False
    names_per_bot: Annotated[
        int,
        Named("METRICS_BOT_NAMES"),
        Field(
            ge=1,
            le=200,
            description="maximum number of metrics that are kept of what one bot prints, counting each symbol of a "
            "name; others are ignored",
        ),
    ] = 20


class LogSettings(Group):
    """The format and level of log lines."""

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
    """The target of traces: OpenTelemetry's standard variables. The SDK reads further ones itself."""

    endpoint: Annotated[
        str | None,
        Named(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            aliases=("OTEL_EXPORTER_OTLP_ENDPOINT",),
            allowed="http://host:4317, or https:// for TLS",
        ),
        Field(description="OTLP endpoint (gRPC) for traces; without it none are recorded"),
    ] = None
    headers: Annotated[
        SecretStr | None,
        Named(
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            aliases=("OTEL_EXPORTER_OTLP_HEADERS",),
            file="OTEL_EXPORTER_OTLP_HEADERS_FILE",
            file_may_be_missing=True,
            allowed="name=value pairs with commas between",
        ),
        Field(description="headers that the collector requires, such as `authorization=Bearer ...`"),
    ] = None
    headers_file: Annotated[
        str | None,
        Named("OTEL_EXPORTER_OTLP_HEADERS_FILE", allowed="a file"),
        Field(
            description="file with those headers; a replaced one is used for the next spans; if its folder lacks it "
            "when the process starts, none are sent"
        ),
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
        """Whether this process records and sends spans."""
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
