"""Apply folders to a cluster, read objects, check rights, and clean up, for tests of overlays."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tools.stack import binaries

_SECONDS = 180.0
_NAMESPACE_SECONDS = 240.0


class KubectlFailedError(AssertionError):
    """kubectl ended with an error; the message has its error output."""


@dataclass(frozen=True)
class OverlayCluster:
    """A cluster to which overlays are applied by kubectl, in the namespaces that they name."""

    kubeconfig: str

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Return the output of kubectl.

        Raises:
            KubectlFailedError: it failed.
        """
        code, output, errors = await self.run(*arguments, stdin=stdin)
        if code != 0:
            raise KubectlFailedError(f"kubectl {' '.join(arguments)}: {errors}")
        return output

    async def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Return the exit code, output and error output of kubectl."""
        process = await asyncio.create_subprocess_exec(
            *self._command(*arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(stdin.encode()), _SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def read(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds; the items of a list."""
        found = json.loads(await self.kubectl("get", *arguments, "--output=json"))
        return found["items"] if found["kind"] == "List" or found["kind"].endswith("List") else found

    async def apply(self, folder: Path) -> list[str]:
        """Apply a Kustomize folder; return a line for each object, `kind/name created|configured|unchanged`."""
        return (await self.kubectl("apply", "--kustomize", str(folder))).splitlines()

    async def generations(self, namespace: str, kind: str) -> dict[str, int]:
        """Return the objects of a kind by name, with their generation, which grows with each change of the spec."""
        found = await self.read(kind, f"--namespace={namespace}")
        return {item["metadata"]["name"]: item["metadata"]["generation"] for item in found}

    async def add_secret(self, namespace: str, name: str, values: Mapping[str, str]) -> None:
        """Create a Secret of *values*."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": dict(values),
        }
        await self.kubectl("apply", "--filename=-", stdin=json.dumps(secret))

    async def can(self, account: str, namespace: str, verb: str, resource: str, *options: str) -> bool:
        """Whether RBAC permits that to a service account of *namespace* there."""
        user = f"--as=system:serviceaccount:{namespace}:{account}"
        place = [] if any(option.startswith("--namespace") for option in options) else [f"--namespace={namespace}"]
        _, answer, errors = await self.run("auth", "can-i", verb, resource, user, *place, *options)
        assert answer.strip() in ("yes", "no"), errors
        return answer.strip() == "yes"

    @contextlib.asynccontextmanager
    async def own_namespace(self, manifest: Path, name: str) -> AsyncIterator[str]:
        """Apply the namespace of an overlay, and delete it with all that is in it at the end.

        Raises:
            AssertionError: the cluster has it already: a test must not end a runtime in use.
        """
        code, _, _ = await self.run("get", "namespace", name)
        assert code != 0, f"the cluster has a namespace {name!r} already: give the tests a cluster of their own"
        await self.kubectl("apply", "--filename", str(manifest))
        try:
            yield name
        finally:
            # Pods that never got an image, or whose engines are of no use any more, need no time to end.
            await self.kubectl("--namespace", name, "delete", "deployments,statefulsets", "--all", "--wait=false")
            await self.run("--namespace", name, "delete", "pods", "--all", "--grace-period=1", "--wait=false")
            await self.kubectl("delete", "namespace", name, "--wait=false")
            # They belong to no namespace.
            kinds = (
                "priorityclasses",
                "validatingadmissionpolicies",
                "validatingadmissionpolicybindings",
                "clusterroles",
                "clusterrolebindings",
            )
            await self.run("delete", ",".join(kinds), "--selector=app.kubernetes.io/part-of=the0", "--wait=false")
            await eventually(lambda: self._is_gone(name), within_seconds=_NAMESPACE_SECONDS, every_seconds=1)

    async def _is_gone(self, namespace: str) -> bool:
        code, _, errors = await self.run("get", "namespace", namespace)
        return code != 0 and "NotFound" in errors

    def _command(self, *arguments: str) -> Sequence[str]:
        return [str(binaries.kubectl()), f"--kubeconfig={self.kubeconfig}", *arguments]


def configured(applied: Sequence[str]) -> list[str]:
    """The lines of the objects that were changed.

    kubectl reports a PodDisruptionBudget each time: its selector is replaced as a whole by an equal one.
    """
    unlike = [line for line in applied if not line.endswith(" unchanged")]
    return [line for line in unlike if not line.startswith("poddisruptionbudget.")]
