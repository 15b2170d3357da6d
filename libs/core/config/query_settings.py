"""Settings of queries: questions to bots, which their own code answers."""

from typing import Annotated

from pydantic import Field

from libs.core.config.settings_loader import Group, Named, Seconds


class QuerySettings(Group):
    """Queries: where masters receive them, and their limits."""

    port: Annotated[
        int,
        Named("QUERY_PORT"),
        Field(
            ge=0,
            le=65535,
            description="port on which masters receive queries (POST /query); 0: any free port; when it is not set "
            "and 9477 is in use, any free port",
        ),
    ] = 9477
    host: Annotated[
        str | None,
        Named("QUERY_HOST", allowed="an address of this machine", default_text="that of HTTP_HOST"),
        Field(
            pattern=r"^\S+$",
            description="address on which masters receive queries; unless it is a loopback address, they require "
            "HTTP_TOKEN as a bearer token",
        ),
    ] = None
    timeout_seconds: Annotated[
        Seconds,
        Named("QUERY_TIMEOUT_SECONDS", unit="seconds"),
        Field(ge=0.1, le=300, description="time limit of a query that requests none, and the longest that it may get"),
    ] = 30.0
    answer_kb: Annotated[
        int,
        Named("QUERY_ANSWER_KB", unit="KiB"),
        Field(ge=1, le=3072, description="maximum size of the answer to a query"),
    ] = 1024
    per_bot: Annotated[
        int,
        Named("QUERIES_PER_BOT"),
        Field(ge=1, le=16, description="queries of one bot that are answered at the same time; others are refused"),
    ] = 4
    per_worker: Annotated[
        int,
        Named("QUERIES_PER_WORKER"),
        Field(ge=1, le=1000, description="queries of one worker that are answered at the same time"),
    ] = 32
    containers_per_worker: Annotated[
        int,
        Named("QUERY_CONTAINERS_PER_WORKER"),
        Field(
            ge=0,
            le=100,
            description="containers in which a worker answers queries of schedules, and of bots that do not run, at "
            "the same time; 0: such queries are refused",
        ),
    ] = 2
    idle_seconds: Annotated[
        Seconds,
        Named("QUERY_IDLE_SECONDS", unit="seconds"),
        Field(
            ge=1,
            le=86400,
            description="time without a query after which the query process of a running bot ends; the next query "
            "starts it again",
        ),
    ] = 600.0

    @property
    def port_was_chosen(self) -> bool:
        """Whether the port is configured, so that no other may be used."""
        return "port" in self.model_fields_set
