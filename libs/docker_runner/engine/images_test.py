"""Images: pulled once, with credentials only for their own registry, and not at all when present."""

import asyncio
from collections.abc import Mapping

import pytest

from libs.docker_runner.engine.images import Images, server_of
from libs.docker_runner.errors import ImageUnavailable
from libs.docker_runner.settings import Registry

REGISTRY = Registry("ghcr.io", "user", "s3cret")


class Store:
    """An engine's images; its registry has those in *offered*."""

    def __init__(self, present: set[str], offered: set[str]) -> None:
        self.present = present
        self.offered = offered
        self.looks: list[str] = []
        self.pulls: list[tuple[str, Mapping[str, str] | None]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.pulling = asyncio.Event()

    async def image_id(self, image: str) -> str | None:
        self.looks.append(image)
        return "sha256:0" if image in self.present else None

    async def pull(self, image: str, credentials: Mapping[str, str] | None, silence_seconds: float) -> None:
        self.pulls.append((image, credentials))
        self.pulling.set()
        await self.may_end.wait()
        if image not in self.offered:
            raise ImageUnavailable(image, "no registry")
        self.present.add(image)


def images(store: Store, registry: Registry | None = None, pull_timeout_seconds: float = 5.0) -> Images:
    return Images(store, registry, pull_timeout_seconds)


async def test_an_image_that_is_there_is_looked_for_once_and_never_pulled() -> None:
    store = Store({"a"}, {"a"})
    subject = images(store)
    for _ in range(3):
        await subject.ensure("a")
    assert (store.looks, store.pulls) == (["a"], [])


async def test_concurrent_pulls_of_an_image_are_one_pull() -> None:
    store = Store(set(), {"a"})
    subject = images(store)
    await asyncio.gather(*(subject.ensure("a") for _ in range(5)))
    assert len(store.pulls) == 1


async def test_a_caller_that_gives_up_does_not_stop_the_pull_for_others() -> None:
    store = Store(set(), {"a"})
    store.may_end.clear()
    subject = images(store)
    first, second = (asyncio.create_task(subject.ensure("a")) for _ in range(2))
    await store.pulling.wait()
    first.cancel()
    store.may_end.set()
    await second
    assert first.cancelled()
    assert len(store.pulls) == 1


async def test_missing_image_is_reported_and_others_are_pulled() -> None:
    store = Store({"a"}, {"b"})
    assert list(await images(store).ensure_all(["a", "b", "c", "a"])) == ["c"]
    assert store.present == {"a", "b"}


async def test_a_pull_that_takes_too_long_is_given_up() -> None:
    store = Store(set(), {"a"})
    store.may_end.clear()
    with pytest.raises(ImageUnavailable, match=r"0\.01 s"):
        await images(store, pull_timeout_seconds=0.01).ensure("a")


async def test_an_image_that_was_removed_is_fetched_again() -> None:
    store = Store({"a"}, {"a"})
    subject = images(store)
    await subject.ensure("a")
    store.present.clear()
    subject.forget("a")
    await subject.ensure("a")
    assert len(store.pulls) == 1


async def test_credentials_go_to_their_own_registry_only() -> None:
    store = Store(set(), {"ghcr.io/x/y:1", "python:3.11-slim", "evil.example/x"})
    await images(store, REGISTRY).ensure_all(sorted(store.offered))
    sent = {image: credentials["password"] if credentials else None for image, credentials in store.pulls}
    assert sent == {"ghcr.io/x/y:1": "s3cret", "python:3.11-slim": None, "evil.example/x": None}


@pytest.mark.parametrize(
    ("image", "server"),
    [
        ("python:3.11-slim", ""),
        ("library/python", ""),
        ("ghcr.io/a/b:1", "ghcr.io"),
        ("localhost/a", "localhost"),
        ("registry:5000/a@sha256:0", "registry:5000"),
    ],
)
def test_the_registry_is_in_the_name(image: str, server: str) -> None:
    assert server_of(image) == server
