"""What the engine's set-up may end with."""


class EngineMissingError(RuntimeError):
    """No Docker engine answers and none can be had here; the message says what to do."""


class EngineFailedError(RuntimeError):
    """A Docker engine could not be installed or started; the message shows the end of its log."""
