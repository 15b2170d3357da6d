"""Convert the operator's settings for the runner."""

import os

from libs.core.config.container_settings import ContainerSettings, MaximaSettings
from libs.core.config.image_settings import ImageSettings
from libs.core.config.pod_settings import PodSettings
from libs.core.config.secret_settings import SecretSettings
from libs.core.room import MIB
from libs.core.secrets.resolver import SecretSources
from libs.docker_runner.engine.room import RoomRules
from libs.docker_runner.engine.users import UserRange
from libs.docker_runner.executable import Limits, Network, NetworkLimits
from libs.docker_runner.pods.manifest import PodRules
from libs.docker_runner.sandbox.limits import Maxima
from libs.docker_runner.settings import Registry, RunnerSettings

MEGABIT_BYTES = 125_000


def runner_settings(
    containers: ContainerSettings,
    maxima: MaximaSettings,
    images: ImageSettings,
    secrets: SecretSettings,
    pods: PodSettings | None = None,
) -> RunnerSettings:
    """Return the runner's settings. Bots may request a default even if it exceeds a maximum."""
    proxy = containers.http_proxy
    rules = _pod_rules(pods)
    limits = Limits(
        memory_bytes=containers.memory_limit_mb * MIB,
        cpu_shares=containers.cpu_shares,
        cpus=containers.cpus,
        pids=containers.pids,
        tmp_bytes=containers.tmp_mb * MIB,
        open_files=containers.open_files,
        result_bytes=containers.result_mb * MIB,
        output_bytes_per_second=containers.output_kb_per_second * 1024,
    )
    return RunnerSettings(
        temp_dir=containers.temp_dir,
        keepalive_dir=containers.keepalive_dir,
        spec_dir=containers.spec_dir,
        secrets=SecretSources.of(secrets, os.environ),
        owner_field=secrets.owner_field,
        images={"python3.11": images.python, "nodejs20": images.node},
        limits=limits,
        state_bytes=containers.state_limit_mb * MIB,
        maxima=Maxima(
            memory_mb=max(maxima.memory_mb, containers.memory_limit_mb),
            cpu_shares=max(maxima.cpu_shares, containers.cpu_shares),
            cpus=max(maxima.cpus, containers.cpus or 0.0),
            pids=max(maxima.pids, containers.pids),
            tmp_mb=max(maxima.tmp_mb, containers.tmp_mb),
            open_files=max(maxima.open_files, containers.open_files),
        ),
        network=Network.CLUSTER if rules is not None else Network(containers.network),
        metadata_guard=containers.metadata_guard,
        host_agent=containers.host_agent and rules is None,
        egress_allow=(*containers.egress_allow, *([proxy.destination] if proxy is not None else [])),
        http_proxy=proxy.url if proxy is not None else "",
        no_proxy=containers.no_proxy if proxy is not None else "",
        network_limits=NetworkLimits(
            connections=containers.connections,
            new_per_second=containers.new_connections_per_second,
            packets_per_second=containers.packets_per_second,
            bytes_per_second=containers.sent_mbit_per_second * MEGABIT_BYTES,
            received_bytes_per_second=containers.received_mbit_per_second * MEGABIT_BYTES,
        ),
        container_runtime=containers.runtime,
        registry=_registry(images),
        parallel_starts=containers.parallel_starts,
        log_spool_bytes=containers.log_spool_mb * MIB,
        log_spools_bytes=containers.log_spools_mb * MIB,
        # Bots are not below the worker's pod.
        pod_uid=containers.pod_uid if rules is None else None,
        pods=rules,
        users=UserRange(containers.uid_first, containers.uid_count),
        room=RoomRules(
            memory_bytes=containers.engine_memory_mb * MIB if containers.engine_memory_mb is not None else None,
            cpus=containers.engine_cpus,
            memory_overcommit=containers.engine_memory_overcommit,
            cpu_overcommit=containers.engine_cpu_overcommit,
            reserve=containers.engine_reserve_percent / 100,
        ),
    )


def _pod_rules(pods: PodSettings | None) -> PodRules | None:
    if pods is None or pods.engine == "docker":
        return None
    return PodRules(
        namespace=pods.namespace,
        init_image=pods.init_image,
        port=pods.port,
        runtime_class=pods.runtime_class,
        priority_class=pods.priority_class,
        node_selector=dict(pods.node_selector),
        tolerations=pods.tolerations,
        pull_secrets=pods.pull_secrets,
    )


def _registry(images: ImageSettings) -> Registry | None:
    if images.registry_username is None or images.registry_password is None:
        return None
    return Registry(
        server=images.registry_server or "",
        username=images.registry_username,
        password=images.registry_password.get_secret_value(),
    )
