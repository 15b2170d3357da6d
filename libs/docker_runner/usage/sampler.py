"""Sample the resource usage of this worker's containers at low cost.

The init inside each container writes the kernel's counters every ten seconds into a file of the
worker's (see `RunFolders.read_stats`). Reading fifty files takes milliseconds; the engine takes a second for each
container. The engine is only asked for the list of containers after an event, and, once a minute, for containers whose
init cannot read the counters, since gVisor shows it no control group.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import Declared, observe
from libs.core.process.isolation import repeat
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.engine.events import ContainerEvent
from libs.docker_runner.runs.run_engine import RunEngine
from libs.docker_runner.usage.totals import Usage

log = get_logger(__name__)

CPU = Declared(
    "runtime_containers_cpu_seconds_total",
    "counter",
    "Processor time of this worker's containers since the worker started, including removed ones.",
)
MEMORY = Declared("runtime_containers_memory_bytes", "gauge", "Memory that this worker's containers use.")
MEMORY_LIMIT = Declared(
    "runtime_containers_memory_limit_bytes", "gauge", "Memory that this worker's containers may use."
)

SAMPLE_SECONDS = 10.0
ASK_SECONDS = 60.0
LIST_SECONDS = 300.0
"""Without an event the containers are listed after this time."""


class UsageSampler:
    """Samples the containers of one service and deployment on one engine in segments of this worker.

    Args:
        owns: whether this worker owns a segment now.
    """

    def __init__(
        self,
        runner: RunEngine,
        *,
        service: str,
        scope: str,
        owns: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._service = service
        self._scope = scope
        self._owns = owns
        self._listed: Sequence[ManagedContainer] = ()
        self._is_listed_until = -math.inf
        self._clock = clock
        self._silent: dict[str, float] = {}
        self._asked_at = -math.inf
        self._answers: dict[str, Usage] = {}

    async def run(self) -> None:
        """Sample forever. While the engine is down, the last samples stay."""

        async def one_round() -> None:
            try:
                await self.sample_once()
            except RuntimeFault as error:
                log.debug("containers not sampled", reason=str(error))

        with self._runner.watch.listening(self._list_anew, self._service, self._scope):
            await repeat("sample containers", one_round, SAMPLE_SECONDS)

    async def sample_once(self) -> None:
        """Sample all of them once.

        Raises:
            RuntimeFault: the engine returns neither list nor usage.
        """
        with observe("containers", "sample"):
            if self._is_listed_until <= self._clock():
                await self._list()
            alive = [c for c in self._listed if c.state is ContainerState.RUNNING and self._owns(c.segment)]
            noted = await self._runner.noted(alive)
            asked = await self._asked([container for container in alive if container.container_id not in noted])
            present = [container.container_id for container in self._listed]
            self._runner.usage.sampled(noted | asked, present, self._clock())

    def _list_anew(self, _: ContainerEvent) -> None:
        self._is_listed_until = -math.inf

    async def _list(self) -> None:
        # Set before the request: an event during it clears the flag, so that the next round lists again.
        self._is_listed_until = self._clock() + LIST_SECONDS
        try:
            self._listed = await self._runner.list(self._service, self._scope)
        except Exception:
            self._is_listed_until = -math.inf
            raise

    async def _asked(self, silent: Sequence[ManagedContainer]) -> dict[str, Usage]:
        """Sample containers without a recent note through the engine; one that has just started will write its own."""
        now = self._clock()
        self._silent = {c.container_id: self._silent.get(c.container_id, now) for c in silent}
        lasting = [c for c in silent if now - self._silent[c.container_id] >= SAMPLE_SECONDS]
        if lasting and now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            answers = await asyncio.gather(*(self._runner.stats(container) for container in lasting))
            self._answers = {
                container.container_id: Usage(container, stats)
                for container, stats in zip(lasting, answers, strict=True)
                if stats is not None
            }
        return {known: usage for known, usage in self._answers.items() if known in self._silent}


class UsageCollector(Collector):
    """The usage of a worker's containers, as metrics. Register it once a process."""

    def __init__(self, runner: RunEngine) -> None:
        self._usage = runner.usage

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in (CPU, MEMORY, MEMORY_LIMIT):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as of the last sample."""
        yield CPU.of(self._usage.cpu_seconds)
        yield MEMORY.of(self._usage.memory_bytes)
        yield MEMORY_LIMIT.of(self._usage.memory_limit_bytes)
