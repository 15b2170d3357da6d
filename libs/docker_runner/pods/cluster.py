"""The calls to the API server about pods: create, delete, list once, and watch."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from libs.core.kubernetes.api_server import Answer, ApiServer, message_of
from libs.core.kubernetes.errors import ClusterError, ClusterUnavailable
from libs.docker_runner.engine.client import NameTaken
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.pods.manifest import MANAGED_BY, MANAGER

_PAGE = 500
_WATCH_SECONDS = 240
# Bookmarks come each minute.
_SILENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Listed:
    """All pods of ours at one version of the cluster."""

    version: str
    documents: tuple[Mapping[str, Any], ...]


class PodsApi:
    """The pods of one namespace. Every method may raise EngineUnavailable (outcome unknown)."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        self._query = {"labelSelector": f"{MANAGED_BY}={MANAGER}"}

    def close(self) -> None:
        """Close the connections. May be repeated."""
        self._server.close()

    async def probe(self) -> None:
        """Return if the namespace's pods may be listed.

        Raises:
            EngineUnavailable: they may not, or the API server is away; the message has the remedy.
        """
        await self._called("list pods", "GET", self._path, query={**self._query, "limit": "1"})

    async def create(self, name: str, document: dict[str, Any]) -> Mapping[str, Any]:
        """Create a pod and return it.

        Raises:
            NameTaken: a pod of this name exists.
            EngineRefused: a quota or an admission controller refuses it; the message says which.
        """
        answer = await self._call(f"create pod {name}", "POST", self._path, document)
        if answer.status == 409:
            raise NameTaken
        return _document(f"create pod {name}", answer)

    async def delete(self, name: str, uid: str) -> None:
        """Delete the pod without waiting for its node. No error if it is gone.

        Only for a pod whose bot is known to be dead: the name is free at once.
        """
        what = f"delete pod {name}"
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        answer = await self._call(what, "DELETE", f"{self._path}/{quote(name, safe='')}", body)
        # 409: another pod has the name.
        if answer.status not in (404, 409):
            _document(what, answer)

    async def list(self) -> Listed:
        """Return all pods of the runtime in the namespace."""
        documents: list[Mapping[str, Any]] = []
        query = {**self._query, "limit": str(_PAGE)}
        while True:
            answer = await self._called("list pods", "GET", self._path, query=query)
            documents += answer.get("items") or ()
            metadata = answer.get("metadata") or {}
            if not metadata.get("continue"):
                return Listed(str(metadata.get("resourceVersion", "")), tuple(documents))
            query = {**query, "continue": str(metadata["continue"])}

    async def watch(self, version: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the changes after *version* until the server ends the watch; an ERROR event requires a new list."""
        query = {
            **self._query,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        try:
            async for event in self._server.watch(self._path, query, _SILENCE_SECONDS):
                yield event
        except ClusterError as error:
            raise EngineUnavailable("watch pods", str(error)) from error

    async def _called(
        self, what: str, method: str, path: str, query: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        return _document(what, await self._call(what, method, path, query=query))

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            answer = await self._server.call(method, path, body, query)
        except ClusterError as error:
            raise EngineUnavailable(what, str(error)) from error
        if answer.status == 429 or answer.status >= 500:
            raise EngineUnavailable(what, str(ClusterUnavailable(f"{answer.status}: {message_of(answer)}")))
        if answer.status == 403 and method == "GET":
            remedy = f"the worker's account needs get, list, watch, create and delete on pods in {self._namespace!r}"
            raise EngineUnavailable(what, f"{message_of(answer)}; {remedy} (deploy/kubernetes has the Role)")
        return answer


def _document(what: str, answer: Answer) -> Mapping[str, Any]:
    if answer.status >= 300 or not isinstance(answer.document, dict):
        raise EngineRefused(what, answer.status, refusal(answer))
    return answer.document


def refusal(answer: Answer) -> str:
    """Return the API server's refusal with the remedy."""
    message = message_of(answer)
    if "exceeded quota" in message:
        return f"quota exceeded: {message}; raise the ResourceQuota of the bots' namespace, or lower limits"
    if "violates PodSecurity" in message or "denied the request" in message:
        return f"admission refused: {message}"
    return message
