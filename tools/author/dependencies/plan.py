"""Decide from a bot's files what is to be built for it. Reads files; runs nothing."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import TYPESCRIPT_SUFFIXES, BotFolder

VENDOR = "vendor"
MODULES = "node_modules"
COMPILED_SUFFIX = ".cjs"
"""Of compiled TypeScript: CommonJS, regardless of the `type` in package.json."""

ESBUILD = "0.28.2"
_COMPILE = """
cd /tmp/src
# The program of this processor; its wrapper would print a stack trace below the errors.
set -- /tmp/tool/node_modules/@esbuild/*/bin/esbuild
"$1" {files} --bundle --platform=node --target=node20 --format=cjs --packages=external --out-extension:.js={suffix} \
  --outbase=. --outdir=/tmp/out >&2
"""

_REQUIREMENTS = "requirements.txt"
_LOCKFILES = ("package-lock.json", "npm-shrinkwrap.json")
_SOURCES = (".ts", ".mts", ".cts", ".tsx", ".js", ".mjs", ".cjs", ".jsx", ".json")
_INCLUDED = re.compile(r"(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)")
# What pip takes from the folder itself: paths, files and editable projects.
_LOCAL = re.compile(
    r"(?:-e|--editable)\b|(?:-f|--find-links)[\s=]+(?!\w+://)|[./]|.*@\s*file:|(?!.*://).*\.(?:whl|zip|tar\.gz)\b"
)

_PIP = """
if ! python3 -c 'import pip' 2>/dev/null; then
  [ -f /tmp/tool/pip.zip ] || exit 97
  # Unpacked: of a zip, pip warns that it is deprecated.
  python3 -m zipfile -e /tmp/tool/pip.zip /tmp/pip
  export PYTHONPATH=/tmp/pip
fi
cd /tmp/src
python3 -m pip install --target /tmp/out/vendor --no-compile --no-cache-dir --no-input --no-warn-script-location \
  --disable-pip-version-check --progress-bar off --requirement requirements.txt >&2
"""
_NPM = """
cd /tmp/src
if command -v npm >/dev/null; then npm=npm; elif [ -d /tmp/tool/npm ]; then npm='node /tmp/tool/npm/bin/npm-cli.js'
else exit 97; fi
$npm {command} --omit=dev --no-audit --no-fund --no-bin-links --no-update-notifier --cache /tmp/npm >&2
mkdir -p node_modules /tmp/out && mv node_modules /tmp/out/
"""


@dataclass(frozen=True)
class Step:
    """One build in a container of the bot's image.

    Attributes:
        what: for messages, such as ``vendor from requirements.txt``.
        tool: the program that the image may lack: ``pip``, ``npm``, or none.
        script: run in ``/tmp/src``, which has *files*; its output is in ``/tmp/out``.
        remedy: an imperative for its failure.
    """

    what: str
    tool: str
    script: str
    files: Mapping[str, bytes] = field(repr=False)
    remedy: str

    def key(self, image_id: str) -> str:
        """Return the name of its output in the cache; another image, script or input gives another one."""
        digest = hashlib.sha256(json.dumps([image_id, self.script]).encode())
        for name in sorted(self.files):
            digest.update(f"\0{name}\0{len(self.files[name])}\0".encode())
            digest.update(self.files[name])
        return digest.hexdigest()[:32]


def packages_step(folder: BotFolder) -> Step | None:
    """Return how the packages of *folder* are installed; None when it names none.

    Raises:
        BotFolderInvalid: it names packages in a way that cannot be installed; with the remedy.
    """
    is_python = str(folder.description["runtime"]).startswith("python")
    return _python(folder.path) if is_python else _node(folder.path)


def esbuild_step(folder: BotFolder) -> Step | None:
    """Return how the compiler is installed; None without TypeScript."""
    if not typescript(folder):
        return None
    package = {"name": "compiler", "dependencies": {"esbuild": ESBUILD}}
    return Step(
        f"the TypeScript compiler esbuild {ESBUILD}",
        "npm",
        _NPM.format(command="install --ignore-scripts"),
        {"package.json": json.dumps(package).encode()},
        "set NPM_CONFIG_REGISTRY to a mirror that has it, or compile the bot yourself and name the JavaScript file in "
        "`entrypoints`",
    )


def compile_step(folder: BotFolder) -> Step | None:
    """Return how the TypeScript of *folder* is compiled, by esbuild in ``/tmp/tool``; None without any."""
    scripts = typescript(folder)
    if not scripts:
        return None
    files = " ".join(f"'./{script}'" for script in scripts)
    return Step(
        f"JavaScript from {', '.join(scripts)}",
        "",
        _COMPILE.format(files=files, suffix=COMPILED_SUFFIX),
        {
            path.relative_to(folder.path).as_posix(): path.read_bytes()
            for path in _own_files(folder.path)
            if path.suffix in _SOURCES
        },
        f"correct {folder.path / scripts[0]} or a file that it imports",
    )


def typescript(folder: BotFolder) -> Sequence[str]:
    """Return the entrypoints of *folder* that are TypeScript."""
    scripts = [script for script in folder.description["entrypoints"].values() if script.endswith(TYPESCRIPT_SUFFIXES)]
    if any("'" in script for script in scripts):
        raise BotFolderInvalid(f"{folder.path}: an entrypoint has a quote in its name; rename the file")
    return list(dict.fromkeys(scripts))


def compiled_name(script: str) -> str:
    """Return the file that *script* is compiled to; *script* itself if it is no TypeScript."""
    return str(Path(script).with_suffix(COMPILED_SUFFIX)) if script.endswith(TYPESCRIPT_SUFFIXES) else script


# --- Python


def _python(folder: Path) -> Step | None:
    file = folder / _REQUIREMENTS
    if file.is_file():
        files = dict(_requirements(folder, file))
        source = _REQUIREMENTS
    else:
        needed = _project_dependencies(folder / "pyproject.toml")
        files = {_REQUIREMENTS: "".join(f"{one}\n" for one in needed).encode()}
        source = "pyproject.toml"
    lines = [line for content in files.values() for line in _lines(content)]
    if not any(not line.startswith("-") or _LOCAL.match(line) for line in lines):
        return None
    if any(_LOCAL.match(line) for line in lines):
        # A path in the folder: all of it may be needed.
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _own_files(folder)} | files
    return Step(
        f"{VENDOR} from {source}",
        "pip",
        _PIP,
        files,
        f"correct {folder / source}, set PIP_INDEX_URL or PIP_FIND_LINKS to a mirror, or use --no-build with your own "
        f"{VENDOR} folder",
    )


def _requirements(folder: Path, file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the requirements in *file* and in those that it includes."""
    waiting, seen = [file], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if not one.resolve().is_relative_to(folder.resolve()) or not one.is_file():
            raise BotFolderInvalid(f"{file}: {one} is not a file in {folder}; add it, or remove the line")
        content = one.read_bytes()
        yield one.relative_to(folder).as_posix(), content
        for line in _lines(content):
            if (included := _INCLUDED.match(line)) and "://" not in included[1]:
                waiting.append(one.parent / included[1])


def _lines(content: bytes) -> list[str]:
    lines = (
        re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in content.decode(errors="replace").splitlines()
    )
    return [line for line in lines if line]


def _project_dependencies(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BotFolderInvalid(f"{file} cannot be read as TOML: {error}; correct it") from error
    project = content.get("project")
    needed = project.get("dependencies") if isinstance(project, dict) else None
    if isinstance(needed, list) and all(isinstance(one, str) for one in needed):
        return needed
    poetry = content.get("tool", {}).get("poetry", {}).get("dependencies", {})
    is_dynamic = isinstance(project, dict) and "dependencies" in project.get("dynamic", [])
    if needed is not None or is_dynamic or set(poetry) - {"python"}:
        raise BotFolderInvalid(
            f"{file}: its dependencies are not in `project.dependencies`; write them there, or export them to "
            f"{_REQUIREMENTS}"
        )
    return []


# --- Node


def _node(folder: Path) -> Step | None:
    file = folder / "package.json"
    if not file.is_file():
        return None
    try:
        package: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise BotFolderInvalid(f"{file} cannot be read as JSON: {error}; correct it") from error
    needed = _needed(package)
    if not needed:
        return None
    lockfile = next((folder / name for name in _LOCKFILES if (folder / name).is_file()), None)
    if lockfile is None:
        if (folder / MODULES).is_dir():
            return None
        raise BotFolderInvalid(
            f"{file} has dependencies, and {folder} no package-lock.json, so that their versions are not certain; "
            f"write it: npm install --package-lock-only"
        )
    names = [file, lockfile, folder / ".npmrc"]
    if any(version.startswith(("file:", "link:", ".")) for version in needed.values()) or "workspaces" in package:
        names += _own_files(folder)
    return Step(
        f"{MODULES} from {lockfile.name}",
        "npm",
        _NPM.format(command="ci"),
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in names if path.is_file()},
        f"correct {file}, set NPM_CONFIG_REGISTRY to a mirror, or use --no-build with your own {MODULES} folder",
    )


def _needed(package: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("dependencies", "optionalDependencies"):
        listed = package.get(name) if isinstance(package, dict) else None
        found |= {key: str(value) for key, value in listed.items()} if isinstance(listed, dict) else {}
    return found


def _own_files(folder: Path) -> Iterator[Path]:
    """Yield the author's own files."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if not hidden and parts[0] not in (VENDOR, MODULES, "venv") and path.is_file():
            yield path
