"""A fake Kubernetes API server with pods, for tests without a cluster. It is NOT Kubernetes.

It speaks real HTTP: create, delete, list and watch of pods in one namespace. Its kubelet runs the first process of each
pod in a container of the machine's Docker engine, with the pod's user, read-only root, folders in memory, and address.
The init container is not run: the container gets the program from the test's build. Scheduling, quotas and admission
are what a test sets.
"""

import asyncio
import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import docker
import yaml
from aiohttp import web

from tests.support.rigs.bot_process import init_program

_NAMESPACE = "bots"


@dataclass(eq=False)
class FakePodState:
    """One pod: its document, and its container."""

    document: dict[str, Any]
    container: Any = None


@dataclass
class FakePods:
    """The API server. Attributes may be changed by tests.

    Attributes:
        unschedulable: the message of a scheduler that finds no node; "" for one that does.
        refusal: status and message with which creations are refused.
        kubelet_is_dead: nothing is reported or ended any more, and containers continue.
        calls: method and path of each request.
    """

    docker_url: str
    scope: str
    unschedulable: str = ""
    refusal: tuple[int, str] | None = None
    kubelet_is_dead: bool = False
    is_away: bool = False
    calls: list[str] = field(default_factory=list)
    pods: dict[str, FakePodState] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._client = docker.DockerClient(base_url=self.docker_url, timeout=60)
        self._versions = itertools.count(1)
        self._log: list[tuple[int, dict[str, Any]]] = []
        self._happened = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._programs = tempfile.TemporaryDirectory()
        program = Path(self._programs.name) / "the0-init"
        program.write_bytes(init_program().read_bytes())
        for path in (program, program.parent):
            path.chmod(0o755)
        app = web.Application(middlewares=[self._counted])
        base = f"/api/v1/namespaces/{_NAMESPACE}/pods"
        app.router.add_post(base, self._create)
        app.router.add_get(base, self._get)
        app.router.add_delete(base + "/{name}", self._delete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        await asyncio.to_thread(self._end_all)
        self._client.close()
        self._programs.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        """Write a KUBECONFIG file for this server to *path*."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester"}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "tester", "user": {"token": "a-token"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def _end_all(self) -> None:
        for found in self._client.containers.list(all=True, filters={"label": f"runtime.scope={self.scope}"}):
            _removed(found)

    def container(self, name: str) -> Any:
        """Return the Docker container of a pod."""
        return self.pods[name].container

    async def unplug(self, name: str) -> None:
        """Cut a pod's container from the network; its bot runs on."""
        network = self._client.networks.get("bridge")
        await asyncio.to_thread(network.disconnect, self.container(name).id, force=True)

    # --- the API

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}" + (" watch" if "watch" in request.query else ""))
        if self.is_away:
            return _status(503, "the API server is away")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _create(self, request: web.Request) -> web.Response:
        document = await request.json()
        name = document["metadata"]["name"]
        if self.refusal is not None:
            return _status(*self.refusal)
        if name in self.pods:
            return _status(409, f'pods "{name}" already exists')
        document["metadata"] |= {
            "uid": f"uid-{next(self._versions)}",
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        document["status"] = {"phase": "Pending"}
        state = self.pods[name] = FakePodState(document)
        await self._publish("ADDED", state)
        if self.unschedulable:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            document["status"]["conditions"] = [{**condition, "message": self.unschedulable}]
            await self._publish("MODIFIED", state)
        else:
            self._spawn(self._run(state))
        return web.json_response(document, status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            items = [state.document for state in self.pods.values()]
            version = self._log[-1][0] if self._log else 0
            return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": items})
        seen = int(request.query["resourceVersion"] or 0)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            for version, event in [entry for entry in self._log if entry[0] > seen]:
                await response.write(json.dumps(event).encode() + b"\n")
                seen = version
            async with self._happened:
                if not self._log or self._log[-1][0] <= seen:
                    await self._happened.wait()

    async def _delete(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await request.json()
        state = self.pods.get(name)
        if state is None:
            return _status(404, f'pods "{name}" not found')
        if body["preconditions"]["uid"] != state.document["metadata"]["uid"]:
            return _status(409, "the UID in the precondition does not match")
        assert body["gracePeriodSeconds"] == 0
        await self.delete(name)
        return web.json_response(state.document)

    async def delete(self, name: str) -> None:
        """Remove the object of a pod; the kubelet ends its container later."""
        state = self.pods.pop(name)
        await self._publish("DELETED", state)
        if state.container is not None and not self.kubelet_is_dead:
            self._spawn(self._end(state))

    async def _publish(self, kind: str, state: FakePodState) -> None:
        version = next(self._versions)
        state.document["metadata"]["resourceVersion"] = str(version)
        self._log.append((version, {"type": kind, "object": json.loads(json.dumps(state.document))}))
        async with self._happened:
            self._happened.notify_all()

    # --- the kubelet

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work, name="fake kubelet")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, state: FakePodState) -> None:
        status = state.document["status"]
        state.container = await asyncio.to_thread(self._started, state.document["spec"])
        settings = state.container.attrs["NetworkSettings"]
        address = settings.get("IPAddress") or next(iter(settings["Networks"].values()))["IPAddress"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        running = {"name": "bot", "state": {"running": {"startedAt": now}}}
        status.update({"phase": "Running", "podIP": address, "containerStatuses": [running]})
        state.document["spec"]["nodeName"] = "node-1"
        await self._publish("MODIFIED", state)
        ended = await asyncio.to_thread(self._waited, state.container)
        name = state.document["metadata"]["name"]
        if self.kubelet_is_dead or self.pods.get(name) is not state:
            return
        code, out_of_memory = ended
        terminated = {"exitCode": code, "startedAt": now, "finishedAt": now}
        terminated["reason"] = "OOMKilled" if out_of_memory else "Completed" if code == 0 else "Error"
        status["containerStatuses"] = [{"name": "bot", "state": {"terminated": terminated}}]
        status["phase"] = "Failed" if code else "Succeeded"
        await self._publish("MODIFIED", state)

    async def _end(self, state: FakePodState) -> None:
        await asyncio.sleep(0.3)
        await asyncio.to_thread(_removed, state.container)

    def _started(self, spec: Mapping[str, Any]) -> Any:
        one = spec["containers"][0]
        sizes = {volume["name"]: volume["emptyDir"].get("sizeLimit", "") for volume in spec["volumes"]}
        folders = {}
        for mount in one["volumeMounts"]:
            if mount["name"] != "program":
                size = sizes[mount["name"]].replace("Mi", "m")
                folders[mount["mountPath"]] = f"rw,exec,nosuid,nodev,mode=1777,size={size}"
        user = spec["securityContext"]["runAsUser"]
        container = self._client.containers.run(
            one["image"],
            [one["workingDir"], *one["command"]],
            # The engine takes the permissions of a folder in memory that is the working folder from the bot.
            entrypoint=["/bin/sh", "-c", 'cd "$0" && exec "$@"'],
            environment={variable["name"]: variable["value"] for variable in one["env"]},
            user=f"{user}:{user}",
            tmpfs=folders,
            volumes={self._programs.name: {"bind": "/the0", "mode": "ro"}},
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            mem_limit=int(one["resources"]["limits"]["memory"]),
            labels={"runtime.scope": self.scope},
            detach=True,
        )
        container.reload()
        return container

    @staticmethod
    def _waited(container: Any) -> tuple[int, bool]:
        try:
            code = int(container.wait(timeout=3600)["StatusCode"])
            container.reload()
            return code, bool(container.attrs["State"]["OOMKilled"])
        except Exception:  # noqa: BLE001 - it was removed
            return 137, False


def _removed(container: Any) -> None:
    try:
        container.remove(force=True, v=True)
    except docker.errors.APIError:
        return


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code)
