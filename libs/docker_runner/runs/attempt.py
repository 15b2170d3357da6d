"""One attempt to run an executable: start it at most once, watch it, stop it, record how it ended, remove it.

An attempt has a run id, which its service has claimed before. The container of that run id is the proof that the
attempt was started, until the end is recorded: whatever dies or loses an answer in between, the container is found and
is not started again.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Generic, Protocol, TypeVar

from libs.core.aio.backoff import Backoff
from libs.core.aio.retrying import retry_forever
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer, RunOutcome
from libs.docker_runner.errors import AlreadyRunning, NoRoom
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.run_engine import AttemptEngine

log = get_logger(__name__)

NOT_STARTED = "not-started"
"""The reason of an attempt whose container could not be started for a long while."""

_UNPROVEN_SECONDS = 0.2
# Events tell of an end; this is for those that are lost.
_LOOK_SECONDS = 30.0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class StopOrder:
    """A reason to end an attempt, or not to start it.

    Attributes:
        grace_seconds: from SIGTERM to SIGKILL; below 1: SIGKILL at once.
        again: whether an attempt that has not begun yet may be made later.
        interrupts: whether a start that is under way is cancelled; otherwise its container is ended.
    """

    reason: str
    grace_seconds: float = 0.0
    again: bool = False
    interrupts: bool = False
    message: str = ""


@dataclass(frozen=True)
class AttemptResult:
    """How one attempt ended.

    Attributes:
        reason: one word for the history: an ``EndReason``, or a reason of the service.
        message: a sentence for people; empty on success.
        again: another attempt may end better.
        ended: how its container ended; None when there was none.
        outcome: its result and its whole output, where the service collects them.
    """

    reason: str
    message: str = ""
    again: bool = False
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: Ended | None = None
    outcome: RunOutcome | None = None

    @property
    def succeeded(self) -> bool:
        """Whether ``main`` returned something that can be used."""
        return self.reason == EndReason.FINISHED


class AttemptPolicy(Protocol[T_co]):
    """What differs between services."""

    def stop_order(self) -> StopOrder | None:
        """Return why the attempt must not run, or not any more; None while it is wanted. Quick.

        Call :meth:`Attempt.changed` when the answer changes.
        """

    def build(self) -> Executable:
        """Return what to start. Raises UserError when it cannot be started, whoever tries."""

    async def ready(self, executable: Executable, refusal: NoRoom | None) -> bool | AttemptResult:
        """Do what must be done before a start: wait for room, record that the run begins.

        Args:
            refusal: the engine's answer to the start before, if that was for want of room.

        Returns:
            True: start it. False, after a pause or a write: ask again. A result: it is not to be started.
        """

    def start_patience_seconds(self, error: Retryable) -> float:
        """Return how long starts may fail, the latest with *error*, before the attempt is given up."""

    def rejected(self, error: UserError) -> AttemptResult:
        """Return the result of an attempt that cannot be started, whoever tries."""

    async def see_through(self, container: ManagedContainer) -> AttemptResult:
        """Return how *container*, which was started or adopted, ended; see :meth:`Attempt.watch`."""

    async def record(self, result: AttemptResult) -> T_co:
        """Write *result* down. Until this returns, the container stays."""


@dataclass(frozen=True, kw_only=True)
class RunKit:
    """What all attempts of one owned segment share.

    Attributes:
        proven: whether it is certain that no other worker owns the segment.
        containers: lists the segment's containers.
        clock: Unix seconds.
    """

    engine: AttemptEngine
    proven: Callable[[], bool]
    containers: Callable[[], Awaitable[list[ManagedContainer]]]
    stop_grace_seconds: float = 30.0
    clock: Callable[[], float] = time.time


class Attempt(Generic[T]):
    """Carries out one attempt. Cancelled, it leaves the container as it is, for the next owner.

    Args:
        entity_id, run_id: what runs; no container of another run of this entity runs beside it.
        container_ended: called with the end of a container that was in the way, before its removal.
        backoff: the pauses between starts that fail.
        wake: ends a pause early; set by :meth:`changed`.
        adopted: the container of this attempt, when an earlier owner of the segment started it.
        may_be_started: whether a container of this attempt may be there already.
    """

    def __init__(
        self,
        entity_id: str,
        run_id: str,
        *,
        kit: RunKit,
        policy: AttemptPolicy[T],
        container_ended: Callable[[Ended], Awaitable[object]],
        backoff: Backoff,
        wake: Wake,
        adopted: ManagedContainer | None = None,
        may_be_started: bool = False,
    ) -> None:
        self._entity_id = entity_id
        self._run_id = run_id
        self._kit = kit
        self._policy = policy
        self._container_ended = container_ended
        self._backoff = backoff
        self._wake = wake
        self._starting: asyncio.Timeout | None = None
        self._may_be_started = may_be_started
        self.container = adopted
        """The container of this attempt, from its start until its removal."""

    def changed(self) -> None:
        """Look at the container and at the stop order again: one of them may have changed."""
        self._wake.set()
        order = self._policy.stop_order()
        scope = self._starting
        if order is not None and order.interrupts and scope is not None and scope.when() is None:
            scope.reschedule(0.0)

    async def carry_out(self) -> T:
        """Start the run unless it was adopted, see it through, record its end, and remove its container."""
        found = self.container or await self._started()
        if isinstance(found, AttemptResult):
            result = found
        else:
            self.container = found
            result = await self._policy.see_through(found)
        recorded = await self._policy.record(result)
        if (container := self.container) is not None:
            # Only now: should this worker die before, the next one still finds out how the run ended.
            await retry_forever(lambda: self._kit.engine.remove(container))
            self.container = None
        return recorded

    async def watch(
        self, container: ManagedContainer, timeout_seconds: float | None, late: StopOrder
    ) -> StopOrder | None:
        """Wait for the end of *container*, or end it.

        Args:
            timeout_seconds: how long it may run; None: for ever.
            late: the order by which it is ended then.

        Returns:
            The order by which it was ended; None when it ended by itself.
        """
        kit = self._kit
        order: StopOrder | None = None
        if container.started_at is None:  # as lists have it
            container = await self._as_it_is(container) or container
        begun_at = container.started_at.timestamp() if container.started_at is not None else kit.clock()
        deadline = begun_at + timeout_seconds if timeout_seconds is not None else math.inf
        while True:
            if order is None:
                order = self._policy.stop_order() or (late if kit.clock() >= deadline else None)
                if order is not None:
                    order = await self._stop(
                        container, order, EndReason.TIMEOUT if order is late else EndReason.STOPPED
                    )
            current = await self._as_it_is(container)
            if current is None or current.state is ContainerState.EXITED:
                return order
            left_seconds = _LOOK_SECONDS if order is not None else deadline - kit.clock()
            await self._wake.wait_at_most(max(0.0, min(_LOOK_SECONDS, left_seconds)))

    async def _as_it_is(self, container: ManagedContainer) -> ManagedContainer | None:
        return await retry_forever(lambda: self._kit.engine.look(container))

    async def _stop(self, container: ManagedContainer, order: StopOrder, reason: EndReason) -> StopOrder:
        """End *container*. Return *order*, or the one that came meanwhile and left it less time."""
        engine = self._kit.engine
        stopping = asyncio.ensure_future(retry_forever(lambda: engine.stop(container, order.grace_seconds, reason)))
        try:
            while not stopping.done():
                changing = asyncio.ensure_future(self._wake.wait_at_most(None))
                try:
                    await asyncio.wait({stopping, changing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changing.cancel()
                sooner = self._policy.stop_order()
                if sooner is not None and sooner.grace_seconds < order.grace_seconds:
                    await retry_forever(partial(engine.stop, container, sooner.grace_seconds))
                    return sooner
            stopping.result()
            return order
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    # --- start

    async def _started(self) -> ManagedContainer | AttemptResult:
        """The container, or the result of an attempt that certainly has none."""
        result = await self._tried()
        if isinstance(result, AttemptResult) and self._may_be_started:
            return await retry_forever(self._found) or result
        return result

    async def _tried(self) -> ManagedContainer | AttemptResult:
        """Start it when the policy is ready, and again when that fails for a reason that may pass."""
        kit, policy = self._kit, self._policy
        executable: Executable | None = None
        refusal: NoRoom | None = None
        failing_since = kit.clock()
        while (order := policy.stop_order()) is None:
            if not kit.proven():
                # Frozen or cut off: another owner may be deciding about this run by now.
                await self._wake.wait_at_most(_UNPROVEN_SECONDS)
                continue
            try:
                if self._may_be_started and (found := await self._found()) is not None:
                    return found
                executable = executable or policy.build()
                ready, refusal = await policy.ready(executable, refusal), None
                if isinstance(ready, AttemptResult):
                    return ready
                if not ready:
                    failing_since = kit.clock()
                elif (
                    kit.proven()
                    and policy.stop_order() is None
                    and (container := await self._start(executable)) is not None
                ):
                    return container
            except UserError as error:
                return policy.rejected(error)
            except NoRoom as error:
                refusal = error
            except Retryable as error:
                log.warning("run not started", reason=str(error))
                if kit.clock() - failing_since > policy.start_patience_seconds(error):
                    return AttemptResult(NOT_STARTED, str(error), again=True)
                await self._wake.wait_at_most(self._backoff.next_seconds())
        return AttemptResult(order.reason, order.message or "it was not begun any more", again=order.again)

    async def _start(self, executable: Executable) -> ManagedContainer | None:
        """The container of this run; None when a stop order came meanwhile, or another run was in the way."""
        self._may_be_started = True
        try:
            container = await self._start_unless_interrupted(executable)
        except AlreadyRunning as error:
            return await self._cleared(error)
        except (NoRoom, UserError):
            self._may_be_started = False
            raise
        if container is None:
            return None
        if container.run_id == self._run_id:
            return container
        return await self._cleared(AlreadyRunning(container.name, container.run_id), container)

    async def _start_unless_interrupted(self, executable: Executable) -> ManagedContainer | None:
        # No task of its own: of a thousand starts at one moment, each would wait until all others are ready.
        scope = self._starting = asyncio.timeout(None)
        try:
            with self._kit.engine.room.expecting(executable.room):
                async with scope:
                    return await self._kit.engine.start(executable)
        except TimeoutError:
            if not scope.expired():
                raise
            return None
        finally:
            self._starting = None

    async def _found(self) -> ManagedContainer | None:
        """The container of this run, if a start whose answer was lost has made it; else none of it can start now.

        Raises:
            Retryable: it may be there.
        """
        container = next((c for c in await self._kit.containers() if c.run_id == self._run_id), None)
        if container is not None and container.state is ContainerState.CREATED:
            await self._kit.engine.remove(container)
            container = None
        self._may_be_started = container is not None
        return container

    async def clear(self, *others: ManagedContainer) -> bool:
        """End what runs of other attempts, and *others*; return whether there was something.

        Raises:
            Retryable: something may still run; call again.
        """
        listed = [c for c in await self._kit.containers() if c.id == self._entity_id and c.run_id != self._run_id]
        in_the_way = {container.container_id: container for container in (*others, *listed)}
        for container in in_the_way.values():
            log.warning("an earlier run is in the way and is ended", container=container.name)
            await retire(self._kit.engine, container, self._kit.stop_grace_seconds, self._container_ended)
        return bool(in_the_way)

    async def _cleared(self, error: AlreadyRunning, *others: ManagedContainer) -> ManagedContainer | None:
        """The container of this run, if that was in the way; else None, once the way is clear.

        Raises:
            AlreadyRunning: what is in the way is not to be seen; its segment is another one.
        """
        cleared = await self.clear(*others)
        found = await self._found()
        if found is None and not cleared:
            raise error
        return found


async def retire(
    engine: AttemptEngine,
    container: ManagedContainer,
    grace_seconds: float,
    record: Callable[[Ended], Awaitable[object]],
) -> None:
    """End *container*, record how it ended, and then remove it.

    Raises:
        Retryable: it may still run; call again.
    """
    await record(await engine.stop(container, grace_seconds))
    await engine.remove(container)
