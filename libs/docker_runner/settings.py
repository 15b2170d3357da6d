"""The runner's settings about containers; services create them from their own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.core.config.destinations import Destination
from libs.docker_runner.engine.room import RoomRules
from libs.docker_runner.errors import UnknownRuntime
from libs.docker_runner.executable import MIB, Limits, Network, NetworkLimits, Placement
from libs.docker_runner.sandbox.limits import Maxima

IMAGES: Mapping[str, str] = {"python3.11": "python:3.11-slim", "nodejs20": "node:20-alpine"}


@dataclass(frozen=True)
class Registry:
    """Where images are pulled from and by whom.

    Attributes:
        server: such as ``registry.example.com``; empty for Docker Hub.
        images whose name does not begin with the server get no credentials.
    """

    server: str = ""
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class RunnerSettings:
    """The settings of a :class:`~libs.docker_runner.runner.DockerRunner`.

    Attributes:
        temp_dir: below it the runner keeps its folders. It has the same path on the engine's host.
        keepalive_dir: folder for keepalive files, in memory and at the same path for the engine; None to choose one.
        images: runtime name to image; a name with ``@sha256:…`` pins it.
        limits: of a container that asks for nothing else.
        maxima: up to where ``config.resources`` may go.
        metadata_guard: refuse to start bots when private networks and the host cannot be closed to them.
        egress_allow: what bots may reach all the same.
        network_limits: what a bot may use of the host's network.
        default_bridge: whether bots may be on the engine's default bridge, each behind walls of its own; otherwise
            they are on a bridge of ours, where starts take a third longer.
        walls_seconds: how often the network's walls are put up anew, whoever may have taken them away.
        parallel_starts: containers made at once.
        engine_timeout_seconds: for one answer of the engine, pulls and stops apart.
        log_file_bytes, log_files: the engine's own copy of the output is at most their product. A follower that is
            further behind than that loses lines, so with the output rate they are how long it may be away.
        output_spool_bytes: what :meth:`DockerRunner.run` keeps of one run's output.
        log_spool_bytes, log_spools_bytes: output on disk while the storage is away, of one bot and of all together.
        room: how much the limits of all containers on the engine may add up to.
    """

    temp_dir: Path
    keepalive_dir: Path | None = None
    images: Mapping[str, str] = field(default_factory=lambda: dict(IMAGES))
    limits: Limits = field(default_factory=Limits)
    maxima: Maxima = field(default_factory=Maxima)
    network: Network = Network.BRIDGE
    container_runtime: str | None = None
    metadata_guard: bool = True
    egress_allow: tuple[Destination, ...] = ()
    network_limits: NetworkLimits = field(default_factory=NetworkLimits)
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

    def placement(self, runtime: str) -> Placement:
        """Where a bot of *runtime* runs.

        Raises:
            UnknownRuntime: there is no image for it.
        """
        image = self.images.get(runtime)
        if image is None:
            raise UnknownRuntime(runtime, list(self.images))
        return Placement(image, self.network, self.container_runtime)
