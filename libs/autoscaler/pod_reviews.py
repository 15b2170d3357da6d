"""Review the tokens of worker pods by the API server (TokenReview)."""

import os
from collections.abc import Mapping, Sequence

from libs.core.kubernetes.api_server import Answer, ApiServer, message_of
from libs.core.kubernetes.errors import ClusterError
from libs.core.master.role import MasterSettings
from libs.core.transport.pod_tokens import AUDIENCE, PodProofs, PodTokenRefused, PodTokenUnchecked, ReviewedPod

_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
_POD = "authentication.kubernetes.io/pod-name"
_ACCOUNT = "system:serviceaccount:"
_SECONDS = 5.0


class PodReviews:
    """Reviews by one API server. The account needs the permission to create tokenreviews."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def review(self, token: str) -> ReviewedPod:
        """Return whose *token* it is.

        Raises:
            PodTokenRefused: it is invalid, or for another audience.
            PodTokenUnchecked: there is no answer, or the permission is missing.
        """
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        try:
            answer = await self._server.call("POST", _PATH, body)
        except ClusterError as error:
            raise PodTokenUnchecked(str(error)) from error
        return reviewed(answer)


def reviewed(answer: Answer) -> ReviewedPod:
    """Return the pod in the *answer* to a TokenReview. Errors as PodReviews.review()."""
    if answer.status == 403:
        raise PodTokenUnchecked(
            f"{message_of(answer)}: apply the ClusterRoleBinding of the masters' account, or set POD_TOKENS=off"
        )
    if answer.status not in (200, 201):
        raise PodTokenUnchecked(f"the API server answered {answer.status}: {message_of(answer)}")
    status = _object(_object(answer.document).get("status"))
    if status.get("authenticated") is not True:
        raise PodTokenRefused("the token of this worker's pod is invalid or expired, or its pod is gone")
    # An authenticator that knows no audiences names none, and has not checked them.
    if AUDIENCE not in _list(status.get("audiences")):
        raise PodTokenRefused(f"the token of this worker's pod is not for the audience {AUDIENCE!r}")
    user = _object(status.get("user"))
    namespace, separator, account = str(user.get("username", "")).removeprefix(_ACCOUNT).partition(":")
    if not separator or not str(user.get("username", "")).startswith(_ACCOUNT):
        raise PodTokenRefused("the token of this worker is not of a service account")
    names = _list(_object(user.get("extra")).get(_POD))
    return ReviewedPod(namespace, account, str(names[0]) if len(names) == 1 else "")


def pod_proofs(settings: MasterSettings, environ: Mapping[str, str] = os.environ) -> PodProofs:
    """Return what a master with *settings* requires of the tokens of worker pods."""
    transport = settings.transport
    if transport.pod_tokens == "off":
        return PodProofs()
    reviews = PodReviews(ApiServer(environ, _SECONDS))
    return PodProofs(
        transport.pod_tokens, settings.autoscaler.namespace, transport.worker_service_account, reviews.review
    )


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
