"""Errors of the autoscaler. None of them affects the master, which continues without it."""

from libs.core.errors import Permanent, Retryable, RuntimeFault


class AutoscalerError(RuntimeFault):
    """No decision in this round. The message names the cause and the remedy."""


class FleetUnknown(AutoscalerError, Retryable):
    """The master does not know the number of segments."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the segments are not known: {reason}")


class NoCluster(AutoscalerError, Permanent):
    """This process is not in a cluster and has no usable KUBECONFIG."""


class ClusterUnavailable(AutoscalerError, Retryable):
    """The API server did not answer, or reported that it is unavailable. Worth retrying."""


class ClusterForbids(AutoscalerError, Permanent):
    """The API server rejects the credentials or lacks a permission."""


class DeploymentMissing(AutoscalerError, Permanent):
    """The namespace has no Deployment of that name."""


class ScaleConflict(AutoscalerError, Retryable):
    """The number of replicas was changed since it was read; read again and decide anew."""


class ClusterRejects(AutoscalerError, Permanent):
    """The API server returned an unexpected answer: a defect here, or not an API server."""
