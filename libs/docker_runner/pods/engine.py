"""The pods of a namespace as an engine of containers: the operations that the runner uses of a Docker engine.

`fleet.py` knows the pods. The API server is called to create and to delete one; everything else goes over the link.
"""

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.core.room import Need
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.engine.answers import EngineInfo, Inspected
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.events import ContainerEvent
from libs.docker_runner.engine.exec_channel import ExecChannel
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.pods.cluster import PodsApi
from libs.docker_runner.pods.fleet import FleetPod, PodFleet
from libs.docker_runner.pods.link import LinkBroken
from libs.docker_runner.pods.manifest import PodRules, pod, pod_view
from libs.docker_runner.pods.mirror import PodMirror, lines_in
from libs.docker_runner.pods.sending import NotInPods, check, command_of, sent_of
from libs.docker_runner.pods.session import PodSession
from libs.docker_runner.usage.stats import Stats

log = get_logger(__name__)

_READY_SECONDS = 120.0
# A pod that cannot be placed gives its start back after this time, so that others have their turn.
_UNPLACED_SECONDS = 10.0
_POLL_SECONDS = 0.1


class PodEngine(Engine):
    """The pods of one service and deployment in one namespace.

    Args:
        temp_dir: the runner's folder, whose run folders get what the pods send.

    Attributes:
        fleet: the pods; run its loop.
    """

    def __init__(self, api: PodsApi, rules: PodRules, temp_dir: Path, *, service: str, scope: str) -> None:
        # Nothing of the Docker engine's connection is made.
        self._api = api
        self._rules = rules
        self._threads = Threads("pods", 4)
        self.fleet = PodFleet(api, rules.port, self._threads, temp_dir / "runs", service=service, scope=scope)

    async def close(self) -> None:
        """Close all connections; the pods keep running. May be repeated."""
        await self.fleet.close()
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
        self.fleet.add(view, body)
        return view.uid

    async def start(self, container: str) -> None:
        """Wait for the pod, send it the bot's files, and start it."""
        one = self.fleet.known(container)
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

    async def _ready(self, one: FleetPod) -> PodSession:
        """Return the session of the pod once it runs.

        Raises:
            EngineRefused: it cannot run; the message has the reason and the remedy.
        """
        loop = asyncio.get_running_loop()
        limit = loop.time() + _READY_SECONDS
        unplaced: float | None = None
        while True:
            view, now = one.view, loop.time()
            if self.fleet.is_deleted(view.uid):
                raise EngineRefused(f"start {view.name}", 404, "its pod was deleted")
            if view.gone:
                raise EngineRefused(f"start {view.name}", 500, view.problem or "its pod has ended")
            if one.session is not None:
                return one.session
            patience = 1.0 if view.problem_is_final else _UNPLACED_SECONDS
            unplaced = (unplaced or now + patience) if view.problem else None
            if now >= limit or (unplaced is not None and now >= unplaced):
                raise EngineRefused(f"start {view.name}", 503, view.problem or "its pod did not run in time")
            self.fleet.keep_sessions()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5), self.fleet.changed:
                    await self.fleet.changed.wait()

    async def stop(self, container: str, grace_seconds: int) -> None:
        """Send SIGTERM, then SIGKILL after *grace_seconds*; return when it has ended. No error if it is gone."""
        await self._ended(container, float(grace_seconds))

    async def kill(self, container: str) -> None:
        """Send SIGKILL. No error if it does not run."""
        one = self.fleet.known(container)
        if one is not None and one.session is not None:
            with suppress(LinkBroken):
                await one.session.stop(0)

    async def wait(self, container: str, timeout_seconds: float) -> None:
        """Return when it does not run or is gone."""
        one = self.fleet.known(container)
        if one is None or self.fleet.state(one) is not ContainerState.RUNNING:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._until_over(one)
        except TimeoutError as error:
            raise EngineUnavailable(f"wait for {container}", f"no end within {timeout_seconds:g} s") from error

    async def _ended(self, container: str, grace_seconds: float) -> None:
        one = self.fleet.known(container)
        if one is None or self.fleet.state(one) is not ContainerState.RUNNING:
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

    async def _until_over(self, one: FleetPod) -> None:
        while not self.fleet.is_deleted(one.view.uid) and self.fleet.state(one) is ContainerState.RUNNING:
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
        one = self.fleet.known(container)
        if one is None:
            return
        if self.fleet.state(one) is ContainerState.RUNNING:
            await self._ended(container, 0.0)
        session = one.session
        if session is not None:
            await session.leave()
        await self._api.delete(one.view.name, one.view.uid)
        await self.fleet.forget(one)

    async def inspect(self, container: str) -> Inspected | None:
        """Return its description and state; None if it does not exist. Takes a UID or a name."""
        await self.fleet.until_listed()
        one = self.fleet.known(container)
        return Inspected(self.fleet.described(one), one.view.problem) if one is not None else None

    async def limits(self, container: str) -> Need | None:
        """Return its limits; None when it is gone."""
        one = self.fleet.known(container)
        return (one.view.container.limits or Need()) if one is not None else None

    async def stats(self, container: str) -> Stats | None:
        """The init's notes have the usage; the cluster is not asked."""
        return None

    async def logs(
        self, container: str, *, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """Yield its output from *since* on, inclusive; with *follow* until it ends."""
        one = self.fleet.known(container)
        if one is None:
            raise EngineRefused(f"logs of {container}", 404, "no such pod")
        output = PodMirror(self.fleet.folder(one.view.container)).output
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
        await self.fleet.until_listed()
        found = []
        for one in self.fleet.pods:
            container = self.fleet.described(one)
            if _matches(container, labels) and (ended or container.state is not ContainerState.EXITED):
                found.append(container)
        return found

    async def mounting(self, folder: Path, labels: Mapping[str, str]) -> set[str]:
        """No pod mounts a folder of this host."""
        return set()

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """Yield a RESYNC, then all events."""
        async with aclosing(self.fleet.events()) as events:
            async for event in events:
                yield event

    async def image_id(self, image: str) -> str | None:
        """Nodes pull images themselves."""
        return image

    async def sees(self, folder: Path) -> bool:
        """No folder of this host is mounted."""
        return True


def _matches(container: ManagedContainer, labels: Mapping[str, str | None]) -> bool:
    known = {
        "runtime.managed": "true",
        "runtime.service": container.service,
        "runtime.scope": container.scope,
        "runtime.segment": str(container.segment),
        "runtime.id": container.id,
    }
    return all(name in known and value in (None, known[name]) for name, value in labels.items())
