"""How a worker in Kubernetes proves, by its pod's token, that its worker id is the name of its pod.

The kubelet writes the token, bound to the pod and for the audience ``the0`` alone, into a file and renews it there.
Masters have the API server review it. The review itself is passed in: this module calls no server.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from libs.core.observability.log import get_logger
from libs.core.transport.watched_files import FileRejected, WatchedFiles

log = get_logger(__name__)

AUDIENCE = "the0"
"""What the token is for; the API of Kubernetes does not accept it."""
HEADER = "the0-pod-token"
"""The key in the metadata of a worker's stream."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,12288}")
_KEPT_SECONDS = 60.0
_MOST_KEPT = 10_000


class PodTokenRefused(Exception):
    """The token proves no pod, or not one of a worker. The message is for the worker's log."""


class PodTokenUnchecked(Exception):
    """The API server did not review the token; it may be valid."""


@dataclass(frozen=True)
class ReviewedPod:
    """The pod and the service account that a valid token belongs to; *name* is empty if it is bound to no pod."""

    namespace: str
    service_account: str
    name: str


Review = Callable[[str], Awaitable[ReviewedPod]]
"""Reviews a token. Raises PodTokenRefused when it is invalid, PodTokenUnchecked when that is unknown."""


@dataclass(frozen=True)
class ProvenPod:
    """What a stream proved: *name* is the only worker id that it may register; None: any.

    *is_unchecked*: a token came and could not be reviewed, so that only the key of a live lease proves its worker id.
    """

    name: str | None = None
    is_unchecked: bool = False


class PodProofs:
    """What a master requires of the tokens of its workers.

    Args:
        mode: ``allow`` accepts workers without a token; one that is presented must be valid.
        namespace: of the worker pods.
        service_account: of the worker pods; None accepts each one of the namespace.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        mode: Literal["off", "allow", "require"] = "off",
        namespace: str = "",
        service_account: str | None = None,
        review: Review | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if mode != "off" and review is None:
            raise ValueError("tokens of pods need a review")
        self._mode = mode
        self._namespace = namespace
        self._service_account = service_account
        self._review = review
        self._clock = clock
        self._valid: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    async def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> ProvenPod:
        """Return what the *metadata* of a stream proves.

        Raises:
            PodTokenRefused: it does not prove what is required.
        """
        if self._mode == "off" or self._review is None:
            return ProvenPod()
        tokens = [value for key, value in metadata if key == HEADER and isinstance(value, str)]
        if not tokens:
            if self._mode == "allow":
                return ProvenPod()
            raise PodTokenRefused(
                f"this worker presented no token of its pod; mount one for the audience {AUDIENCE!r} and set "
                "POD_TOKEN_FILE"
            )
        if len(tokens) > 1 or not _TOKEN.fullmatch(tokens[0]):
            raise PodTokenRefused("this worker presented no valid token of its pod")
        digest = hashlib.sha256(tokens[0].encode()).digest()
        if (name := self._known(digest)) is not None:
            return ProvenPod(name)
        try:
            pod = await self._review(tokens[0])
        except PodTokenUnchecked as error:
            log.warning("the token of a worker's pod could not be reviewed", reason=str(error))
            return ProvenPod(is_unchecked=True)
        name = self._accepted(pod)
        self._keep(digest, name)
        return ProvenPod(name)

    def _accepted(self, pod: ReviewedPod) -> str:
        if not pod.name:
            raise PodTokenRefused("the token of this worker is bound to no pod; use a projected volume")
        if pod.namespace != self._namespace:
            raise PodTokenRefused(
                f"the token of this worker is of the namespace {pod.namespace!r}; this master's is {self._namespace!r}"
            )
        if self._service_account is not None and pod.service_account != self._service_account:
            raise PodTokenRefused(
                f"the token of this worker is of the service account {pod.service_account!r}; workers have "
                f"{self._service_account!r}"
            )
        return pod.name

    def _known(self, digest: bytes) -> str | None:
        found = self._valid.get(digest)
        if found is None or self._clock() - found[0] > _KEPT_SECONDS:
            return None
        return found[1]

    def _keep(self, digest: bytes, name: str) -> None:
        self._valid.pop(digest, None)
        self._valid[digest] = (self._clock(), name)
        while len(self._valid) > _MOST_KEPT:
            self._valid.popitem(last=False)


def pod_token_file(setting: str, path: Path) -> Callable[[], str]:
    """Return a function that returns the token in a file, read again when it changes.

    Raises:
        FileRejected: it is missing, or has no token.
    """

    def parse(contents: Sequence[bytes]) -> str:
        token = contents[0].decode(errors="replace").strip()
        if not _TOKEN.fullmatch(token):
            raise FileRejected(setting, "it has no token")
        return token

    watched = WatchedFiles([(setting, path)], parse)
    return lambda: watched.value
