"""The runner's settings about containers; services create them from their own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.core.config.destinations import Destination
from libs.core.room import MIB
from libs.core.secrets.resolver import SecretSources
from libs.docker_runner.engine.room import RoomRules
from libs.docker_runner.engine.users import UserRange
from libs.docker_runner.errors import UnknownRuntime
from libs.docker_runner.executable import Limits, Network, NetworkLimits, Placement
from libs.docker_runner.pods.manifest import PodRules
from libs.docker_runner.sandbox.limits import Maxima

OWNER_FIELD = "custom.config.author"
IMAGES: Mapping[str, str] = {"python3.11": "python:3.11-slim", "nodejs20": "node:20-alpine"}


@dataclass(frozen=True)
class Registry:
    """The registry of images and its credentials.

    Attributes:
        server: such as ``registry.example.com``; empty for Docker Hub.
        images whose name does not begin with the server are pulled without credentials.
    """

    server: str = ""
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class RunnerSettings:
    """The settings of a :class:`~libs.docker_runner.runner.DockerRunner`.

    Attributes:
        temp_dir: the parent of the runner's folders. It has the same path on the engine's host.
        keepalive_dir: folder for keepalive files, in memory and at the same path for the engine; None to choose one.
        spec_dir: folder for specs with secrets, as above; None for one below temp_dir.
        secrets: where values of secrets come from.
        owner_field: the field of a document that names its owner, such as ``custom.config.author``.
        images: runtime name to image; a name with ``@sha256:…`` pins it.
        limits: of a container without requests of its own.
        state_bytes: size of the /state of each container; counts as memory of its limit.
        maxima: upper bounds of ``config.resources``.
        metadata_guard: refuse to start bots when access to private networks and the host cannot be blocked.
        egress_allow: exceptions that bots may reach.
        http_proxy, no_proxy: for the environment of bots without an allow-list of hosts; empty for none.
        network_limits: a bot's limits on the host's network.
        host_agent: keep a host agent running on the engine.
        default_bridge: whether bots may use the engine's default bridge, each isolated by its own rules; otherwise
            they use a bridge of the runtime, where starts take a third longer.
        walls_seconds: interval at which the firewall rules are restored.
        parallel_starts: maximum number of concurrent creations.
        engine_timeout_seconds: time limit of one answer of the engine, except pulls and stops.
        log_file_bytes, log_files: their product bounds the engine's own copy of the output. A follower that is
            further behind loses lines, so with the output rate they bound its tolerated absence.
        output_spool_bytes: maximum output of one run that :meth:`DockerRunner.collecting` keeps.
        log_spool_bytes, log_spools_bytes: maximum output on disk while the storage is down, of one bot and of all.
        room: limits on the total of all containers' limits on the engine.
        users: of bots.
        pods: the operator's settings of bots as pods; None: a Docker engine runs them.
        pod_uid: of the pod below whose control group bots must run; None without such a pod.
    """

    temp_dir: Path
    keepalive_dir: Path | None = None
    spec_dir: Path | None = None
    secrets: SecretSources = field(default_factory=SecretSources)
    owner_field: str = OWNER_FIELD
    images: Mapping[str, str] = field(default_factory=lambda: dict(IMAGES))
    limits: Limits = field(default_factory=Limits)
    state_bytes: int = 64 * MIB
    maxima: Maxima = field(default_factory=Maxima)
    network: Network = Network.BRIDGE
    container_runtime: str | None = None
    metadata_guard: bool = True
    egress_allow: tuple[Destination, ...] = ()
    http_proxy: str = ""
    no_proxy: str = ""
    network_limits: NetworkLimits = field(default_factory=NetworkLimits)
    host_agent: bool = True
    default_bridge: bool = True
    walls_seconds: float = 60.0
    registry: Registry | None = None
    parallel_starts: int = 8
    engine_timeout_seconds: float = 60.0
    pull_timeout_seconds: float = 900.0
    log_file_bytes: int = 32 * MIB
    log_files: int = 4
    output_spool_bytes: int = 256 * MIB
    log_spool_bytes: int = 64 * MIB
    log_spools_bytes: int = 1024 * MIB
    room: RoomRules = field(default_factory=RoomRules)
    users: UserRange = field(default_factory=UserRange)
    pod_uid: str | None = None
    pods: PodRules | None = None

    def placement(self, runtime: str) -> Placement:
        """Return the placement of bots of *runtime*.

        Raises:
            UnknownRuntime: it has no image.
        """
        image = self.images.get(runtime)
        if image is None:
            raise UnknownRuntime(runtime, list(self.images))
        return Placement(image, self.network, self.container_runtime)
