"""From which registry an image comes, and how the engine's words are read."""

import pytest

from libs.docker_runner.images import server_of


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
