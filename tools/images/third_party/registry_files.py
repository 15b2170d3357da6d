"""An image as a registry keeps it: its manifest and blobs by digest, made of what an engine exports."""

import gzip
import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any

from tools.images.third_party.registry.serve import MANIFEST

_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def add_image(images: Path, exported: Path, tag: str) -> None:
    """Add the image of the archive *exported* (`docker save`) to the folder *images*, as *tag*."""
    (images / "blobs").mkdir(parents=True, exist_ok=True)
    (images / "tags").mkdir(exist_ok=True)
    with tarfile.open(exported) as archive:
        (described,) = json.loads(_member(archive, "manifest.json").read())
        config = _add(images, _member(archive, described["Config"]).read())
        layers = [_add_layer(images, _member(archive, name)) for name in described["Layers"]]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": _CONFIG, **config},
        "layers": [{"mediaType": _LAYER, **layer} for layer in layers],
    }
    added = _add(images, json.dumps(manifest).encode())
    (images / "tags" / tag).write_text(added["digest"].removeprefix("sha256:"))


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    # A layer that two images share is a link to the other.
    member = archive.extractfile(name)
    assert member is not None, f"the archive of the image contains no file {name}"
    return member


def _add(images: Path, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (images / "blobs" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _add_layer(images: Path, layer: IO[bytes]) -> dict[str, Any]:
    unnamed = images / "blobs" / "unnamed"
    with unnamed.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
        shutil.copyfileobj(layer, packed, 1 << 20)
    with unnamed.open("rb") as packed_layer:
        digest = hashlib.file_digest(packed_layer, "sha256").hexdigest()
    size = unnamed.stat().st_size
    unnamed.rename(images / "blobs" / digest)
    return {"digest": f"sha256:{digest}", "size": size}
