"""The pods of a namespace as this worker sees them: one watch keeps the list, and each owned pod has a session.

Whether a bot is dead is decided by its init, by its node, or by the time that no grant holds: never by the absence of
its pod's object.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs.core.aio.backoff import Backoff
from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.names import run_folder
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.pods.cluster import PodsApi
from libs.docker_runner.pods.link import End, LinkBroken, Phase
from libs.docker_runner.pods.manifest import PodView, pod_view
from libs.docker_runner.pods.mirror import PodMirror
from libs.docker_runner.pods.session import PodSession, SegmentLease

log = get_logger(__name__)

_DELETED_KEPT = 1000
_POLL_SECONDS = 0.1
_LOST_EXIT_CODE = 75


@dataclass
class FleetPod:
    """One pod: as last described, and its session while this worker owns its segment."""

    view: PodView
    session: PodSession | None = None
    task: "asyncio.Task[None] | None" = None
    body: Mapping[str, Any] | None = None
    told_end: bool = False
    ended_at: datetime | None = None


class PodFleet:
    """The pods of the runtime in one namespace, and the sessions with those of one service and deployment.

    Args:
        runs: the folder of the runs, whose folders get what the pods send.

    Attributes:
        changed: notified when a pod has changed.
    """

    def __init__(self, api: PodsApi, port: int, threads: Threads, runs: Path, *, service: str, scope: str) -> None:
        self._api = api
        self._port = port
        self._threads = threads
        self._runs = runs
        self._service, self._scope = service, scope
        self._pods: dict[str, FleetPod] = {}
        self._deleted: deque[str] = deque(maxlen=_DELETED_KEPT)
        self._leases: dict[int, SegmentLease] = {}
        self._is_listed = asyncio.Event()
        self.changed = asyncio.Condition()
        self._listeners: list[asyncio.Queue[ContainerEvent]] = []
        self._tasks: asyncio.TaskGroup | None = None

    async def close(self) -> None:
        """End the sessions; the pods keep running. May be repeated."""
        for one in list(self._pods.values()):
            await self._end_session(one)

    @property
    def pods(self) -> Collection[FleetPod]:
        """All pods."""
        return self._pods.values()

    def add(self, view: PodView, body: Mapping[str, Any]) -> None:
        """Add a pod that this worker has created; *body* describes its container."""
        self._pods.setdefault(view.uid, FleetPod(view)).body = body

    def is_deleted(self, uid: str) -> bool:
        """Whether the pod was removed."""
        return uid in self._deleted

    # --- leases

    def set_lease(self, segment: int, lease: SegmentLease) -> None:
        """Grant the bots of *segment* from now on by *lease*."""
        self._leases[segment] = lease
        self.keep_sessions()

    async def expire(self, segment: int) -> None:
        """End the bots of *segment* at once, where they can be reached; elsewhere their grants run out."""
        self._leases.pop(segment, None)
        sessions = [one.session for one in self._pods.values() if one.view.container.segment == segment]
        await asyncio.gather(*(session.expire() for session in sessions if session is not None), return_exceptions=True)

    def containers_of(self, entity_id: str) -> Sequence[str]:
        """Return the UIDs of the entity's pods whose output this worker reads."""
        return [uid for uid, one in self._pods.items() if one.session and one.view.container.id == entity_id]

    def stored(self, container: str, stamp_ns: int) -> None:
        """Let the pod drop its output up to the time *stamp_ns* (nanoseconds since 1970): the storage has it."""
        one = self._pods.get(container)
        if one is not None and one.session is not None and self._tasks is not None:
            self._tasks.create_task(_quietly(one.session.stored(stamp_ns)), name=f"release output of {one.view.name}")

    # --- the watch

    async def run(self) -> None:
        """Keep the list of pods and the sessions forever."""
        backoff = Backoff(0.1, 5.0)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._look_for_dead(), name="look for dead pods")
            while True:
                try:
                    await self._watch_once()
                    backoff.reset()
                except RuntimeFault as error:
                    log.warning("pods are not watched", reason=str(error))
                    await asyncio.sleep(backoff.next_seconds())

    async def _watch_once(self) -> None:
        listed = await self._api.list()
        found = [view for document in listed.documents if (view := pod_view(document)) is not None]
        for uid in self._pods.keys() - {view.uid for view in found}:
            await self._removed(uid)
        for view in found:
            await self._seen(view)
        self._is_listed.set()
        self._tell(ContainerEvent(EventKind.RESYNC, datetime.now(UTC)))
        version = listed.version
        while True:
            async for event in self._api.watch(version):
                document = event.get("object")
                if event.get("type") == "ERROR" or not isinstance(document, dict):
                    # The version is too old: list again.
                    return
                version = str((document.get("metadata") or {}).get("resourceVersion", version))
                if event.get("type") == "BOOKMARK" or (view := pod_view(document)) is None:
                    continue
                if event.get("type") == "DELETED":
                    await self._removed(view.uid)
                else:
                    await self._seen(view)

    async def _seen(self, view: PodView) -> None:
        if view.uid in self._deleted:
            return
        one = self._pods.get(view.uid)
        if one is None:
            one = self._pods[view.uid] = FleetPod(view)
        one.view = view
        if view.gone:
            await self._ended_by_node(one)
        self.keep_sessions()
        async with self.changed:
            self.changed.notify_all()

    async def _ended_by_node(self, one: FleetPod) -> None:
        """Take its node's word, once the init has had the time to say more."""
        if one.session is not None and one.session.is_connected and not one.session.over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await one.session.over.wait()
        if one.view.problem.startswith("evicted"):
            await self._mark(one, EndReason.EVICTED)
        code = one.view.container.exit_code or 0
        if one.session is not None:
            await one.session.ended(End(code, lost=False))
        self._note_end(one, code, oom=one.view.container.oom_killed)

    async def _removed(self, uid: str) -> None:
        """Note that the object is gone. That is no evidence: a bot that was reachable stays until it is dead."""
        one = self._pods.get(uid)
        if one is None:
            return
        session = one.session
        if session is not None and session.is_owned() and session.phase is Phase.RUNNING and not session.is_dead():
            log.warning("the object of a running pod was deleted", pod=one.view.name)
            with suppress(LinkBroken):
                await session.stop(0)
            return
        await self.forget(one)

    async def forget(self, one: FleetPod) -> None:
        self._deleted.append(one.view.uid)
        self._pods.pop(one.view.uid, None)
        await self._end_session(one)
        self._tell(self._event(EventKind.REMOVED, one))
        async with self.changed:
            self.changed.notify_all()

    def keep_sessions(self) -> None:
        for one in self._pods.values():
            container, view = one.view.container, one.view
            ours = (container.service, container.scope) == (self._service, self._scope)
            if not ours or one.session is not None or not view.address or view.gone or self._tasks is None:
                continue
            if container.segment in self._leases:
                self._begin_session(one, self._tasks)

    def _begin_session(self, one: FleetPod, tasks: asyncio.TaskGroup) -> None:
        view = one.view
        session = one.session = PodSession(
            view.container,
            PodMirror(self.folder(view.container)),
            self._threads,
            address=view.address,
            port=self._port,
            key=view.key,
            lease=lambda: self._leases.get(view.container.segment),
            changed=lambda session: self._session_changed(one, session),
        )
        one.task = tasks.create_task(session.run(), name=f"serve pod {view.name}")

    def _session_changed(self, one: FleetPod, session: PodSession) -> None:
        if session.end is not None:
            self._note_end(one, session.end.exit_code)
        else:
            self._tell(self._event(EventKind.STARTED, one))

    async def _end_session(self, one: FleetPod) -> None:
        session, task = one.session, one.task
        one.session = one.task = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if session is not None:
            await session.leave()

    def _note_end(self, one: FleetPod, exit_code: int, *, oom: bool = False) -> None:
        if one.told_end:
            return
        one.told_end = True
        one.ended_at = datetime.now(UTC)
        if oom:
            self._tell(self._event(EventKind.OUT_OF_MEMORY, one))
        self._tell(self._event(EventKind.DIED, one, exit_code))

    async def _look_for_dead(self) -> None:
        """Note the end of bots whose pods cannot be reached until no grant holds: their node is lost."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for one in list(self._pods.values()):
                session = one.session
                lost = session is not None and session.end is None and session.phase is not Phase.WAITING
                if session is None or not lost or one.view.phase == "Pending" or not session.is_dead():
                    continue
                log.warning(
                    "a pod cannot be reached; its bot is dead by its lease", pod=one.view.name, node=one.view.node
                )
                await self._mark(one, EndReason.NODE_LOST)
                await session.ended(End(_LOST_EXIT_CODE, lost=False))

    async def _mark(self, one: FleetPod, reason: EndReason) -> None:
        mirror = PodMirror(self.folder(one.view.container))
        await self._threads.run(mirror.mark, reason)

    async def events(self) -> AsyncGenerator[ContainerEvent, None]:
        """Yield a RESYNC, then all events."""
        queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            yield ContainerEvent(EventKind.RESYNC, datetime.now(UTC))
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    # --- reading

    def folder(self, container: ManagedContainer) -> Path:
        return run_folder(self._runs, container.scope, container.name, container.token)

    def known(self, container: str) -> FleetPod | None:
        if (found := self._pods.get(container)) is not None:
            return found
        return next((one for one in self._pods.values() if one.view.name == container), None)

    async def until_listed(self) -> None:
        try:
            async with asyncio.timeout(5.0):
                await self._is_listed.wait()
        except TimeoutError as error:
            raise EngineUnavailable("list pods", "the pods have not been listed yet") from error

    def state(self, one: FleetPod) -> ContainerState:
        session = one.session
        if one.told_end or (session is not None and session.end is not None):
            return ContainerState.EXITED
        if session is not None and session.phase is Phase.RUNNING:
            return ContainerState.RUNNING
        if session is not None and session.phase is Phase.WAITING:
            return ContainerState.CREATED
        return one.view.container.state

    def described(self, one: FleetPod) -> ManagedContainer:
        state, container = self.state(one), one.view.container
        if state is not ContainerState.EXITED:
            return replace(container, state=state)
        end = one.session.end if one.session is not None else None
        return replace(
            container,
            state=state,
            exit_code=end.exit_code if end is not None else container.exit_code,
            finished_at=one.ended_at or container.finished_at,
            started_at=container.started_at or container.created_at,
        )

    def _event(self, kind: EventKind, one: FleetPod, exit_code: int | None = None) -> ContainerEvent:
        container = one.view.container
        return ContainerEvent(
            kind,
            datetime.now(UTC),
            container_id=one.view.uid,
            name=container.name,
            id=container.id,
            service=container.service,
            scope=container.scope,
            segment=container.segment,
            exit_code=exit_code,
        )

    def _tell(self, event: ContainerEvent) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)


async def _quietly(acknowledging: Coroutine[None, None, None]) -> None:
    # It is repeated after the next upload.
    with isolated("release the output of a pod"), suppress(LinkBroken):
        await acknowledging
