"""Errors of setting up the engine."""


class EngineMissingError(RuntimeError):
    """No Docker engine answers and none can be installed here; the message has the remedy."""


class EngineFailedError(RuntimeError):
    """A Docker engine could not be installed or started; the message shows the end of its log."""
