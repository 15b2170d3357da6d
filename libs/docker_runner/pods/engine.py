"""The pods of a namespace as an engine of containers: the operations that the runner uses of a Docker engine.

One watch keeps the list of pods; each pod of an owned segment has a :class:`PodSession`. The API server is called to
create and to delete. Whether a bot is dead is decided by its init, by its node, or by the time that no grant holds:
never by the absence of its pod's object.
"""

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
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
from libs.core.room import Need
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.names import run_folder
from libs.docker_runner.engine.answers import EngineInfo, Inspected
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.exec_channel import ExecChannel
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.pods.cluster import PodsApi
from libs.docker_runner.pods.link import End, LinkBroken, Phase
from libs.docker_runner.pods.manifest import PodRules, PodView, pod, pod_view
from libs.docker_runner.pods.mirror import PodMirror, lines_in
from libs.docker_runner.pods.sending import NotInPods, check, command_of, sent_of
from libs.docker_runner.pods.session import PodSession, SegmentLease
from libs.docker_runner.usage.stats import Stats

log = get_logger(__name__)

_READY_SECONDS = 120.0
# A pod that cannot be placed gives its start back after this time, so that others have their turn.
_UNPLACED_SECONDS = 10.0
_DELETED_KEPT = 1000
_POLL_SECONDS = 0.1
_LOST_EXIT_CODE = 75


@dataclass
class _Pod:
    """One pod: as last described, and its session while this worker owns its segment."""

    view: PodView
    session: PodSession | None = None
    task: "asyncio.Task[None] | None" = None
    body: Mapping[str, Any] | None = None
    told_end: bool = False
    ended_at: datetime | None = None


