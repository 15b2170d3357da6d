"""Keep a worker from taking segments until the images of bots are on its engine, and report what prevents that. Pure.

The engine of a worker's pod begins empty. Without waiting, a new worker takes over bots that it cannot start; while a
registry is away, its predecessor can run them on. Once all images have been there, a missing one is only a warning, and
so it is on an engine that outlives its workers: it concerns the next starts, and the bots of other images run.
"""

from collections.abc import Collection, Mapping

from libs.core.observability.log import get_logger

log = get_logger(__name__)


class ImageWait:
    """Whether all images have been on the engine since the start of this worker.

    Args:
        required: whether the worker waits for them.

    Attributes:
        warning: why images are missing now; empty when none is.
    """

    def __init__(self, *, required: bool) -> None:
        self._complete = not required
        self._reported: set[str] = set()
        self.warning = ""
        self._pulling: Collection[str] = ()

    @property
    def complaint(self) -> str:
        """Why no bot may be started yet; empty when all images have been there."""
        if self._complete:
            return ""
        if self.warning:
            return self.warning
        named = " and ".join(self._pulling)
        return f"images are being pulled: {named}" if named else "the images of bots are looked for"

    def looked(self, absent: Collection[str]) -> None:
        """Note the images that are not on the engine, before they are pulled."""
        self._pulling = absent
        self._complete = self._complete or not absent

    def prepared(self, missing: Mapping[str, str]) -> None:
        """Note the images that could not be pulled, with the reasons. Each is logged once until it is there."""
        for image in missing.keys() - self._reported:
            log.warning(
                "an image cannot be pulled; trying again",
                image=image,
                reason=missing[image],
                takes_segments=self._complete,
            )
        for image in self._reported - missing.keys():
            log.info("an image that could not be pulled is there", image=image)
        self._reported = set(missing)
        self.warning = "; ".join(missing[image] for image in sorted(missing))
        self._complete = self._complete or not missing
