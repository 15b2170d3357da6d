"""Keep a worker from taking segments until the network of bots is secured on its engine. Pure.

A bot is started only in a secured network, whose first set-up takes many seconds on a busy machine. A worker that took
segments before would keep their bots down for that time, while another worker could run them.

A worker whose engine runs containers of its service does not wait: an earlier worker has secured their network, and a
wait could let their lease expire before this worker continues them.
"""


class NetworkWait:
    """Whether the network of bots has been secured on this engine."""

    def __init__(self) -> None:
        self._ready = False
        self._lacking = ""

    @property
    def complaint(self) -> str:
        """Why no bot may be started yet; empty once the network was secured, or need not be waited for."""
        if self._ready:
            return ""
        return self._lacking or "the network of bots is being set up"

    def continues(self) -> None:
        """Note that containers of this service run on the engine."""
        self._ready = True

    def lacks(self, image: str, reason: str) -> None:
        """Note that *image*, which its helpers need, is missing; *reason*: why it cannot be pulled, if it cannot."""
        self._lacking = reason or f"the network of bots needs the image {image}, which is being pulled"

    def secured(self) -> None:
        """Note that the network is secured. May be repeated."""
        self._ready = True
