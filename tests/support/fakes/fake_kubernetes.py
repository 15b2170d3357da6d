"""A fake Kubernetes API server, for tests where no real one can run. It is NOT Kubernetes.

It speaks real HTTP and keeps state for one Deployment of one namespace: the scale subresource with optimistic
locking, its pods with labels and annotations, bearer tokens and RBAC rules. A stand-in for the ReplicaSet controller
adds and removes pods after each change, in the published order of removal (no node, pending, not ready, deletion cost).
It rejects what the real server rejects, and also what it does not implement.
"""

import asyncio
import itertools
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import web

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
TOKEN = "a-token-of-the-fake"
Rule = tuple[str, str]
ALL_RULES: frozenset[Rule] = frozenset(
    {
        ("get", "deployments/scale"),
        ("update", "deployments/scale"),
        ("get", "deployments"),
        ("list", "pods"),
        ("patch", "pods"),
        ("list", "events"),
    }
)


@dataclass
class FakePod:
    """A pod of the fake. Tests may change it."""

    name: str
    scheduled: bool = True
    phase: str = "Running"
    ready: bool = True
    template: str = "5d9c7b"
    ending: bool = False
    annotations: dict[str, str] = field(default_factory=dict)

    def rank(self) -> tuple[bool, int, bool, int]:
        """The sort key of removal, lowest first."""
        cost = int(self.annotations.get(DELETION_COST, "0"))
        return (self.scheduled, ["Pending", "Unknown", "Running"].index(self.phase), self.ready, cost)

    def document(self, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": self.name,
            "namespace": namespace,
            "labels": labels | {"pod-template-hash": self.template},
        }
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        if self.ending:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return {
            "metadata": metadata,
            "spec": {"containers": [{"name": "worker"}]} | ({"nodeName": "node-1"} if self.scheduled else {}),
            "status": {
                "phase": self.phase,
                "conditions": [{"type": "Ready", "status": "True" if self.ready else "False"}],
            },
        }


