"""Print the software bill of materials of an image: every wheel and every Debian or Alpine package, as CycloneDX JSON.

    python3 sbom.py --name the0/bot-runner [--include BOM]... [--outside PATH]... [--go LISTING=PROGRAM]... ROOT...

It runs in the build of an image and needs no package. Each ROOT is a folder whose content lies at `/` in the image. The
same content gives the same bytes: there is no time and no random number in it.
"""

import argparse
import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_string
from pathlib import Path
from urllib.parse import quote

# Not content of an image.
_KERNEL = ("proc", "sys", "dev")
_DPKG_STATUS = Path("var/lib/dpkg/status")
_APK_INSTALLED = Path("lib/apk/db/installed")
_WHEEL_FILE = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-[^-]+){3,4}\.whl")


@dataclass(frozen=True)
class Component:
    """A package of an image.

    Attributes:
        location: what states that it is there, as a path in the image.
        source: the source package that a distribution's package was built from, where its name differs.
        license: an SPDX expression, where the package states one.
    """

    purl: str
    name: str
    version: str
    location: str = field(compare=False)
    source: str = field(default="", compare=False)
    license: str = field(default="", compare=False)


def main() -> None:
    """Print the bill of materials of the image that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="of the image")
    parser.add_argument("--include", type=Path, action="append", default=[], help="a bill that is a part of this one")
    parser.add_argument("--outside", type=Path, action="append", default=[], help="a path that the image has not")
    parser.add_argument(
        "--go", action="append", default=[], help="what `go version -m` says of a program, and its path"
    )
    parser.add_argument("roots", type=Path, nargs="+")
    given = parser.parse_args()
    included = [json.loads(path.read_text()) for path in given.include]
    found = [component for root in given.roots for component in scan(root, given.outside)]
    for listing, _, program in (text.partition("=") for text in given.go):
        found += go_modules(Path(listing).read_text(), program)
    json.dump(document(given.name, found, included), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


def document(name: str, found: Iterable[Component], included: Iterable[Mapping[str, object]] = ()) -> dict[str, object]:
    """The bill of materials, in CycloneDX 1.6, of the image *name*; a package that is there twice is one component."""
    components: dict[str, dict[str, object]] = {}
    for bill in included:
        for entry in bill["components"]:  # type: ignore[attr-defined]
            components[str(entry["bom-ref"])] = entry
    places: dict[str, set[str]] = {
        reference: {str(place["location"]) for place in entry["evidence"]["occurrences"]}  # type: ignore[index]
        for reference, entry in components.items()
    }
    for one in found:
        components.setdefault(one.purl, _described(one))
        places.setdefault(one.purl, set()).add(one.location)
    for reference, entry in components.items():
        entry["evidence"] = {"occurrences": [{"location": place} for place in sorted(places[reference])]}
    ordered = [components[reference] for reference in sorted(components)]
    content = json.dumps([name, ordered], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "bom-ref": name}},
        "components": ordered,
    }


def scan(root: Path, outside: Iterable[Path] = ()) -> Iterator[Component]:
    """Yield all packages below *root*, without what is below the paths *outside*."""
    distribution = _distribution(root)
    if (status := root / _DPKG_STATUS).is_file():
        yield from _debian(status.read_text(errors="replace"), distribution)
    if (installed := root / _APK_INSTALLED).is_file():
        yield from _alpine(installed.read_text(errors="replace"), distribution)
    yield from _wheels(root, {path.resolve() for path in outside} | {root.resolve() / name for name in _KERNEL})
    if root == Path("/") and sys.base_prefix == "/usr/local":
        # Compiled for the base image: no distribution's package.
        version = ".".join(str(number) for number in sys.version_info[:3])
        yield Component(f"pkg:generic/python@{version}", "python", version, "/usr/local/bin/python3")


def go_modules(listing: str, program: str) -> Iterator[Component]:
    """Yield the modules that a Go program consists of, by what `go version -m` says of it, and Go's own library."""
    first, *lines = listing.splitlines()
    version = first.rpartition(" go")[2]
    yield Component(f"pkg:golang/std@{quote(version, safe='')}", "std", version, program)
    for fields in (line.split() for line in lines):
        if fields[0] in ("mod", "dep"):
            name, version = fields[1:3]
            yield Component(f"pkg:golang/{name}@{quote(version, safe='')}", name, version, program)


