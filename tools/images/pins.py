"""Pin the images of others: read their digests from registries, and write them where images are named.

    python -m tools.images.pins fill [--registry URL] [IMAGE...]    # reads digests, then does what `apply` does
    python -m tools.images.pins apply                               # writes the digests of pins.json into the files

`pins.json` has each image by its exact tag, with its digest or, until it was read, null. A digest is read from the
registry, or not written at all.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.images.registry_api import DOCKER_HUB, RegistryError, RegistryReader

Pins = Mapping[str, str | None]

ROOT = Path(__file__).parents[2]
_PINS = "tools/images/pins.json"
# Where images are named: the images' recipes, and what is deployed.
_FILES = (
    "Dockerfile.base",
    "deploy/compose/*.yaml",
    "deploy/kubernetes/**/*.yaml",
    "deploy/kubernetes/**/settings.env",
    "deploy/helm/*/values.yaml",
)
_RECIPES = ("deploy/**/Dockerfile*",)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class PinsError(RuntimeError):
    """The pins cannot be filled or are malformed; nothing was changed."""


def main() -> None:
    """Run the command of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fill_parser = commands.add_parser("fill", help="read digests from registries")
    fill_parser.add_argument("--registry", default=DOCKER_HUB, help="where the images of Docker Hub are read")
    fill_parser.add_argument("images", nargs="*", metavar="IMAGE", help="as in pins.json; all of them by default")
    commands.add_parser("apply", help="write the digests of pins.json into the files")
    given = parser.parse_args()
    try:
        if given.command == "fill":
            asyncio.run(fill(ROOT, given.registry, given.images))
        changed = apply(ROOT)
    except (PinsError, RegistryError) as error:
        sys.exit(str(error))
    names = [str(path.relative_to(ROOT)) for path in changed]
    sys.stdout.write("\n".join(names or ["no file names another digest"]) + "\n")


async def fill(root: Path, registry: str = DOCKER_HUB, images: Sequence[str] = ()) -> Pins:
    """Read the digests of *images*, by default of all, and write them into `pins.json`: all of them or none.

    Raises:
        PinsError: an image is not in `pins.json`, or `pins.json` is malformed.
        RegistryError: a digest cannot be read.
    """
    pins = read(root)
    if unknown := set(images) - pins.keys():
        raise PinsError(f"{_PINS} has no {', '.join(sorted(unknown))}: add it with its exact tag and null")
    wanted = list(images or pins)
    async with RegistryReader(registry) as reader:
        read_now = await asyncio.gather(*map(reader.digest_of, wanted), return_exceptions=True)
    for result in read_now:
        if isinstance(result, BaseException):
            raise result
    filled = {**pins, **dict(zip(wanted, map(str, read_now), strict=True))}
    _replace(root / _PINS, json.dumps(filled, indent=2, sort_keys=True) + "\n")
    return filled


def apply(root: Path) -> list[Path]:
    """Write each image in the files as `pins.json` has it; return the files that changed. May be repeated.

    Raises:
        PinsError: `pins.json` is malformed.
    """
    pins = read(root)
    changed = []
    for path in files(root):
        text = path.read_text()
        if (written := pinned(text, pins)) != text:
            _replace(path, written)
            changed.append(path)
    return changed


def read(root: Path) -> Pins:
    """Return the pins of the checkout *root*.

    Raises:
        PinsError: `pins.json` is malformed.
    """
    try:
        found = json.loads((root / _PINS).read_text())
    except ValueError as error:
        raise PinsError(f"{_PINS} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise PinsError(f"{_PINS} must be an object with images")
    for image, digest in found.items():
        if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise PinsError(f"{_PINS}: {digest!r} of {image} is neither null nor sha256:…")
    return found


def files(root: Path) -> list[Path]:
    """The files of the checkout *root* that name images."""
    return sorted({path for pattern in (*_FILES, *_RECIPES) for path in root.glob(pattern) if path.is_file()})


def reference(image: str, pins: Pins) -> str:
    """Return *image* as files name it: with its digest if it is known."""
    digest = pins[image]
    return image if digest is None else f"{image}@{digest}"


def pinned(text: str, pins: Pins) -> str:
    """Return *text* with each image of *pins* as :func:`reference` has it; comments stay as they are."""
    lines = []
    for line in text.splitlines(keepends=True):
        code, comment = _split(line)
        for image in pins:
            # Not the end of another name; but what Compose takes when a variable is unset, ${NAME:-image}.
            named = rf"(?:(?<=:-)|(?<![\w./-])){re.escape(image)}(@{_DIGEST.pattern})?(?![\w.-])"
            code = re.sub(named, reference(image, pins), code)
        lines.append(code + comment)
    return "".join(lines)


def _split(line: str) -> tuple[str, str]:
    """Code and comment of a line; in all these files a comment begins with # after a space or at the beginning."""
    found = re.search(r"(^|\s)#", line)
    return (line, "") if found is None else (line[: found.start()], line[found.start() :])


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.chmod(path.stat().st_mode)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
