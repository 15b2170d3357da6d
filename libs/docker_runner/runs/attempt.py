"""One attempt to run an executable: start it at most once, watch it, stop it, record its end and remove it.

An attempt has a run id that its service has claimed before. Until the end is recorded, the container with this run id
proves that the attempt was started: after a crash or a lost response the container is found and is not started a second
time.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from libs.docker_runner.runs.stop_orders import StopOrder, retire, stop_by_order

log = get_logger(__name__)

NOT_STARTED = "not-started"
"""The reason of an attempt whose container could not be started within the patience of its service."""

_UNPROVEN_SECONDS = 0.2
# Ends are reported by events. This interval finds the end when an event was lost.
_CHECK_SECONDS = 30.0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class AttemptResult:
    """How one attempt ended.

    Attributes:
        reason: one word for the history: an ``EndReason`` or a reason of the service.
        message: a sentence for users; empty on success.
        again: whether another attempt may succeed.
        ended: how its container ended; None when there was none.
        outcome: its result and complete output, if the service collects them.
    """

    reason: str
    message: str = ""
    again: bool = False
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: Ended | None = None
    outcome: RunOutcome | None = None

    @property
    def succeeded(self) -> bool:
        """Whether ``main`` returned a usable result."""
        return self.reason == EndReason.FINISHED


class AttemptPolicy(Protocol[T_co]):
    """The part of an attempt that differs between services."""

    def stop_order(self) -> StopOrder | None:
        """Return why the attempt must not start or continue; None while it may run. Must not block.

        The service calls :meth:`Attempt.changed` when this value changes.
        """

    def build(self) -> Executable:
        """Return what to start. Raises UserError when it cannot be started on any worker."""

    async def ready(self, executable: Executable, refusal: NoRoom | None) -> bool | AttemptResult:
        """Prepare a start: wait for room and record the beginning of the run.

        Args:
            refusal: the error of the previous start if the engine had no room for it.

        Returns:
            True: start it. False, after a pause or a write: call again. A result: do not start it.
        """

    def start_patience_seconds(self, error: Retryable) -> float:
        """Return how long starts may fail before the attempt is abandoned; *error* is the latest failure."""

    def rejected(self, error: UserError) -> AttemptResult:
        """Return the result of an attempt that cannot be started on any worker."""

    async def see_through(self, container: ManagedContainer) -> AttemptResult:
        """Wait for the end of the started or adopted *container* and return the result; see :meth:`Attempt.watch`."""

    async def record(self, result: AttemptResult) -> T_co:
        """Store *result*. The container is removed only after this returns."""


@dataclass(frozen=True, kw_only=True)
class RunKit:
    """The objects that all attempts of one owned segment share.

    Attributes:
        proven: whether it is certain that no other worker owns the segment.
        containers: lists the segment's containers.
        clock: Unix seconds, MongoDB's time for all that other workers decide by too.
        engine_clock: the clock of the engine's host; None: *clock*.
    """

    engine: AttemptEngine
    proven: Callable[[], bool]
    containers: Callable[[], Awaitable[list[ManagedContainer]]]
    stop_grace_seconds: float = 30.0
    clock: Callable[[], float] = time.time
    engine_clock: Callable[[], float] | None = None


class Attempt(Generic[T]):
    """Carries out one attempt. Cancellation leaves the container unchanged for the next owner.

    Args:
        entity_id, run_id: what runs. No container of another run of this entity runs at the same time.
        container_ended: called with the end of a container of an earlier run, before its removal.
        backoff: the pauses between failing starts.
        wake: ends a pause early; set by :meth:`changed`.
        adopted: the container of this attempt, when an earlier owner of the segment started it.
        may_be_started: whether a container of this attempt may already exist.
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
        """Check the container and the stop order again because one of them may have changed."""
        self._wake.set()
        order = self._policy.stop_order()
        scope = self._starting
        if order is not None and order.interrupts and scope is not None and scope.when() is None:
            scope.reschedule(0.0)

    async def carry_out(self) -> T:
        """Start the run unless it was adopted, wait for its end, record it and remove the container."""
        found = self.container or await self._started()
        if isinstance(found, AttemptResult):
            result = found
        else:
            self.container = found
            result = await self._policy.see_through(found)
        recorded = await self._policy.record(result)
        if (container := self.container) is not None:
            # After the record: if this worker dies before, the next owner still reads the end from the container.
            await retry_forever(lambda: self._kit.engine.remove(container))
            self.container = None
        return recorded

    async def watch(
        self, container: ManagedContainer, timeout_seconds: float | None, late: StopOrder
    ) -> StopOrder | None:
        """Wait for the end of *container*, or end it on an order or after its timeout.

        Args:
            timeout_seconds: how long it may run; None: without limit.
            late: the order that ends it after the timeout.

        Returns:
            The order that ended it; None when it ended by itself.
        """
        kit, policy = self._kit, self._policy
        # Start and timeout are compared by one clock: the engine's host may be an hour ahead of MongoDB.
        clock = kit.engine_clock or kit.clock

        async def stop(order: StopOrder) -> Ended:
            reason = EndReason.TIMEOUT if order is late else EndReason.STOPPED
            return await retry_forever(lambda: kit.engine.stop(container, order.grace_seconds, reason))

        order: StopOrder | None = None
        if container.started_at is None:  # a list of containers has no start times
            container = await self._current(container) or container
        begun_at = container.started_at.timestamp() if container.started_at is not None else clock()
        deadline = begun_at + timeout_seconds if timeout_seconds is not None else math.inf
        while True:
            if order is None:
                order = policy.stop_order() or (late if clock() >= deadline else None)
                if order is not None:
                    order, _ = await stop_by_order(stop, order, latest=policy.stop_order, wake=self._wake)
            current = await self._current(container)
            if current is None or current.state is ContainerState.EXITED:
                return order
            left_seconds = _CHECK_SECONDS if order is not None else deadline - clock()
            await self._wake.wait_at_most(max(0.0, min(_CHECK_SECONDS, left_seconds)))

    async def _current(self, container: ManagedContainer) -> ManagedContainer | None:
        return await retry_forever(lambda: self._kit.engine.inspect(container))

    # --- start

    async def _started(self) -> ManagedContainer | AttemptResult:
        """Return the container, or the result of an attempt that is certain to have no container."""
        result = await self._tried()
        if isinstance(result, AttemptResult) and self._may_be_started:
            return await retry_forever(self._found) or result
        return result

    async def _tried(self) -> ManagedContainer | AttemptResult:
        """Start the run when the policy is ready. Repeat starts that fail with a temporary error."""
        kit, policy = self._kit, self._policy
        executable: Executable | None = None
        refusal: NoRoom | None = None
        failing_since = kit.clock()
        while (order := policy.stop_order()) is None:
            if not kit.proven():
                # The process was frozen or disconnected, and another owner may already decide about this run.
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
        return AttemptResult(order.reason, order.message or "the run was stopped before its start", again=order.again)

    async def _start(self, executable: Executable) -> ManagedContainer | None:
        """Return the container of this run; None after a stop order or when another run had to be ended first."""
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
        # Without a separate task: of a thousand simultaneous starts, each would wait until all others are ready.
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
        """Return the container of this run if a start with a lost response created it; None: none can start any more.

        Raises:
            Retryable: the container may exist.
        """
        container = next((c for c in await self._kit.containers() if c.run_id == self._run_id), None)
        if container is not None and container.state is ContainerState.CREATED:
            await self._kit.engine.remove(container)
            container = None
        self._may_be_started = container is not None
        return container

    async def clear(self, *others: ManagedContainer) -> bool:
        """End the containers of other attempts and *others*; return whether there were any.

        Raises:
            Retryable: a container may still run; call again.
        """
        listed = [c for c in await self._kit.containers() if c.id == self._entity_id and c.run_id != self._run_id]
        in_the_way = {container.container_id: container for container in (*others, *listed)}
        for container in in_the_way.values():
            log.warning("ending a container of an earlier run", container=container.name)
            await retire(self._kit.engine, container, self._kit.stop_grace_seconds, self._container_ended)
        return bool(in_the_way)

    async def _cleared(self, error: AlreadyRunning, *others: ManagedContainer) -> ManagedContainer | None:
        """Return the container of this run if it caused *error*; None after other containers were removed.

        Raises:
            AlreadyRunning: the conflicting container is not listed because it belongs to another segment.
        """
        cleared = await self.clear(*others)
        found = await self._found()
        if found is None and not cleared:
            raise error
        return found
