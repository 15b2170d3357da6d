"""Reads digests of images from registries, by the distribution API (version 2)."""

import hashlib
import re
from dataclasses import dataclass

import aiohttp

DOCKER_HUB = "https://registry-1.docker.io"

# An index has the manifests of all platforms, and one digest.
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MOST_BYTES = 4 * 1024 * 1024
_SECONDS = 60.0
_CHALLENGE = re.compile(r'(?P<name>[a-z]+)="(?P<value>[^"]*)"', re.IGNORECASE)


class RegistryError(RuntimeError):
    """The digest of an image cannot be read from its registry."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"the digest of {image} cannot be read: {reason}")


@dataclass(frozen=True)
class ImageName:
    """The parts of an image's name: its registry's address, its path there, and its tag."""

    registry: str
    path: str
    tag: str


def image_name(image: str, docker_hub: str = DOCKER_HUB) -> ImageName:
    """Return the parts of *image*; images of Docker Hub are at the address *docker_hub*.

    Raises:
        ValueError: it has no tag.
    """
    name, _, tag = image.rpartition(":")
    if not name or "/" in tag:
        raise ValueError(f"{image!r} has no tag")
    server, slash, path = name.partition("/")
    if slash and ("." in server or ":" in server or server == "localhost"):
        return ImageName(f"https://{server}", path, tag)
    return ImageName(docker_hub, name if slash else f"library/{name}", tag)


class RegistryReader:
    """Reads the digests of images, anonymously. An asynchronous context manager.

    Args:
        docker_hub: the address for images of Docker Hub, such as that of a mirror.
    """

    def __init__(self, docker_hub: str = DOCKER_HUB) -> None:
        self._docker_hub = docker_hub.rstrip("/")

    async def __aenter__(self) -> "RegistryReader":
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def digest_of(self, image: str) -> str:
        """Return the digest of *image*, computed from the manifest that the registry returns.

        Raises:
            RegistryError: the registry does not return it, or returns another digest than that of its content.
        """
        try:
            name = image_name(image, self._docker_hub)
            return await self._read(image, name)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise RegistryError(image, str(error) or "the registry did not answer in time") from error

    async def _read(self, image: str, name: ImageName) -> str:
        address = f"{name.registry}/v2/{name.path}/manifests/{name.tag}"
        headers = {"Accept": ", ".join(_MANIFESTS)}
        async with self._session.get(address, headers=headers) as answer:
            if answer.status != 401:
                return await self._verified(image, answer)
            challenge = answer.headers.get("WWW-Authenticate", "")
        headers["Authorization"] = f"Bearer {await self._token(image, name, challenge)}"
        async with self._session.get(address, headers=headers) as answer:
            return await self._verified(image, answer)

    async def _token(self, image: str, name: ImageName, challenge: str) -> str:
        """Return the token that the registry demands of everybody."""
        scheme, _, rest = challenge.partition(" ")
        fields = {found["name"].lower(): found["value"] for found in _CHALLENGE.finditer(rest)}
        if scheme.lower() != "bearer" or "realm" not in fields:
            raise RegistryError(image, f"{name.registry} requires a password")
        realm = fields.pop("realm")
        query = {"scope": f"repository:{name.path}:pull", **fields}
        async with self._session.get(realm, params=query) as answer:
            if answer.status != 200:
                raise RegistryError(image, f"{realm} answers with status {answer.status}")
            found = await answer.json()
        token = found.get("token") or found.get("access_token") if isinstance(found, dict) else None
        if not isinstance(token, str):
            raise RegistryError(image, f"{realm} returns no token")
        return token

    @staticmethod
    async def _verified(image: str, answer: aiohttp.ClientResponse) -> str:
        if answer.status != 200:
            reason = "the registry has no such image" if answer.status == 404 else f"status {answer.status}"
            raise RegistryError(image, f"{reason} ({answer.url})")
        # An older form, such as schema 1, is signed, and its digest is not that of its bytes.
        if answer.content_type not in _MANIFESTS:
            raise RegistryError(image, f"{answer.url} returns {answer.content_type}, which is no manifest")
        content = await answer.content.read(_MOST_BYTES + 1)
        while len(content) <= _MOST_BYTES and (more := await answer.content.read(_MOST_BYTES)):
            content += more
        if len(content) > _MOST_BYTES:
            raise RegistryError(image, f"its manifest has more than {_MOST_BYTES} bytes")
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        stated = answer.headers.get("Docker-Content-Digest", digest)
        if stated != digest:
            raise RegistryError(image, f"the registry states {stated}, and returns the content of {digest}")
        return digest
