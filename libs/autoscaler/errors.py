"""What can keep the autoscaler from working. None of it concerns the master, which goes on without."""

from libs.core.errors import Permanent, Retryable, RuntimeFault


class AutoscalerError(RuntimeFault):
    """No decision this time. The message names what failed and what a person can do about it."""


class FleetUnknown(AutoscalerError, Retryable):
    """The master cannot say how many segments there are."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the segments are not known: {reason}")


class NoCluster(AutoscalerError, Permanent):
    """This process runs in no cluster and has no usable KUBECONFIG."""


class ClusterUnavailable(AutoscalerError, Retryable):
    """The API server did not answer, or answered that it cannot now. Worth trying again."""


class ClusterForbids(AutoscalerError, Permanent):
    """The API server knows us and says no."""


class DeploymentMissing(AutoscalerError, Permanent):
    """The namespace has no Deployment of that name."""


class ScaleConflict(AutoscalerError, Retryable):
    """Somebody else changed the number of replicas since it was read; look again and decide anew."""


class ClusterRejects(AutoscalerError, Permanent):
    """The API server answered what it should not: a defect here or a server that is none."""
