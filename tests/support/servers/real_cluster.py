"""A namespace in a real Kubernetes cluster, for tests that run there when KUBECONFIG is set."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tools.stack import binaries

IMAGE = "registry.k8s.io/pause:3.10"


@dataclass(frozen=True)
class WorkerDeployment:
    """A Deployment and the settings to reach its cluster."""

    namespace: str
    deployment_name: str
    environ: dict[str, str]


@contextlib.asynccontextmanager
async def real_deployment(kubeconfig: str, replicas: int) -> AsyncIterator[WorkerDeployment]:
    """A Deployment of *replicas* idle pods in a new namespace, which is always deleted."""
    namespace = f"the0-test-{secrets.token_hex(4)}"
    await kubectl(kubeconfig, "create", "namespace", namespace)
    try:
        name = "bot-runner-worker"
        await kubectl(
            kubeconfig, "-n", namespace, "create", "deployment", name, f"--image={IMAGE}", f"--replicas={replicas}"
        )
        await kubectl(kubeconfig, "-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=120s")
        yield WorkerDeployment(namespace, name, {"KUBECONFIG": kubeconfig})
    finally:
        await kubectl(kubeconfig, "delete", "namespace", namespace, "--wait=false")


async def kubectl(kubeconfig: str, *arguments: str) -> str:
    """Run kubectl and return what it printed.

    Raises:
        AssertionError: it failed; the message has its error output.
    """
    process = await asyncio.create_subprocess_exec(
        binaries.kubectl(),
        f"--kubeconfig={kubeconfig}",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 0, f"kubectl {' '.join(arguments)}: {errors.decode()}"
    return output.decode()


@contextlib.asynccontextmanager
async def port_forward(kubeconfig: str, namespace: str, target: str, port: int) -> AsyncIterator[int]:
    """A port of this machine that leads to *port* of *target*, such as `service/nats` or `pod/server`."""
    process = await asyncio.create_subprocess_exec(
        binaries.kubectl(), f"--kubeconfig={kubeconfig}", "--namespace", namespace,
        "port-forward", target, f":{port}", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert line.startswith("Forwarding from"), f"kubectl port-forward printed {line!r}"
        # It prints a line for each connection, and would stop when the pipe is full.
        rest = asyncio.create_task(process.stdout.read(), name="read the output of kubectl port-forward")
        try:
            yield int(line.split()[2].rpartition(":")[2])
        finally:
            # A lost node ends it by itself.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
