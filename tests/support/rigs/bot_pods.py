"""A runner whose containers are pods of a fake cluster, and the lease of its worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.kubernetes.api_server import ApiServer
from libs.core.leases.boot_clock import boot_seconds
from libs.docker_runner.executable import Network
from libs.docker_runner.pods.cluster import PodsApi
from libs.docker_runner.pods.engine import PodEngine
from libs.docker_runner.pods.manifest import PodRules
from libs.docker_runner.pods.session import SegmentLease
from libs.docker_runner.runner import DockerRunner
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.keeper import StateKeeper
from tests.support.rigs.bot_containers import BotContainers, FolderCode

SEGMENT = 1


@dataclass
class PodWorker:
    """A worker that owns SEGMENT while it renews."""

    bots: BotContainers
    engine: PodEngine
    epoch: int
    lease_seconds: float = 5.0
    renews: bool = True

    async def renew_for_ever(self) -> None:
        while True:
            if self.renews:
                self.engine.fleet.set_lease(SEGMENT, SegmentLease(self.epoch, boot_seconds() + self.lease_seconds))
            await asyncio.sleep(0.5)


@asynccontextmanager
async def pod_worker(
    directory: Path,
    scope: str,
    kubeconfig: Path,
    *,
    epoch: int = 1,
    namespace: str = "bots",
    states: StateKeeper | None = None,
    **settings: Any,
) -> AsyncIterator[PodWorker]:
    """Run a worker with its folders in *directory*. At its end it disappears, as if it was killed."""
    chosen = RunnerSettings(
        temp_dir=directory / "runtime", network=Network.CLUSTER, host_agent=False, metadata_guard=False, **settings
    )
    api = PodsApi(ApiServer({"KUBECONFIG": str(kubeconfig)}, 10.0), namespace)
    engine = PodEngine(api, PodRules(namespace), chosen.temp_dir, service="bot-runner", scope=scope)
    code = FolderCode(directory.parent / "code")
    runner = DockerRunner(engine, code, chosen, states=states)
    worker = PodWorker(BotContainers(runner, code, chosen, scope), engine, epoch)
    await runner.open()
    tasks = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("pods", engine.fleet.run()),
            ("leases", worker.renew_for_ever()),
            ("events", runner.watch.run()),
        )
    ]
    try:
        yield worker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.close()
