"""The bill of materials of an image: what counts as a package, and that it is the same for the same content."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.images import sbom

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u10
Description: GNU C Library
 Version: 9 is a line of the description

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1.0
"""
RELEASE = 'ID=debian\nVERSION_CODENAME="bookworm"\n'
APK = "P:musl\nV:1.2.5-r9\nA:x86_64\no:musl\n\nP:busybox\nV:1.37.0-r12\nA:x86_64\n"

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of the image whose root is `tmp_path / "root"`."""

    def write(path: str, text: str) -> None:
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    (tmp_path / "root").mkdir()
    return write


def listed(folder: Path, *arguments: str) -> dict[str, Any]:
    """The bill of materials as the program prints it."""
    command = [sys.executable, "-I", sbom.__file__, "--name", "the0/x", *arguments, str(folder / "root")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(answer.stdout))


def purls(bill: dict[str, Any]) -> list[str]:
    return [component["purl"] for component in bill["components"]]


def test_modules_of_a_go_program_are_listed_with_its_path(tmp_path: Path, write: Write) -> None:
    lines = [
        "/layer/runsc: go1.26.6",
        "\tpath\tgvisor.dev/gvisor/runsc",
        "\tmod\tgvisor.dev/gvisor\tv0.0.0-20260905035102-160fafc42237\th1:AU5+CtCvnBnx=",
        "\tdep\tgithub.com/cenkalti/backoff\tv2.2.1+incompatible\th1:tNowT99t7UNf=",
        "\tbuild\tCGO_ENABLED=0",
    ]
    (tmp_path / "modules").write_text("\n".join(lines))

    bill = listed(tmp_path, "--go", f"{tmp_path}/modules=/usr/local/bin/runsc")

    assert purls(bill) == [
        "pkg:golang/github.com/cenkalti/backoff@v2.2.1%2Bincompatible",
        "pkg:golang/gvisor.dev/gvisor@v0.0.0-20260905035102-160fafc42237",
        "pkg:golang/std@1.26.6",
    ]
    assert bill["components"][0]["evidence"] == {"occurrences": [{"location": "/usr/local/bin/runsc"}]}


def test_installed_debian_packages_are_listed_and_removed_ones_are_not(tmp_path: Path, write: Write) -> None:
    write("var/lib/dpkg/status", STATUS)
    write("etc/os-release", RELEASE)

    (component,) = listed(tmp_path)["components"]

    assert component["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=bookworm"
    assert (component["name"], component["version"]) == ("libc6", "2.36-9+deb12u10")
    assert component["properties"] == [{"name": "the0:source-package", "value": "glibc"}]


def test_packages_of_alpine_are_listed(tmp_path: Path, write: Write) -> None:
    write("lib/apk/db/installed", APK)
    write("etc/os-release", "ID=alpine\nVERSION_ID=3.22.1\n")

    assert purls(listed(tmp_path)) == [
        "pkg:apk/alpine/busybox@1.37.0-r12?arch=x86_64&distro=3.22.1",
        "pkg:apk/alpine/musl@1.2.5-r9?arch=x86_64&distro=3.22.1",
    ]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("app/lib/site-packages/Some_Pkg-1.2.dist-info/METADATA", "Name: Some.Pkg\nVersion: 1.2\n\nVersion: 3\n"),
        ("usr/lib/python3/dist-packages/some_pkg-1.2.egg-info/PKG-INFO", "Name: some-pkg\nVersion: 1.2\n"),
        ("usr/lib/python3/dist-packages/some_pkg-1.2.egg-info", "Name: some-pkg\nVersion: 1.2\n"),
        ("usr/lib/ensurepip/_bundled/some_pkg-1.2-py3-none-any.whl", ""),
        ("x/_vendor/some_pkg-1.2.dist-info/METADATA", "Name: some_pkg\nVersion: 1.2\n"),
    ],
)
def test_wheel_is_listed_in_each_form_in_which_it_may_be_there(
    tmp_path: Path, write: Write, path: str, content: str
) -> None:
    write(path, content)

    assert purls(listed(tmp_path)) == ["pkg:pypi/some-pkg@1.2"]


def test_wheel_at_two_places_is_one_component_with_both(tmp_path: Path, write: Write) -> None:
    for folder in ("a", "b"):
        write(f"{folder}/pip-24.0.dist-info/METADATA", "Name: pip\nVersion: 24.0\n")

    (component,) = listed(tmp_path)["components"]

    places = [place["location"] for place in component["evidence"]["occurrences"]]
    assert places == ["/a/pip-24.0.dist-info", "/b/pip-24.0.dist-info"]


def test_two_versions_of_a_wheel_are_two_components(tmp_path: Path, write: Write) -> None:
    for version in ("24.0", "25.1"):
        write(f"{version}/pip-{version}.dist-info/METADATA", f"Name: pip\nVersion: {version}\n")

    assert purls(listed(tmp_path)) == ["pkg:pypi/pip@24.0", "pkg:pypi/pip@25.1"]


def test_paths_that_the_image_has_not_are_left_out(tmp_path: Path, write: Write) -> None:
    for folder in ("build", "proc", "app"):
        write(f"{folder}/{folder}-1.dist-info/METADATA", f"Name: {folder}\nVersion: 1\n")

    assert purls(listed(tmp_path, "--outside", str(tmp_path / "root" / "build"))) == ["pkg:pypi/app@1"]


def test_bill_includes_that_of_a_part(tmp_path: Path, write: Write) -> None:
    write("a/pip-24.0.dist-info/METADATA", "Name: pip\nVersion: 24.0\nLicense-Expression: MIT\n")
    part = tmp_path / "part.json"
    part.write_text(json.dumps(listed(tmp_path)))
    (tmp_path / "root" / "a").rename(tmp_path / "root" / "c")
    write("b/wheel-1.dist-info/METADATA", "Name: wheel\nVersion: 1\n")

    bill = listed(tmp_path, "--include", str(part))

    assert purls(bill) == ["pkg:pypi/pip@24.0", "pkg:pypi/wheel@1"]
    assert bill["components"][0]["licenses"] == [{"expression": "MIT"}]
    places = [place["location"] for place in bill["components"][0]["evidence"]["occurrences"]]
    assert places == ["/a/pip-24.0.dist-info", "/c/pip-24.0.dist-info"]


def test_same_content_has_the_same_bill_and_other_content_another_number(tmp_path: Path, write: Write) -> None:
    write("a/pip-24.0.dist-info/METADATA", "Name: pip\nVersion: 24.0\n")
    first, second = listed(tmp_path), listed(tmp_path)
    write("a/wheel-1.dist-info/METADATA", "Name: wheel\nVersion: 1\n")

    assert first == second
    assert listed(tmp_path)["serialNumber"] != first["serialNumber"]
    assert first["bomFormat"] == "CycloneDX"