class FakeKubernetes:
    """Start it with `async with FakeKubernetes(...) as cluster`.

    Attributes:
        allowed: the (verb, resource) pairs that the token may use.
        token: the bearer token that is accepted.
        down: the status of every answer; 0 while the server is up.
        hangs: answer nothing.
        taken: names of the pods that the stand-in controller removed, in order.
        conditions, events: of the Deployment, and of its pods.
        calls: verb and resource of every permitted call.
    """

    def __init__(
        self, replicas: int, namespace: str = "bots", deployment_name: str = "bot-runner-worker", page_size: int = 500
    ) -> None:
        self.namespace = namespace
        self.deployment_name = deployment_name
        self.replicas = replicas
        self.allowed: frozenset[Rule] = ALL_RULES
        self.token = TOKEN
        self.down = 0
        self.hangs = False
        self.garbled = False
        self.pods: list[FakePod] = []
        self.conditions: list[dict[str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.taken: list[str] = []
        self.calls: list[Rule] = []
        self.url = ""
        self._labels = {"app.kubernetes.io/name": "bot-runner"}
        self._page_size = page_size
        self._version = 1
        self._numbers = itertools.count()
        self._runner: web.AppRunner | None = None
        self._stopped = asyncio.Event()
        self.settle()

    async def start(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._stopped.clear()
        app = web.Application(middlewares=[self._guard])
        scale = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"
        app.router.add_get(scale, self._get_scale)
        app.router.add_get(scale.removesuffix("/scale"), self._get_deployment)
        app.router.add_get("/api/v1/namespaces/{namespace}/events", self._list_events)
        app.router.add_put(scale, self._put_scale)
        app.router.add_patch(scale, self._patch_scale)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._list_pods)
        app.router.add_patch("/api/v1/namespaces/{namespace}/pods/{name}", self._patch_pod)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        self._stopped.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def kubeconfig(self, path: Path, cluster: Mapping[str, object] | None = None, user: object = None) -> Path:
        """Write a KUBECONFIG file for this server to *path*."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester"}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url, **(cluster or {})}}],
            "users": [{"name": "tester", "user": {"token": TOKEN} if user is None else user}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def settle(self) -> None:
        """Act as the Deployment and ReplicaSet controllers: adjust the number of pods."""
        self.pods = [pod for pod in self.pods if not pod.ending]
        while len(self.pods) < self.replicas:
            self.pods.append(FakePod(f"{self.deployment_name}-5d9c7b-{next(self._numbers):05d}"))
        while len(self.pods) > self.replicas:
            victim = min(self.pods, key=FakePod.rank)
            self.pods.remove(victim)
            self.taken.append(victim.name)

    def scale_by_hand(self, replicas: int) -> None:
        """Act as a user's `kubectl scale`."""
        self.replicas = replicas
        self._version += 1
        self.settle()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.hangs:
            await self._stopped.wait()
        if self.garbled:
            return web.Response(text="<html>a proxy's error page</html>", content_type="text/html")
        if self.down:
            return _status(self.down, "the fake is down")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if (scheme.lower(), token) != ("bearer", self.token):
            return _status(401, "Unauthorized")
        rule = _rule(request)
        if rule not in self.allowed:
            verb, resource = rule
            return _status(403, f'{resource} is forbidden: User "tester" cannot {verb} resource "{resource}"')
        if request.match_info.get("namespace") != self.namespace:
            return _status(404, "not found")
        self.calls.append(rule)
        return await handler(request)

    async def _get_scale(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != self.deployment_name:
            return _status(404, f'deployments.apps "{request.match_info["name"]}" not found')
        return web.json_response(self._scale())

    async def _get_deployment(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != self.deployment_name:
            return _status(404, f'deployments.apps "{request.match_info["name"]}" not found')
        metadata = {"name": self.deployment_name, "namespace": self.namespace}
        status = {"conditions": self.conditions}
        return web.json_response(
            {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata, "status": status}
        )

    async def _list_events(self, request: web.Request) -> web.Response:
        if request.query.get("fieldSelector") != "type=Warning,involvedObject.kind=Pod":
            return _status(400, "the fake knows only warnings of pods")
        return web.json_response({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": self.events})

    async def _put_scale(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != self.deployment_name:
            return _status(404, f'deployments.apps "{request.match_info["name"]}" not found')
        body = await request.json()
        if body.get("kind") != "Scale" or body["metadata"].get("name") != self.deployment_name:
            return _status(400, "the body is no Scale of this Deployment")
        version = body["metadata"].get("resourceVersion")
        if version not in (None, str(self._version)):
            return _status(409, "the object has been modified; please apply your changes to the latest version")
        self.replicas = int(body["spec"]["replicas"])
        self._version += 1
        self.settle()
        return web.json_response(self._scale())

    async def _patch_scale(self, request: web.Request) -> web.Response:
        """Patch the scale, as users do; the autoscaler replaces it instead."""
        if request.content_type != "application/merge-patch+json":
            return _status(415, f"the fake knows no {request.content_type}")
        self.replicas = int(json.loads(await request.text())["spec"]["replicas"])
        self._version += 1
        self.settle()
        return web.json_response(self._scale())

    def _scale(self) -> dict[str, Any]:
        selector = ",".join(f"{key}={value}" for key, value in self._labels.items())
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": self.deployment_name,
                "namespace": self.namespace,
                "resourceVersion": str(self._version),
            },
            # The real server omits a zero.
            "spec": {"replicas": self.replicas} if self.replicas else {},
            "status": {"replicas": len(self.pods), "selector": selector},
        }

    async def _list_pods(self, request: web.Request) -> web.Response:
        wanted = dict(part.split("=") for part in request.query.get("labelSelector", "").split(",") if part)
        if not wanted.items() <= self._labels.items():
            return web.json_response({"kind": "PodList", "metadata": {}, "items": []})
        start = int(request.query.get("continue", "0"))
        end = start + min(self._page_size, int(request.query.get("limit", self._page_size)))
        metadata = {"continue": str(end)} if end < len(self.pods) else {}
        items = [pod.document(self.namespace, self._labels) for pod in self.pods[start:end]]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items})

    async def _patch_pod(self, request: web.Request) -> web.Response:
        if request.content_type != "application/merge-patch+json":
            return _status(415, f"the fake knows no {request.content_type}")
        pod = next((pod for pod in self.pods if pod.name == request.match_info["name"]), None)
        if pod is None:
            return _status(404, f'pods "{request.match_info["name"]}" not found')
        patch = json.loads(await request.text())
        annotations = patch["metadata"]["annotations"]
        if not all(isinstance(value, str) for value in annotations.values()):
            return _status(422, "an annotation must be a string")
        pod.annotations.update(annotations)
        return web.json_response(pod.document(self.namespace, self._labels))


def rules_of(role: dict[str, Any]) -> frozenset[Rule]:
    """Return the (verb, resource) pairs that a Role manifest grants."""
    return frozenset(
        (verb, resource) for rule in role["rules"] for verb in rule["verbs"] for resource in _strings(rule["resources"])
    )


def _strings(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


def _rule(request: web.Request) -> Rule:
    kinds = {"/scale": "deployments/scale", "/events": "events"}
    resource = next((kind for end, kind in kinds.items() if request.path.endswith(end)), "")
    resource = resource or ("deployments" if "/deployments/" in request.path else "pods")
    one = "name" in request.match_info
    verbs = {"GET": "get" if one else "list", "PUT": "update", "PATCH": "patch"}
    return (verbs.get(request.method, request.method.lower()), resource)


def _status(code: int, message: str) -> web.Response:
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return web.json_response(document, status=code)
