"""Errors of starting the cluster."""


class ClusterUnavailableError(RuntimeError):
    """The cluster cannot be built or started here; the message names the remedy."""


class ClusterFailedError(RuntimeError):
    """The cluster did not become ready; the message has the end of a log."""