class PodEngine(Engine):
    """The pods of one service and deployment in one namespace.

    Args:
        temp_dir: the runner's folder, whose run folders get what the pods send.
    """

    def __init__(self, api: PodsApi, rules: PodRules, temp_dir: Path, *, service: str, scope: str) -> None:
        # Nothing of the Docker engine's connection is made.
        self._api = api
        self._rules = rules
        self._runs = temp_dir / "runs"
        self._service, self._scope = service, scope
        self._threads = Threads("pods", 4)
        self._pods: dict[str, _Pod] = {}
        self._deleted: deque[str] = deque(maxlen=_DELETED_KEPT)
        self._leases: dict[int, SegmentLease] = {}
        self._is_listed = asyncio.Event()
        self._changed = asyncio.Condition()
        self._listeners: list[asyncio.Queue[ContainerEvent]] = []
        self._tasks: asyncio.TaskGroup | None = None

    async def close(self) -> None:
        """Close all connections; the pods keep running. May be repeated."""
        for one in list(self._pods.values()):
            await self._end_session(one)
        self._api.close()
        self._threads.close()

    def socket_group(self) -> int | None:
        """There is no socket."""
        return None

    async def info(self) -> EngineInfo:
        """Return the namespace as an engine. Its capacity is the cluster's business, and 0: unlimited."""
        await self._api.probe()
        digest = hashlib.sha256(f"kubernetes\0{self._rules.namespace}".encode()).hexdigest()[:32]
        return EngineInfo(f"kubernetes-{digest}", self._rules.namespace, (), Need(0, 0.0))

    # --- leases

    def set_lease(self, segment: int, lease: SegmentLease) -> None:
        """Grant the bots of *segment* from now on by *lease*."""
        self._leases[segment] = lease
        self._keep_sessions()

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
            one = self._pods[view.uid] = _Pod(view)
        one.view = view
        if view.gone:
            await self._ended_by_node(one)
        self._keep_sessions()
        async with self._changed:
            self._changed.notify_all()

    async def _ended_by_node(self, one: _Pod) -> None:
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
        await self._forget(one)

    async def _forget(self, one: _Pod) -> None:
        self._deleted.append(one.view.uid)
        self._pods.pop(one.view.uid, None)
        await self._end_session(one)
        self._tell(self._event(EventKind.REMOVED, one))
        async with self._changed:
            self._changed.notify_all()

    def _keep_sessions(self) -> None:
        for one in self._pods.values():
            container, view = one.view.container, one.view
            ours = (container.service, container.scope) == (self._service, self._scope)
            if not ours or one.session is not None or not view.address or view.gone or self._tasks is None:
                continue
            if container.segment in self._leases:
                self._begin_session(one, self._tasks)

    def _begin_session(self, one: _Pod, tasks: asyncio.TaskGroup) -> None:
        view = one.view
        session = one.session = PodSession(
            view.container,
            PodMirror(self._folder(view.container)),
            self._threads,
            address=view.address,
            port=self._rules.port,
            key=view.key,
            lease=lambda: self._leases.get(view.container.segment),
            changed=lambda session: self._session_changed(one, session),
        )
        one.task = tasks.create_task(session.run(), name=f"serve pod {view.name}")

    def _session_changed(self, one: _Pod, session: PodSession) -> None:
        if session.end is not None:
            self._note_end(one, session.end.exit_code)
        else:
            self._tell(self._event(EventKind.STARTED, one))

    async def _end_session(self, one: _Pod) -> None:
        session, task = one.session, one.task
        one.session = one.task = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if session is not None:
            await session.leave()

    def _note_end(self, one: _Pod, exit_code: int, *, oom: bool = False) -> None:
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

    async def _mark(self, one: _Pod, reason: EndReason) -> None:
        mirror = PodMirror(self._folder(one.view.container))
        await self._threads.run(mirror.mark, reason)

    # --- one container

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a pod and return its UID; :meth:`start` waits for it.

        Raises:
            NameTaken: a pod of this name exists.
            EngineRefused: it needs what pods do not have, or the API server refuses it.
        """
        try:
            check(body)
        except NotInPods as error:
            raise EngineRefused(f"create {name}", 501, str(error)) from error
        user = int(body["Labels"].get("runtime.user", self._rules.user))
        rules = replace(self._rules, user=user)
        view = pod_view(await self._api.create(name, pod(name, body, secrets.token_bytes(32), rules)))
        if view is None:
            raise EngineUnavailable(f"create {name}", "the API server returned another pod")
        one = self._pods.setdefault(view.uid, _Pod(view))
        one.body = body
        return view.uid

    async def start(self, container: str) -> None:
        """Wait for the pod, send it the bot's files, and start it."""
        one = self._known(container)
        if one is None or one.body is None:
            raise EngineRefused(f"start {container}", 404, "no such pod")
        body = one.body
        session = await self._ready(one)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                sent = await self._threads.run(lambda: list(sent_of(body)))
                await session.begin(sent, command_of(body))
        except TimeoutError as error:
            raise EngineRefused(f"start {one.view.name}", 504, "its first process did not start it in time") from error
        except LinkBroken as error:
            raise EngineRefused(f"start {one.view.name}", 502, str(error)) from error
        finally:
            one.body = None

    async def _ready(self, one: _Pod) -> PodSession:
        """Return the session of the pod once it runs.

        Raises:
            EngineRefused: it cannot run; the message has the reason and the remedy.
        """
        loop = asyncio.get_running_loop()
        limit = loop.time() + _READY_SECONDS
        unplaced: float | None = None
        while True:
            view, now = one.view, loop.time()
            if view.uid in self._deleted:
                raise EngineRefused(f"start {view.name}", 404, "its pod was deleted")
            if view.gone:
                raise EngineRefused(f"start {view.name}", 500, view.problem or "its pod has ended")
            if one.session is not None:
                return one.session
            patience = 1.0 if view.problem_is_final else _UNPLACED_SECONDS
            unplaced = (unplaced or now + patience) if view.problem else None
            if now >= limit or (unplaced is not None and now >= unplaced):
                raise EngineRefused(f"start {view.name}", 503, view.problem or "its pod did not run in time")
            self._keep_sessions()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5), self._changed:
                    await self._changed.wait()

    async def stop(self, container: str, grace_seconds: int) -> None:
        """Send SIGTERM, then SIGKILL after *grace_seconds*; return when it has ended. No error if it is gone."""
        await self._ended(container, float(grace_seconds))

    async def kill(self, container: str) -> None:
        """Send SIGKILL. No error if it does not run."""
        one = self._known(container)
        if one is not None and one.session is not None:
            with suppress(LinkBroken):
                await one.session.stop(0)

    async def wait(self, container: str, timeout_seconds: float) -> None:
        """Return when it does not run or is gone."""
        one = self._known(container)
        if one is None or self._state(one) is not ContainerState.RUNNING:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._until_over(one)
        except TimeoutError as error:
            raise EngineUnavailable(f"wait for {container}", f"no end within {timeout_seconds:g} s") from error

    async def _ended(self, container: str, grace_seconds: float) -> None:
        one = self._known(container)
        if one is None or self._state(one) is not ContainerState.RUNNING:
            return
        if one.session is not None:
            with suppress(LinkBroken):
                await one.session.stop(grace_seconds)
        try:
            # An unreachable one is dead when no grant holds.
            async with asyncio.timeout(grace_seconds + 20.0):
                await self._until_over(one)
        except TimeoutError as error:
            raise EngineUnavailable(f"stop {container}", "the pod cannot be reached, and may still run") from error

    async def _until_over(self, one: _Pod) -> None:
        while one.view.uid in self._pods and self._state(one) is ContainerState.RUNNING:
            if one.session is not None and one.session.end is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await one.session.over.wait()
            else:
                await asyncio.sleep(_POLL_SECONDS)

    async def remove(self, container: str) -> None:
        """Remove it, killing it if it runs. No error if it is gone.

        Raises:
            EngineUnavailable: it may still run, so its name stays taken.
        """
        one = self._known(container)
        if one is None:
            return
        if self._state(one) is ContainerState.RUNNING:
            await self._ended(container, 0.0)
        session = one.session
        if session is not None:
            await session.leave()
        await self._api.delete(one.view.name, one.view.uid)
        await self._forget(one)

    async def inspect(self, container: str) -> Inspected | None:
        """Return its description and state; None if it does not exist. Takes a UID or a name."""
        await self._until_listed()
        one = self._known(container)
        return Inspected(self._described(one), one.view.problem) if one is not None else None

    async def limits(self, container: str) -> Need | None:
        """Return its limits; None when it is gone."""
        one = self._known(container)
        return (one.view.container.limits or Need()) if one is not None else None

    async def stats(self, container: str) -> Stats | None:
        """The init's notes have the usage; the cluster is not asked."""
        return None

    async def logs(
        self, container: str, *, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """Yield its output from *since* on, inclusive; with *follow* until it ends."""
        one = self._known(container)
        if one is None:
            raise EngineRefused(f"logs of {container}", 404, "no such pod")
        output = PodMirror(self._folder(one.view.container)).output
        session = one.session
        if session is not None:
            output = session.mirror.output
        else:
            await self._threads.run(output.open)
        if tail is not None:
            newest: deque[LogLine] = deque(maxlen=tail)
        offset = 0
        while True:
            records, offset = await self._threads.run(output.read, offset)
            for line in lines_in(records, since):
                if tail is not None:
                    newest.append(line)
                else:
                    yield line
            if records:
                continue
            session = one.session
            if not follow or session is None or not await session.more_output(offset):
                break
        if tail is not None:
            for line in newest:
                yield line

    async def execute(self, container: str, command: Sequence[str]) -> ExecChannel:
        """Further processes are not started in pods."""
        raise EngineRefused(f"exec in {container}", 501, "queries of running bots need ENGINE=docker")

    # --- all of them

    async def list(self, labels: Mapping[str, str | None], *, ended: bool = True) -> list[ManagedContainer]:
        """Return all containers with these labels; without *ended* only those that have not ended."""
        await self._until_listed()
        found = []
        for one in self._pods.values():
            container = self._described(one)
            if _matches(container, labels) and (ended or container.state is not ContainerState.EXITED):
                found.append(container)
        return found

    async def mounting(self, folder: Path, labels: Mapping[str, str]) -> set[str]:
        """No pod mounts a folder of this host."""
        return set()

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """Yield a RESYNC, then all events."""
        queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            yield ContainerEvent(EventKind.RESYNC, datetime.now(UTC))
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    async def image_id(self, image: str) -> str | None:
        """Nodes pull images themselves."""
        return image

    async def sees(self, folder: Path) -> bool:
        """No folder of this host is mounted."""
        return True

    # --- inside

    def _folder(self, container: ManagedContainer) -> Path:
        return run_folder(self._runs, container.scope, container.name, container.token)

    def _known(self, container: str) -> _Pod | None:
        if (found := self._pods.get(container)) is not None:
            return found
        return next((one for one in self._pods.values() if one.view.name == container), None)

    async def _until_listed(self) -> None:
        try:
            async with asyncio.timeout(5.0):
                await self._is_listed.wait()
        except TimeoutError as error:
            raise EngineUnavailable("list pods", "the pods have not been listed yet") from error

    def _state(self, one: _Pod) -> ContainerState:
        session = one.session
        if one.told_end or (session is not None and session.end is not None):
            return ContainerState.EXITED
        if session is not None and session.phase is Phase.RUNNING:
            return ContainerState.RUNNING
        if session is not None and session.phase is Phase.WAITING:
            return ContainerState.CREATED
        return one.view.container.state

    def _described(self, one: _Pod) -> ManagedContainer:
        state, container = self._state(one), one.view.container
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

    def _event(self, kind: EventKind, one: _Pod, exit_code: int | None = None) -> ContainerEvent:
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


def _matches(container: ManagedContainer, labels: Mapping[str, str | None]) -> bool:
    known = {
        "runtime.managed": "true",
        "runtime.service": container.service,
        "runtime.scope": container.scope,
        "runtime.segment": str(container.segment),
        "runtime.id": container.id,
    }
    return all(name in known and value in (None, known[name]) for name, value in labels.items())
