"""Whether the cluster can be used: nodes are ready, and names resolve."""

import asyncio
import socket
import sys
from pathlib import Path

from tests.cluster.daemons import python
from tests.cluster.errors import ClusterFailedError
from tests.cluster.layout import API_SERVICE_ADDRESS, DNS_SERVICE_ADDRESS, KUBECONFIG, KUBECTL, LOGS, NODES
from tools.debian.command import CommandFailedError, run_command
from tools.stack.process_identity import ProcessIdentity

_POLL_SECONDS = 0.5
_STEP_SECONDS = 60
_QUESTION_SECONDS = 5.0
# The question for the address of the API server's Service: a header with one question, its name, type A, class IN.
_NAME = "kubernetes.default.svc.cluster.local"
_LABELS = b"".join(bytes([len(label)]) + label.encode() for label in _NAME.split("."))
_QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + _LABELS + b"\x00\x00\x01\x00\x01"


async def wait_until_ready(inside: ProcessIdentity | None, objects: Path, within_seconds: float) -> None:
    """Add *objects* and wait until both nodes are ready, pods can be created and the name service answers.

    Args:
        inside: the first process of the cluster, whose network is the cluster's; None when it has ended.
        objects: a file of the objects that a new cluster lacks; may be applied again.
        within_seconds: for all of it.

    Raises:
        ClusterFailedError: it took longer, or the cluster ended; the message names what was missing.
    """
    ended = ClusterFailedError(f"the cluster's first process has ended; log: {LOGS}/inside.log")
    if inside is None:
        raise ended
    nodes = [f"node/{node}" for node in NODES]
    steps = {
        "the API server takes objects": _kubectl("apply", "--server-side", "-f", str(objects)),
        "nodes are ready": _kubectl("wait", "--for=condition=Ready", *nodes, "--timeout=20s"),
        "pods may be made": _kubectl("get", "serviceaccount", "default", "--namespace", "default"),
        "names are resolved": [
            "nsenter", "--target", str(inside.pid), "--net", *python("tests.cluster.readiness"),
        ],
    }  # fmt: skip
    missing = ""
    try:
        async with asyncio.timeout(within_seconds):
            for step, command in steps.items():
                while (reason := await _why_not(command)) is not None:
                    if not inside.alive:
                        raise ended
                    missing = f"it does not hold yet that {step}: {reason}"
                    await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise ClusterFailedError(
            f"the cluster is not ready after {within_seconds:g} s (logs: {LOGS}); {missing}"
        ) from None


def _kubectl(*arguments: str) -> list[str]:
    return [str(KUBECTL), "--kubeconfig", str(KUBECONFIG), "--request-timeout=30s", *arguments]


async def _why_not(command: list[str]) -> str | None:
    try:
        await run_command(command, within_seconds=_STEP_SECONDS)
    except CommandFailedError as error:
        return str(error)
    return None


def name_service_answers() -> bool:
    """Whether the name service knows the API server. Call it in the cluster's network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(_QUESTION_SECONDS)
        try:
            asker.connect((DNS_SERVICE_ADDRESS, 53))
            asker.send(_QUESTION)
            answer = asker.recv(512)
        except OSError:
            return False
    return answer.endswith(socket.inet_aton(API_SERVICE_ADDRESS))


if __name__ == "__main__":
    sys.exit(0 if name_service_answers() else "no answer")
