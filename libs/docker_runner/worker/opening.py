"""Open a worker's Docker host with the worker's settings."""

from collections.abc import Awaitable, Callable

from libs.core.errors import UserError
from libs.core.process.service import BOT_RUNNER
from libs.core.room import MIB
from libs.core.worker.role import WorkerContext, WorkerSettings
from libs.core.worker.worker import EngineFolders, EngineView
from libs.docker_runner.code.definition import Deployed
from libs.docker_runner.engine.room import Priority
from libs.docker_runner.executable import Entrypoint
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.worker.bot_metrics import BotMetrics
from libs.docker_runner.worker.docker_host import DockerHost
from libs.docker_runner.worker.from_settings import runner_settings
from libs.docker_runner.worker.queries import WorkerQueries


class OnlyBotsInPods(UserError):
    """The service cannot use the engine that the settings choose."""

    def __init__(self, service: str) -> None:
        super().__init__(f"ENGINE=kubernetes runs bots alone so far: set ENGINE=docker for {service}")


async def open_docker_host(
    context: WorkerContext, runner: RunnerSettings | None = None, *, priority: Priority, keeps_state: bool = True
) -> DockerHost:
    """Connect to the engine and the storage, waiting without a limit; see :meth:`DockerHost.open`.

    Args:
        runner: the runner's settings, if they differ from the operator's.
        priority: the precedence of the service's containers for the engine's room.
        keeps_state: whether the service's entities have state that is saved.
    """
    settings = context.settings
    if settings.pods.engine == "kubernetes" and context.process.service is not BOT_RUNNER:
        raise OnlyBotsInPods(context.process.service.name)
    return await DockerHost.open(
        context.process.lifecycle,
        context.process.readiness,
        settings=runner or settings_of(settings),
        storage=settings.storage,
        code_cache_bytes=settings.containers.code_cache_mb * MIB,
        data_cache_bytes=settings.containers.data_cache_mb * MIB,
        data_set_bytes=settings.containers.data_set_mb * MIB,
        lease_seconds=settings.lease.life_seconds,
        service=context.process.service.name,
        scope=context.scope,
        worker=settings.identity.worker_id,
        owns=context.owns,
        history=context.runs,
        leases=context.leases.live,
        bot_metrics=BotMetrics(context.bot_metrics, owns=context.owns, most_names=settings.metrics.names_per_bot),
        exports_bot_metrics=settings.metrics.bot_values,
        state_pointers=context.saved_states,
        keeps_state=keeps_state,
        priority=priority,
    )


def settings_of(settings: WorkerSettings) -> RunnerSettings:
    """Return the runner's settings of a worker."""
    return runner_settings(settings.containers, settings.maxima, settings.images, settings.secrets, settings.pods)


def open_queries(
    context: WorkerContext,
    docker: DockerHost,
    deployed: Callable[[str], Awaitable[Deployed | None]],
    *,
    runs_beside: bool,
) -> WorkerQueries:
    """Declare the part that answers queries; the arguments are as in :class:`WorkerQueries`."""
    queries = WorkerQueries(
        docker.runner,
        deployed,
        context.settings.queries,
        service=context.process.service.name,
        scope=context.scope,
        executables=lambda segment: docker.executables(Entrypoint.BOT, segment, 0),
        runs_beside=runs_beside,
    )
    context.process.lifecycle.part("queries", queries.run)
    return queries


def engine_view(docker: DockerHost) -> EngineView:
    """Return the state of the engine for the worker's reports to the master."""
    health = docker.health
    return EngineView(health.impediment, health.lost, docker.room, health.can_adopt, health.on_change)


def engine_folders(docker: DockerHost) -> EngineFolders | None:
    """Return where the workers of the engine find each other; None where a lock there would prove nothing."""
    shared = docker.shared_folder
    return EngineFolders(shared, docker.settings.temp_dir) if shared is not None else None
