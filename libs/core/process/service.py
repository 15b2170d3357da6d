"""The three services: names of databases, subjects and ports on which other programs rely."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ServiceDefinition:
    """One service by its external names. A subject is None if the service has no such event."""

    name: str
    """The name on the command line, in log lines and in container labels: ``bot-runner``."""
    database: str
    collection: str
    noun: str
    """The name of one entity in user texts: ``bot``."""
    grpc_port: int
    """The port of the master unless GRPC_PORT sets another."""
    created_subject: str
    updated_subject: str | None
    deleted_subject: str | None
    completed_subject: str | None
    """The event that the service publishes when an entity is completed."""
    max_per_partition_env: str
    entrypoint: Literal["bot", "backtest"]
    """The entry of the entity's ``custom.config.entrypoints`` that is run."""
    max_per_partition_older_envs: tuple[str, ...] = ()
    answers_queries: bool = True
    """Whether entities may have an entrypoint `query`."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that the service reads, `created` first."""
        read = (self.created_subject, self.updated_subject, self.deleted_subject)
        return tuple(subject for subject in read if subject is not None)


BOT_RUNNER = ServiceDefinition(
    name="bot-runner",
    database="bot_runner",
    collection="bots",
    noun="bot",
    grpc_port=50051,
    created_subject="the0.bot.created",
    updated_subject="the0.bot.updated",
    deleted_subject="the0.bot.deleted",
    completed_subject=None,
    max_per_partition_env="MAX_BOTS_PER_PARTITION",
    entrypoint="bot",
)

BACKTEST_RUNNER = ServiceDefinition(
    name="backtest-runner",
    database="backtest_runner",
    collection="backtests",
    noun="backtest",
    grpc_port=50052,
    created_subject="the0.backtest.created",
    updated_subject=None,
    deleted_subject=None,
    completed_subject="the0.backtest.completed",
    max_per_partition_env="MAX_BACKTESTS_PER_PARTITION",
    entrypoint="backtest",
    answers_queries=False,
)

BOT_SCHEDULER = ServiceDefinition(
    name="bot-scheduler",
    database="bot_scheduler",
    collection="bot_schedules",
    noun="schedule",
    grpc_port=50053,
    created_subject="the0.bot-schedule.created",
    updated_subject="the0.bot-schedule.updated",
    deleted_subject="the0.bot-schedule.deleted",
    completed_subject=None,
    max_per_partition_env="MAX_BOT_SCHEDULES_PER_PARTITION",
    max_per_partition_older_envs=("MAX_BOT_SCHEDULE_PER_PARTITION",),
    entrypoint="bot",
)

SERVICES = (BOT_RUNNER, BACKTEST_RUNNER, BOT_SCHEDULER)
