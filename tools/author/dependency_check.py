"""Find packages in `vendor/` and `node_modules/` that do not fit the image in which the bot runs.

Python bots run on Python 3.11 on Debian (glibc), Node bots on Alpine (musl). Both may be x86-64 or ARM: what another
machine than this one has is not known here, so that the processor is not compared.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.author.findings import Finding

_MINOR = 11
_REMEDY = (
    "replace it: pip install --target {vendor} --upgrade --python-version 3.11 --only-binary=:all: "
    "--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 {package}"
)
_PLATFORM = re.compile(r"any|linux_.*|manylinux.*")
_PYTHON = re.compile(r"(py|cp)3(\d*)")
# As CPython names compiled modules: name.cpython-312-x86_64-linux-gnu.so, name.cp312-win_amd64.pyd.
_COMPILED = re.compile(r"\.(?:cpython-|cp)3(\d+)")
_MOST_FINDINGS = 10
_ELF = b"\x7fELF"
_MOST_BINARY_BYTES = 64 * 1024 * 1024


def dependency_findings(folder: Path, runtime: str) -> list[Finding]:
    """Return the packages in *folder* that were made for another interpreter or system. Reads names and headers."""
    found = _vendored(folder / "vendor") if runtime.startswith("python") else _modules(folder / "node_modules")
    first = [finding for finding, _ in zip(found, range(_MOST_FINDINGS + 1), strict=False)]
    if len(first) > _MOST_FINDINGS:
        first[-1] = Finding(
            str(folder), "has more such packages", "replace all of them, beginning with an empty folder"
        )
    return first


# --- Python


def fits(tag: str) -> bool:
    """Whether a wheel of *tag*, such as ``cp311-cp311-manylinux_2_17_x86_64``, fits Python 3.11 on Debian."""
    pythons, abis, platforms = ([*part.split(".")] for part in (*tag.split("-"), "", "")[:3])
    return (
        any(_PLATFORM.fullmatch(platform) for platform in platforms)
        and any(abi in ("none", "abi3", f"cp3{_MINOR}") for abi in abis)
        and any(_is_python(python, abis) for python in pythons)
    )


def _is_python(python: str, abis: list[str]) -> bool:
    matched = _PYTHON.fullmatch(python)
    if matched is None:
        return False
    implementation, minor = matched.groups()
    if not minor:
        return True
    if implementation == "py" or "abi3" in abis:
        return int(minor) <= _MINOR
    return int(minor) == _MINOR


def _vendored(vendor: Path) -> Iterator[Finding]:
    if not vendor.is_dir():
        return
    blamed: set[str] = set()
    for info in sorted(vendor.glob("*.dist-info")):
        tags = _tags(info / "WHEEL")
        if tags and not any(fits(tag) for tag in tags):
            package = info.name.partition("-")[0]
            blamed |= {package, *_top_level(info)}
            yield Finding(
                str(info),
                f"is a wheel for {', '.join(tags)}, which does not fit Python 3.{_MINOR} on Debian",
                _REMEDY.format(vendor=vendor, package=_requirement(info)),
            )
    for file in _compiled_elsewhere(vendor):
        top = file.relative_to(vendor).parts[0].partition(".")[0]
        if top not in blamed:
            blamed.add(top)
            yield Finding(
                str(file),
                f"was compiled for another Python or system than Python 3.{_MINOR} on Debian",
                _REMEDY.format(vendor=vendor, package=top),
            )


def _tags(wheel: Path) -> list[str]:
    try:
        lines = wheel.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith("tag:")]


def _top_level(info: Path) -> set[str]:
    try:
        lines = (info / "RECORD").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {line.partition(",")[0].partition("/")[0].partition(".")[0] for line in lines}


def _requirement(info: Path) -> str:
    name, _, version = info.name.removesuffix(".dist-info").partition("-")
    return f"{name}=={version}" if version else name


def _compiled_elsewhere(vendor: Path) -> Iterator[Path]:
    """Yield compiled modules for others that have no copy for this Python beside them."""
    for parent, folders, files in os.walk(vendor):
        folders.sort()
        foreign = [name for name in sorted(files) if _is_foreign(name)]
        for name in foreign:
            stem = name.partition(".")[0]
            if not any(_is_usable(other) and other.partition(".")[0] == stem for other in files):
                yield Path(parent) / name


def _is_usable(name: str) -> bool:
    return name.endswith(".so") and not _is_foreign(name)


def _is_foreign(name: str) -> bool:
    if name.endswith((".pyd", ".dylib")):
        return True
    if not name.endswith(".so"):
        return False
    version = _COMPILED.search(name)
    other_system = "-darwin.so" in name or "-linux-musl" in name
    return other_system or (version is not None and int(version.group(1)) != _MINOR)


# --- Node


def _modules(modules: Path) -> Iterator[Finding]:
    if not modules.is_dir():
        return
    packages = dict(_packages(modules))
    remedy = (
        f"remove {modules} and install it for Alpine: npm ci --omit=dev --os=linux --libc=musl, or leave it to `deploy`"
    )
    for name, package in packages.items():
        wanted = [one for one in _names(package.get("optionalDependencies")) if one in packages]
        choices = [one for one in wanted if _names(packages[one].get("os")) or _names(packages[one].get("libc"))]
        if choices and not any(_is_for_alpine(packages[one]) for one in choices):
            yield Finding(str(modules / name), f"has native code only for others: {', '.join(choices)}", remedy)
    for parent, folders, files in os.walk(modules):
        folders.sort()
        # Packages with files for several systems choose one by its name.
        if Path(parent).name not in ("Release", "Debug"):
            continue
        for file in sorted(files):
            if file.endswith(".node") and (reason := _not_for_alpine(Path(parent) / file)):
                yield Finding(str(Path(parent) / file), f"was compiled for {reason}, not for Alpine", remedy)


def _packages(modules: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for folder in sorted(modules.iterdir()):
        inner = sorted(folder.iterdir()) if folder.name.startswith("@") and folder.is_dir() else [folder]
        for one in inner:
            try:
                package = json.loads((one / "package.json").read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(package, dict):
                yield one.relative_to(modules).as_posix(), package


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, dict | list) else []


def _is_for_alpine(package: dict[str, Any]) -> bool:
    return _allows(package.get("os"), "linux") and _allows(package.get("libc"), "musl")


def _allows(listed: object, value: str) -> bool:
    names = _names(listed) or ([listed] if isinstance(listed, str) else [])
    refused = [name.removeprefix("!") for name in names if name.startswith("!")]
    allowed = [name for name in names if not name.startswith("!")]
    return value not in refused and (not allowed or value in allowed)


def _not_for_alpine(file: Path) -> str:
    """Return for which system *file* was compiled; empty if it may load on Alpine."""
    try:
        if file.stat().st_size > _MOST_BINARY_BYTES:
            return ""
        content = file.read_bytes()
    except OSError:
        return ""
    if not content.startswith(_ELF):
        return "another system than Linux"
    # The names of needed libraries are texts in the file.
    if b"\0libc.so.6\0" in content and b"\0libc.musl-" not in content:
        return "glibc"
    return ""
