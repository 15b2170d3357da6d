"""A bot's folder: code and a `bot.json` or `bot-config.yaml` that describes it.

It contains the platform's `custom.config` (name, description, runtime, version, author, type, entrypoints, ...), and
under `config` the default config of the bot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from libs.docker_runner.executable import NODE_SUFFIXES, script_files
from libs.docker_runner.settings import IMAGES
from tools.bots.description import DESCRIPTION, Description, read_description
from tools.bots.errors import BotFolderInvalid

Kind = Literal["bot", "backtest"]

TYPESCRIPT_SUFFIXES = (".ts", ".mts", ".cts")
"""Of entrypoints that a deploy compiles."""

_NODE_FILES = (*NODE_SUFFIXES, *TYPESCRIPT_SUFFIXES)
_GUESSES = (
    *(("main.py", "python3.11"), ("main.js", "nodejs20"), ("index.js", "nodejs20"), ("main.mjs", "nodejs20")),
    ("main.ts", "nodejs20"),
)


@dataclass(frozen=True)
class BotFolder:
    """A folder that can be deployed. *description* is the bot's `custom.config`, *config* its default config."""

    path: Path
    description: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The bot's name."""
        return str(self.description["name"])

    @property
    def version(self) -> str:
        """The author's version of the code."""
        return str(self.description["version"])


def read_folder(
    path: Path, runtime: str | None = None, entrypoint: str | None = None, *, kind: Kind = "bot"
) -> BotFolder:
    """Read and check a folder that is to run as *kind*. *runtime* and *entrypoint* override the description.

    If missing there, both are guessed from the files: `main.py` is Python, `main.js` or `index.js` is Node.

    Raises:
        BotFolderInvalid: with the first error, and the remedy.
    """
    if not path.is_dir():
        raise BotFolderInvalid(f"{path} is not a folder")
    read = read_description(path)
    written = dict(read.fields)
    config = written.pop("config", {})
    if not isinstance(config, dict):
        raise BotFolderInvalid(f"{read.file}: `config` must be an object")
    description = {"name": path.resolve().name, "version": "1.0.0", **written}
    description["entrypoints"] = _entrypoints(path, read, runtime, entrypoint, kind)
    description["runtime"] = _runtime(path, description, runtime, kind)
    return BotFolder(path, description, config)


def folder_name(path: Path) -> str:
    """Return the name of the bot in a folder, regardless of other errors.

    Raises:
        BotFolderInvalid: its description cannot be read.
    """
    return str(read_description(path).fields.get("name", path.resolve().name))


def kind_of(path: Path) -> Kind:
    """Return what the folder is for: a backtest if it describes only one.

    Raises:
        BotFolderInvalid: its description cannot be read.
    """
    entrypoints = read_description(path).fields.get("entrypoints")
    return "backtest" if isinstance(entrypoints, dict) and entrypoints and "bot" not in entrypoints else "bot"


def file_of(path: Path, named: str, runtime: str) -> str | None:
    """Return the file of an entrypoint; None when it is missing. Without a runtime, Node's suffix rules apply."""
    candidates = script_files(named, runtime if runtime in IMAGES else "nodejs20")
    inside = (file for file in candidates if not Path(file).is_absolute() and ".." not in Path(file).parts)
    return next((file for file in inside if "\0" not in file and (path / file).is_file()), None)


def _entrypoints(
    path: Path, read: Description, runtime: str | None, entrypoint: str | None, kind: Kind
) -> dict[str, str]:
    entrypoints = read.fields.get("entrypoints", {})
    if not isinstance(entrypoints, dict) or not all(isinstance(file, str) for file in entrypoints.values()):
        raise BotFolderInvalid(f'{read.file}: `entrypoints` must be an object such as {{"bot": "main.py"}}')
    entrypoints = dict(entrypoints)
    if entrypoint is not None:
        entrypoints[kind] = entrypoint
    if not entrypoints:
        guess = next((file for file, _ in _GUESSES if (path / file).is_file()), None)
        if guess is None:
            names = ", ".join(file for file, _ in _GUESSES)
            raise BotFolderInvalid(
                f"{path} has neither a {DESCRIPTION} with `entrypoints` nor one of {names}; name the file to run "
                f"with --entrypoint"
            )
        entrypoints[kind] = guess
    if kind not in entrypoints:
        raise BotFolderInvalid(
            f"{read.file}: `entrypoints` has no {kind!r}, only {', '.join(map(repr, entrypoints))}; add it, "
            f"or name the file to run with --entrypoint"
        )
    for name, file in entrypoints.items():
        if file_of(path, file, str(runtime or read.fields.get("runtime"))) is None:
            raise BotFolderInvalid(f"the {name} entrypoint {file!r} is not a file in {path}")
    return entrypoints


def _runtime(path: Path, description: Mapping[str, Any], given: str | None, kind: Kind) -> str:
    runtime = given or description.get("runtime")
    if runtime is None:
        file = file_of(path, description["entrypoints"][kind], "") or ""
        runtime = "python3.11" if file.endswith(".py") else "nodejs20" if file.endswith(_NODE_FILES) else None
    if runtime not in IMAGES:
        known = ", ".join(sorted(IMAGES))
        raise BotFolderInvalid(f"unknown runtime {runtime!r}; known are: {known}")
    return str(runtime)
