"""What bringing up the cluster may end with."""


class ClusterUnavailableError(RuntimeError):
    """The cluster cannot be built or started here; the message says what to do."""


class ClusterFailedError(RuntimeError):
    """The cluster did not become ready; the message has the end of a log."""
