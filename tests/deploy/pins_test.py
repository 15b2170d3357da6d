"""Images of others: all that are named have an exact tag and are pinned where `tools/images/pins.json` pins them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.core.config.image_settings import ImageSettings
from tests.deploy.manifests import ROOT
from tools.images.pins import files, pinned, read, reference
from tools.images.third_party.ensure import STAND_INS

# The contract names these two: bots rely on the versions of their languages, and get their corrections.
CONTRACT = {"python:3.11-slim", "node:20-alpine"}
EXACT = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+(-[a-z0-9.]+)?")
# A value of `image:`, of `FROM`, and of what ends with IMAGE or is a build argument with a tag.
NAMED = re.compile(
    r"""\bimage:[ \t]*["']?(?P<image>[^\s"'{}]+)"""
    r"""|^FROM\s+(?P<base>[^\s$]+)"""
    r"""|^ARG\s+\w+=(?P<argument>[^\s/]*[a-z][^\s]*:[^\s]+)"""
    r"""|\b\w+_IMAGE(?:=|:\s*)(?:\$\{\w+:-)?(?P<setting>[^\s}$]+)""",
    re.MULTILINE,
)


def named_images(path: Path) -> Iterator[str]:
    """The images of others that a file names, outside of comments."""
    text = re.sub(r"(^|\s)#.*$", "", path.read_text(), flags=re.MULTILINE)
    stages = re.findall(r"^FROM\s+\S+\s+AS\s+(\S+)", text, re.MULTILINE)
    for found in NAMED.finditer(text):
        image = next(value for value in found.groups() if value is not None)
        # An empty image has no digest.
        if "the0/" not in image and image not in (*stages, "scratch"):
            yield image


NAMED_IMAGES = sorted({(str(path.relative_to(ROOT)), image) for path in files(ROOT) for image in named_images(path)})


def test_images_are_found_where_they_are_named() -> None:
    found = {path for path, _ in NAMED_IMAGES}

    assert found >= {
        "Dockerfile.base",
        "deploy/compose/compose.yaml",
        "deploy/kubernetes/base/service/worker.yaml",
        "deploy/kubernetes/base/bot-runner/settings.env",
        "deploy/kubernetes/components/node-socket/kustomization.yaml",
    }


@pytest.mark.parametrize(("path", "image"), NAMED_IMAGES)
def test_image_is_named_as_the_pins_have_it(path: str, image: str) -> None:
    pins = read(ROOT)

    assert image in {reference(one, pins) for one in pins}, f"{path}: add it to pins.json, or run pins apply"


def test_pins_have_the_images_that_are_named_and_no_others() -> None:
    assert read(ROOT).keys() == {image.partition("@")[0] for _, image in NAMED_IMAGES}


@pytest.mark.parametrize("image", read(ROOT))
def test_tag_is_exact(image: str) -> None:
    assert image in CONTRACT or EXACT.fullmatch(image), image


@pytest.mark.parametrize("image", ["mongo:latest", "mongo", "mongo:8", "mongo:8.0", "nats:2.11-alpine"])
def test_tag_that_moves_is_not_exact(image: str) -> None:
    assert not EXACT.fullmatch(image)


def test_every_file_that_names_an_image_is_as_pins_apply_writes_it() -> None:
    pins = read(ROOT)

    assert [path for path in files(ROOT) if pinned(path.read_text(), pins) != path.read_text()] == []


def test_defaults_and_stand_ins_are_images_of_the_pins() -> None:
    defaults = ImageSettings()

    assert {defaults.python, defaults.node, *(stand_in.tag for stand_in in STAND_INS)} <= read(ROOT).keys()
