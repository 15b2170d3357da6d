"""Errors of calls to a Kubernetes cluster."""

from libs.core.errors import Permanent, Retryable, RuntimeFault


class ClusterError(RuntimeFault):
    """A call failed. The message names the cause and the remedy."""


class NoCluster(ClusterError, Permanent):
    """This process is not in a cluster and has no usable KUBECONFIG."""


class ClusterUnavailable(ClusterError, Retryable):
    """The API server did not answer, or reported that it is unavailable. Worth retrying."""


class ClusterForbids(ClusterError, Permanent):
    """The API server rejects the credentials or lacks a permission."""


class ClusterRejects(ClusterError, Permanent):
    """The API server returned an unexpected answer: a defect here, or not an API server."""
