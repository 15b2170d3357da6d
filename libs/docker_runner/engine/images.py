"""The images that bots run in: pulled before the first start, never during one."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.docker_runner.errors import EngineUnavailable, ImageUnavailable
from libs.docker_runner.settings import Registry

log = get_logger(__name__)

_DOCKER_HUB = "https://index.docker.io/v1/"
# Messages of registries and engines.
_REFUSALS = ("unauthorized", "no basic auth credentials", "denied", "incorrect username or password")


class ImageStore(Protocol):
    """Operations on images; implemented by :class:`~libs.docker_runner.engine.client.Engine`."""

    async def image_id(self, image: str) -> str | None:
        """Return the digest of *image*; None when it is missing."""

    async def pull(self, image: str, credentials: Mapping[str, str] | None, silence_seconds: float) -> None:
        """Pull *image*."""


class Images:
    """The images on one engine.

    Args:
        pull_timeout_seconds: for a whole pull.
    """

    def __init__(self, engine: ImageStore, registry: Registry | None, pull_timeout_seconds: float) -> None:
        self._engine = engine
        self._registry = registry
        self._pull_timeout = pull_timeout_seconds
        self._present: set[str] = set()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._announced: set[str] = set()

    async def close(self) -> None:
        """Cancel running pulls. May be repeated."""
        pulls = list(self._pulls.values())
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)

    async def ensure(self, image: str) -> None:
        """Return when *image* is on the engine's host; checked only once per image. May be repeated.

        Raises:
            ImageUnavailable: it is missing and cannot be pulled.
            EngineUnavailable: unknown.
        """
        if not await self.has(image):
            await asyncio.shield(self._pull_once(image))
            self._present.add(image)

    async def has(self, image: str) -> bool:
        """Return whether *image* is on the engine's host, without pulling it; checked until it is there.

        Raises:
            EngineUnavailable: unknown.
        """
        if image not in self._present and await self._engine.image_id(image) is not None:
            self._present.add(image)
        return image in self._present

    async def ensure_all(self, images: Iterable[str]) -> dict[str, str]:
        """Pull the missing *images* concurrently; return those that cannot be pulled with the reason."""
        names = list(dict.fromkeys(images))
        results = await asyncio.gather(*(self.ensure(image) for image in names), return_exceptions=True)
        missing: dict[str, str] = {}
        for image, result in zip(names, results, strict=True):
            if isinstance(result, ImageUnavailable | EngineUnavailable):
                missing[image] = str(result)
            elif isinstance(result, BaseException):
                raise result
        return missing

    async def absent(self, images: Iterable[str]) -> list[str]:
        """Return those of *images* that are not on the engine's host, without pulling them.

        Raises:
            EngineUnavailable: unknown.
        """
        names = list(dict.fromkeys(images))
        ids = await asyncio.gather(*(self._engine.image_id(image) for image in names))
        return [image for image, found in zip(names, ids, strict=True) if found is None]

    def forget(self, image: str) -> None:
        """Check *image* again at the next start, because it was removed."""
        self._present.discard(image)

    def _pull_once(self, image: str) -> asyncio.Task[None]:
        """Return the one running pull of *image*; a cancelled caller does not stop it for the others."""
        if image not in self._pulls:
            task = asyncio.create_task(self._pull(image), name=f"pull {image}")
            self._pulls[image] = task
            task.add_done_callback(lambda done: self._pulled(image, done))
        return self._pulls[image]

    def _pulled(self, image: str, done: asyncio.Task[None]) -> None:
        del self._pulls[image]
        if not done.cancelled():
            # Retrieved here too, since all callers may have been cancelled.
            done.exception()

    async def _pull(self, image: str) -> None:
        if image not in self._announced:
            self._announced.add(image)
            log.info("pulling an image", image=image)
        try:
            async with asyncio.timeout(self._pull_timeout):
                with observe("containers", "pull image"):
                    await self._engine.pull(image, self._credentials(image), silence_seconds=60.0)
        except TimeoutError as error:
            raise ImageUnavailable(image, f"the pull took more than {self._pull_timeout:g} s") from error
        except ImageUnavailable as error:
            raise ImageUnavailable(image, self._explained(image, error.reason)) from error
        if await self._engine.image_id(image) is None:
            raise ImageUnavailable(image, "the pull succeeded, but the image is missing")
        self._announced.discard(image)
        log.info("image pulled", image=image)

    def _explained(self, image: str, reason: str) -> str:
        if not any(word in reason.lower() for word in _REFUSALS):
            return reason
        sent = "with the configured credentials" if self._credentials(image) is not None else "without credentials"
        look_at = "REGISTRY_SERVER, REGISTRY_USERNAME and REGISTRY_PASSWORD"
        return f"{reason}; the request to {server_of(image) or 'Docker Hub'} was sent {sent}: check {look_at}"

    def _credentials(self, image: str) -> dict[str, str] | None:
        """Return the credentials for an image's registry; they are never sent to another one."""
        registry = self._registry
        if registry is None or not registry.username or server_of(image) != (registry.server or ""):
            return None
        return {
            "username": registry.username,
            "password": registry.password,
            "serveraddress": registry.server or _DOCKER_HUB,
        }


def server_of(image: str) -> str:
    """Return the registry in an image's name; empty for Docker Hub."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""
