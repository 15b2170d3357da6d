"""The autoscaler's calls to the Kubernetes API: read and write one scale, list and annotate pods, read what fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from libs.autoscaler.decision import Pod
from libs.autoscaler.errors import DeploymentMissing, ScaleConflict
from libs.autoscaler.hindrances import Hindrance, of_deployment, of_events, of_pod
from libs.core.kubernetes.api_server import Answer, ApiServer, Json, message_of
from libs.core.kubernetes.errors import ClusterError, ClusterForbids, ClusterRejects, ClusterUnavailable, NoCluster
from libs.core.observability.metrics import observe

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_TEMPLATE_LABEL = "pod-template-hash"
_PAGE_SIZE = 500


@dataclass(frozen=True)
class Scale:
    """The Deployment's number of replicas, as read. `document` is the basis of a change."""

    replicas: int
    selector: str
    document: Json


class KubernetesWorkers:
    """The worker Deployment *deployment_name* in *namespace*.

    The cluster is selected at the first call and again after a failure, so that creating this object cannot fail.
    Every method raises a subclass of `ClusterError`, and each call ends within *timeout_seconds* after the login.
    """

    def __init__(
        self, namespace: str, deployment_name: str, environ: Mapping[str, str], timeout_seconds: float = 5.0
    ) -> None:
        self._namespace = namespace
        self._deployment_name = deployment_name
        self._server = ApiServer(environ, timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def scale(self) -> Scale:
        """Return the current number of replicas.

        Raises:
            DeploymentMissing: the namespace has no such Deployment.
        """
        answer = await self._call("GET", self._scale_path())
        try:
            return Scale(int(answer["spec"].get("replicas", 0)), str(answer["status"]["selector"]), answer)
        except (LookupError, TypeError, AttributeError) as error:
            raise ClusterRejects(f"the scale of {self._deployment()} is malformed: {answer!r}") from error

    async def set_replicas(self, scale: Scale, replicas: int) -> None:
        """Set the number to *replicas*, if it was not changed since *scale* was read.

        Raises:
            ScaleConflict: it was changed.
        """
        document = scale.document | {"spec": {"replicas": replicas}}
        await self._call("PUT", self._scale_path(), document)

    async def pods(self, scale: Scale) -> tuple[Pod, ...]:
        """Return the pods of the Deployment that are neither terminating nor finished, by name."""
        query = {"labelSelector": scale.selector, "limit": str(_PAGE_SIZE)}
        found: list[Pod] = []
        while True:
            answer = await self._call("GET", self._pods_path(), query=query)
            try:
                found += [_pod(item) for item in answer["items"] if _lives(item)]
                more = answer["metadata"].get("continue")
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise ClusterRejects(f"the pods of {self._deployment()} are malformed: {error!r}") from error
            if not more:
                return tuple(sorted(found, key=lambda pod: pod.name))
            query = query | {"continue": more}

    async def set_deletion_cost(self, pod: str, cost: int) -> None:
        """Annotate *pod*. A pod that is gone is no error."""
        patch = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
        try:
            await self._call("PATCH", f"{self._pods_path()}/{quote(pod, safe='')}", patch)
        except DeploymentMissing:
            return

    async def hindrances(self, pods: Sequence[Pod]) -> tuple[Hindrance, ...]:
        """Return why pods of the Deployment do not run, or are not created. *pods* are those of the last list."""
        deployment = await self._call("GET", self._scale_path().removesuffix("/scale"))
        unclear = {pod.name for pod in pods if not pod.ready and pod.hindrance is None}
        warnings = await self._warnings() if unclear else ()
        try:
            of_pods = [pod.hindrance for pod in pods if pod.hindrance is not None]
            return (*of_deployment(deployment), *of_pods, *of_events(warnings, unclear, datetime.now(UTC)))
        except (LookupError, TypeError, AttributeError) as error:
            raise ClusterRejects(f"the conditions of {self._deployment()} are malformed: {error!r}") from error

    async def _warnings(self) -> Sequence[Any]:
        query = {"fieldSelector": "type=Warning,involvedObject.kind=Pod", "limit": str(_PAGE_SIZE)}
        answer = await self._call("GET", self._pods_path().removesuffix("pods") + "events", query=query)
        return list(answer.get("items") or ())

    def _scale_path(self) -> str:
        name = quote(self._deployment_name, safe="")
        return f"/apis/apps/v1/namespaces/{quote(self._namespace, safe='')}/deployments/{name}/scale"

    def _pods_path(self) -> str:
        return f"/api/v1/namespaces/{quote(self._namespace, safe='')}/pods"

    def _deployment(self) -> str:
        return f"Deployment {self._deployment_name!r} in namespace {self._namespace!r}"

    async def _call(
        self, method: str, path: str, body: Json | None = None, query: Mapping[str, str] | None = None
    ) -> Json:
        with observe("kubernetes", method.lower(), refused=_is_no_failure):
            answer = await self._server.call(method, path, body, query)
            if answer.status >= 300 or not isinstance(answer.document, dict):
                raise self._failure(method, path, answer)
            return answer.document

    def _failure(self, method: str, path: str, answer: Answer) -> ClusterError:
        status, message = answer.status, message_of(answer)
        if status == 403:
            return ClusterForbids(
                f"{message or f'{method} {path} is forbidden'}: the service account needs get and update on "
                "deployments/scale, get on deployments, list and patch on pods, list on events (deploy/kubernetes has "
                "the Role)"
            )
        if status == 404:
            return DeploymentMissing(
                f"no {self._deployment()}: set NAMESPACE and DEPLOYMENT_NAME to the workers' Deployment ({message})"
            )
        if status == 409:
            return ScaleConflict(f"{self._deployment()} was changed concurrently: {message}")
        if status == 429 or status >= 500:
            return ClusterUnavailable(f"the Kubernetes API answers {status} to {method} {path}: {message}")
        return ClusterRejects(f"the Kubernetes API answers {status} to {method} {path}: {message}")


def _is_no_failure(error: Exception) -> bool:
    """Whether there is nothing to repair: a concurrent change, or no cluster."""
    return isinstance(error, ScaleConflict | NoCluster)


def _lives(item: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" not in item["metadata"] and item["status"].get("phase") not in ("Succeeded", "Failed")


def _pod(item: Mapping[str, Any]) -> Pod:
    metadata, status = item["metadata"], item["status"]
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return Pod(
        name=str(metadata["name"]),
        scheduled=bool(item["spec"].get("nodeName")),
        phase=str(status.get("phase", "Unknown")),
        ready=conditions.get("Ready") == "True",
        template=str((metadata.get("labels") or {}).get(_TEMPLATE_LABEL, "")),
        deletion_cost=_cost((metadata.get("annotations") or {}).get(DELETION_COST, "0")),
        node=str(item["spec"].get("nodeName") or ""),
        hindrance=of_pod(item),
    )


def _cost(text: str) -> int:
    # The controller reads a malformed cost as 0, so this must too.
    try:
        return int(text)
    except ValueError:
        return 0