def _described(one: Component) -> dict[str, object]:
    described: dict[str, object] = {
        "type": "library",
        "bom-ref": one.purl,
        "purl": one.purl,
        "name": one.name,
        "version": one.version,
    }
    if one.source:
        described["properties"] = [{"name": "the0:source-package", "value": one.source}]
    if one.license:
        described["licenses"] = [{"expression": one.license}]
    return described


def _distribution(root: Path) -> dict[str, str]:
    for path in (root / "etc/os-release", root / "usr/lib/os-release"):
        if path.is_file():
            lines = [line.partition("=") for line in path.read_text().splitlines()]
            return {key: value.strip().strip("\"'") for key, _, value in lines}
    return {}


def _debian(status: str, distribution: Mapping[str, str]) -> Iterator[Component]:
    for stanza in re.split(r"\n\s*\n", status):
        fields = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", stanza, re.MULTILINE))
        # Files of a package that is removed, but not purged, are configuration only.
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version = fields["Package"], fields["Version"]
        qualifiers = f"arch={fields['Architecture']}"
        if codename := distribution.get("VERSION_CODENAME"):
            qualifiers += f"&distro={codename}"
        vendor = distribution.get("ID", "debian")
        purl = f"pkg:deb/{vendor}/{quote(name)}@{quote(version, safe='')}?{qualifiers}"
        yield Component(purl, name, version, f"/{_DPKG_STATUS}", source=fields.get("Source", ""))


def _alpine(installed: str, distribution: Mapping[str, str]) -> Iterator[Component]:
    for stanza in re.split(r"\n\s*\n", installed):
        fields = dict(re.findall(r"^([A-Z]):(.*)$", stanza, re.MULTILINE))
        if {"P", "V"} <= fields.keys():
            name, version = fields["P"], fields["V"]
            qualifiers = f"arch={fields.get('A', '')}&distro={distribution.get('VERSION_ID', '')}"
            purl = f"pkg:apk/alpine/{quote(name)}@{quote(version, safe='')}?{qualifiers}"
            yield Component(purl, name, version, f"/{_APK_INSTALLED}", source=fields.get("o", ""))


def _wheels(root: Path, outside: set[Path]) -> Iterator[Component]:
    for directory, folders, files in os.walk(root):
        here = Path(directory)
        folders[:] = sorted(name for name in folders if (here / name).resolve() not in outside)
        for name in sorted(folders):
            if name.endswith(".dist-info") and (here / name / "METADATA").is_file():
                yield _installed(root, here / name / "METADATA")
            elif name.endswith(".egg-info") and (here / name / "PKG-INFO").is_file():
                yield _installed(root, here / name / "PKG-INFO")
        for name in sorted(files):
            if (wheel := _WHEEL_FILE.fullmatch(name)) is not None:
                yield _python(wheel["name"], wheel["version"], _in_image(root, here / name))
            elif name.endswith(".egg-info"):
                yield _installed(root, here / name)


def _installed(root: Path, metadata: Path) -> Component:
    fields = message_from_string(metadata.read_text(errors="replace"))
    place = metadata if metadata.name.endswith(".egg-info") else metadata.parent
    return _python(str(fields["Name"]), str(fields["Version"]), _in_image(root, place), fields["License-Expression"])


def _python(name: str, version: str, location: str, expression: str | None = None) -> Component:
    # PyPI's names are compared in this form.
    normalized = re.sub(r"[-_.]+", "-", name).lower()
    return Component(
        f"pkg:pypi/{normalized}@{quote(version, safe='')}", normalized, version, location, license=expression or ""
    )


def _in_image(root: Path, path: Path) -> str:
    return f"/{path.relative_to(root)}"


if __name__ == "__main__":
    main()
