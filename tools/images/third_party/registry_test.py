"""The registry inside the cluster: an exported image can be pulled from it by tag and by digest."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tools.images.third_party.registry.serve import MANIFEST, found
from tools.images.third_party.registry_files import add_image

LAYERS = {"one/layer.tar": b"layer one", "two/layer.tar": b"layer two" * 1000}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """What the registry serves: one image, as an engine exports it."""
    exported = tmp_path / "exported.tar"
    manifest = [{"Config": "config.json", "RepoTags": ["python:3.11-slim"], "Layers": list(LAYERS)}]
    members = {"manifest.json": json.dumps(manifest).encode(), "config.json": b'{"os": "linux"}', **LAYERS}
    with tarfile.open(exported, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    add_image(tmp_path / "images", exported, "python:3.11-slim")
    return tmp_path / "images"


def test_image_is_found_by_its_tag_and_by_its_digest(images: Path) -> None:
    by_tag = found(images, "/v2/library/python/manifests/3.11-slim")

    assert by_tag is not None
    file, kind, digest = by_tag
    assert kind == MANIFEST
    assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert found(images, f"/v2/library/python/manifests/{digest}") == by_tag


def test_manifest_names_blobs_of_its_sizes_with_the_content_of_the_layers(images: Path) -> None:
    answer = found(images, "/v2/library/python/manifests/3.11-slim")
    assert answer is not None
    manifest = json.loads(answer[0].read_text())

    blobs = [found(images, f"/v2/library/python/blobs/{part['digest']}") for part in manifest["layers"]]
    contents = [blob[0].read_bytes() for blob in blobs if blob is not None]

    assert [len(content) for content in contents] == [part["size"] for part in manifest["layers"]]
    assert [gzip.decompress(content) for content in contents] == list(LAYERS.values())


@pytest.mark.parametrize(
    "path",
    [
        "/v2/library/python/manifests/3.12",
        "/v2/library/node/manifests/3.11-slim",
        "/v2/library/python/manifests/..",
        "/v2/library/python/blobs/sha256:../tags",
        f"/v2/library/python/blobs/sha256:{'0' * 64}",
        "/",
    ],
)
def test_unknown_image_is_not_found(images: Path, path: str) -> None:
    assert found(images, path) is None
