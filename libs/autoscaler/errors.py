"""Errors of the autoscaler, besides those of the cluster. None affects the master, which continues."""

from libs.core.errors import Permanent, Retryable
from libs.core.kubernetes.errors import ClusterError


class FleetUnknown(Retryable):
    """The master does not know the number of segments."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the segments are not known: {reason}")


class DeploymentMissing(ClusterError, Permanent):
    """The namespace has no Deployment of that name."""


class ScaleConflict(ClusterError, Retryable):
    """The number of replicas was changed since it was read; read again and decide anew."""
