"""Pins: how images are written where they are named, and that `pins.json` changes as a whole."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tools.images.pins import PinsError, apply, fill, pinned, read
from tools.images.registry_api import RegistryError, image_name

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
COMPOSE = "services:\n  mongo:\n    # mongo:8.0.20 is the newest\n    image: mongo:8.0.20\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a Compose file and an image that is not pinned."""
    (tmp_path / "tools" / "images").mkdir(parents=True)
    (tmp_path / "deploy" / "compose").mkdir(parents=True)
    (tmp_path / "deploy" / "compose" / "compose.yaml").write_text(COMPOSE)
    keep(tmp_path, {"mongo:8.0.20": None})
    return tmp_path


def keep(checkout: Path, pins: Mapping[str, object]) -> None:
    (checkout / "tools" / "images" / "pins.json").write_text(json.dumps(pins))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image: mongo:8.0.20\n", f"image: mongo:8.0.20@{NEW}\n"),
        (f"image: mongo:8.0.20@{OLD}\n", f"image: mongo:8.0.20@{NEW}\n"),
        ("image: 'mongo:8.0.20' # mongo:8.0.20\n", f"image: 'mongo:8.0.20@{NEW}' # mongo:8.0.20\n"),
        ("X: ${X:-mongo:8.0.20}\n", f"X: ${{X:-mongo:8.0.20@{NEW}}}\n"),
        ("MONGO_IMAGE=mongo:8.0.20", f"MONGO_IMAGE=mongo:8.0.20@{NEW}"),
        ("ARG BASE=mongo:8.0.20\nFROM ${BASE} AS x\n", f"ARG BASE=mongo:8.0.20@{NEW}\nFROM ${{BASE}} AS x\n"),
        ("FROM mongo:8.0.20 AS x", f"FROM mongo:8.0.20@{NEW} AS x"),
        ("# image: mongo:8.0.20\n", "# image: mongo:8.0.20\n"),
        ("image: mongo:8.0.200\n", "image: mongo:8.0.200\n"),
        ("image: mongo:8.0.20-noble\n", "image: mongo:8.0.20-noble\n"),
        ("image: my-mongo:8.0.20\n", "image: my-mongo:8.0.20\n"),
        ("image: mirror/mongo:8.0.20\n", "image: mirror/mongo:8.0.20\n"),
    ],
)
def test_image_is_written_with_its_digest_wherever_it_is_named(text: str, expected: str) -> None:
    pins = {"mongo:8.0.20": NEW}

    assert pinned(text, pins) == expected
    assert pinned(expected, pins) == expected


def test_image_without_a_digest_is_written_by_its_tag() -> None:
    assert pinned(f"image: mongo:8.0.20@{OLD}\n", {"mongo:8.0.20": None}) == "image: mongo:8.0.20\n"


def test_apply_changes_the_files_that_name_another_digest(checkout: Path) -> None:
    keep(checkout, {"mongo:8.0.20": NEW})
    file = checkout / "deploy" / "compose" / "compose.yaml"

    assert apply(checkout) == [file]
    assert file.read_text() == COMPOSE.replace("image: mongo:8.0.20", f"image: mongo:8.0.20@{NEW}")
    assert apply(checkout) == []


@pytest.mark.parametrize("pins", [[], {"mongo:8.0.20": "sha256:short"}, {"mongo:8.0.20": 3}])
def test_malformed_pins_are_refused_and_change_nothing(checkout: Path, pins: Mapping[str, object]) -> None:
    keep(checkout, pins)

    with pytest.raises(PinsError):
        apply(checkout)
    assert (checkout / "deploy" / "compose" / "compose.yaml").read_text() == COMPOSE


async def test_image_that_is_not_in_the_pins_is_refused(checkout: Path) -> None:
    with pytest.raises(PinsError, match="mongo:9"):
        await fill(checkout, "http://127.0.0.1:1", ["mongo:9"])


async def test_registry_that_does_not_answer_leaves_the_pins_as_they_are(checkout: Path) -> None:
    with pytest.raises(RegistryError, match=r"mongo:8\.0\.20"):
        await fill(checkout, "http://127.0.0.1:1")
    assert read(checkout) == {"mongo:8.0.20": None}


@pytest.mark.parametrize(
    ("image", "registry", "path", "tag"),
    [
        ("mongo:8.0.20", "https://hub", "library/mongo", "8.0.20"),
        ("prom/prometheus:v3.5.0", "https://hub", "prom/prometheus", "v3.5.0"),
        ("ghcr.io/a/b/c:1", "https://ghcr.io", "a/b/c", "1"),
        ("localhost:5000/c:1", "https://localhost:5000", "c", "1"),
    ],
)
def test_registry_and_path_of_an_image_follow_from_its_name(image: str, registry: str, path: str, tag: str) -> None:
    found = image_name(image, "https://hub")

    assert (found.registry, found.path, found.tag) == (registry, path, tag)


@pytest.mark.parametrize("image", ["mongo", "localhost:5000/c", ":1"])
def test_image_without_a_tag_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="no tag"):
        image_name(image)
