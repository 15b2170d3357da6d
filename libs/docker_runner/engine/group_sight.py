"""Verify that the control groups of bots lie below that of the worker's pod, in the group with their common limit.

Elsewhere no limit of the pod applies to them: bots could use all memory of the node. And directly in the engine's group
the kernel may kill the engine instead of a bot. A container shows where the engine puts it.
"""

from collections.abc import Callable
from typing import Any

from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.process.isolation import repeat
from libs.docker_runner.engine.client import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine.helper_container import ended_helper, locked_up

log = get_logger(__name__)

_AGAIN_SECONDS = 2.0
_PROVEN_SECONDS = 3600.0
# Above the exit codes of a failing interpreter, and below those of a killed one.
_ELSEWHERE = 64
_UNKNOWN = "the control group of bots is not verified yet: that needs the image of Python bots"
# In version 1 a path begins at the host's root, and so it does in version 2 unless the engine has a namespace of
# groups, where the path begins at the engine's own group. Drivers write the uid with dashes or underscores.
_LOOK = f"""
import sys
groups = {{}}
for line in open("/proc/self/cgroup"):
    _, controllers, path = line.rstrip("\\n").split(":", 2)
    groups.update(dict.fromkeys(controllers.split(","), path))
path = groups.get("memory") or groups.get("", "")
in_pod = sys.argv[1] in path.replace("_", "-") or path.startswith("/bots/")
sys.exit(0 if in_pod and path.split("/")[-2:-1] == ["bots"] else {_ELSEWHERE})
"""


class GroupSight:
    """Whether the engine puts bots below the pod's group.

    Args:
        pod_uid: of the worker's and the engine's pod; None: nothing is verified.
        image: an image with ``python3``. It is not pulled for this.
        changed: called when the complaint has changed.
    """

    def __init__(
        self, engine: Engine, pod_uid: str | None, image: str, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._engine = engine
        self._pod_uid = pod_uid
        self._image = image
        self._changed = changed
        self._proven = False
        self._wake = Wake()
        self.complaint = _UNKNOWN if pod_uid is not None else ""
        """Why no bot may be started; empty when the groups are right."""

    def doubt(self) -> None:
        """Check again soon: the engine was down or is another one. Until then the last result stays."""
        self._proven = False
        self.look()

    def look(self) -> None:
        """Check now, unless it is proven: what a check needs may be there."""
        self._wake.set()

    async def run(self) -> None:
        """Check until it is proven, and again after each doubt, forever."""

        async def one_round() -> float:
            await self.check()
            return _PROVEN_SECONDS if self._proven or self._pod_uid is None else _AGAIN_SECONDS

        await repeat("look at the groups of bots", one_round, _AGAIN_SECONDS, wake=self._wake)

    async def check(self) -> None:
        """Check, unless it is proven. May be repeated; errors of the engine are not raised."""
        if self._proven or self._pod_uid is None:
            return
        try:
            with observe("containers", "look at groups"):
                async with ended_helper(self._engine, self._image, _looker(self._pod_uid)) as helper:
                    ended = await self._engine.inspect(helper)
        except (RuntimeFault, NoSuchImage, NameTaken) as error:
            log.debug("the control group of bots is unknown", reason=f"{type(error).__name__}: {error}")
            return
        self._take(ended.container.exit_code if ended is not None else None)

    def _take(self, exit_code: int | None) -> None:
        if exit_code not in (0, _ELSEWHERE):
            return
        before = self.complaint
        self._proven = exit_code == 0
        self.complaint = "" if self._proven else complaint()
        if self.complaint == before:
            return
        if self.complaint:
            log.error("this worker accepts no segments", reason=self.complaint)
        else:
            log.info("bots run below the control group of the pod")
        self._changed()


def complaint() -> str:
    """Return the cause and the remedy."""
    return (
        "the Docker engine does not run bots in the group `bots` below the control group of this worker's pod, so that "
        "no limit of the pod applies to them: start it by engine.sh, or unset POD_UID if it is not in this pod"
    )


def _looker(pod_uid: str) -> dict[str, Any]:
    return {
        "Entrypoint": ["python3", "-I", "-S", "-B", "-c", _LOOK, pod_uid],
        "User": "10001:10001",
        "HostConfig": {**locked_up(), "NetworkMode": "none", "CgroupnsMode": "host"},
    }
