"""Check a bot's folder before its deploy, with all findings at once. `deploy` enforces the same."""

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tools.author.config_check import config_findings
from tools.author.dependency_check import dependency_findings
from tools.author.entrypoint_check import entrypoint_findings
from tools.author.findings import Finding, refuse
from tools.author.json_schema import violations
from tools.author.starter import SCHEMA
from tools.bots.description import DESCRIPTION, description_file
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import BotFolder, Kind
from tools.bots.package import Package, pack


def check_code(folder: BotFolder, built: Collection[str] = ()) -> list[Finding]:
    """Return what is wrong in *folder*, except its size and its config. Blocks.

    Args:
        built: folders of dependencies that are replaced by a build.
    """
    runtime = str(folder.description["runtime"])
    return [
        *_description_findings(folder.path),
        *(
            finding
            for entry, script in folder.description["entrypoints"].items()
            for finding in entrypoint_findings(folder.path, entry, script, runtime)
        ),
        *(dependency_findings(folder.path, runtime) if not built else ()),
    ]


def check_config(folder: BotFolder, kind: Kind, config: Mapping[str, Any], where: str = "") -> list[Finding]:
    """Return what is wrong with *config* for *folder*.

    Args:
        where: the origin of the config; by default the folder's description.
    """
    described_in = str(description_file(folder.path))
    return config_findings(folder.description, kind, config, where=where or described_in, described_in=described_in)


def refuse_config(folder: BotFolder, kind: Kind, config: Mapping[str, Any]) -> None:
    """Raise BotFolderInvalid if *config*, which is to be deployed or run, does not match the schema of *folder*."""
    refuse(check_config(folder, kind, config, "the config"))


def size_findings(folder: BotFolder) -> tuple[list[Finding], Package | None]:
    """Return what is wrong with the folder's size or its links, else the package. Blocks."""
    try:
        return [], pack(folder.path)
    except BotFolderInvalid as error:
        largest = _largest(folder.path)
        remedy = f"remove what the bot does not need; the largest are {largest}" if largest else "correct the file"
        return [Finding(str(folder.path), str(error), remedy)], None


def _description_findings(path: Path) -> list[Finding]:
    file = path / DESCRIPTION
    if not file.exists():
        # The platform's description is read as it is.
        return []
    written = json.loads(file.read_text(encoding="utf-8-sig"))
    return [
        Finding(
            f"{file}: {one.path}" if one.path else str(file), one.reason, f"correct it; {SCHEMA.name} has all fields"
        )
        for one in violations(written, _schema())
    ]


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return schema


def _largest(path: Path) -> str:
    sizes = {
        one.name: sum(file.stat().st_size for file in one.rglob("*") if file.is_file()) if one.is_dir() else 0
        for one in path.iterdir()
    }
    top = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return ", ".join(f"{name} ({sizes[name] / 1e6:.0f} MB)" for name in top if sizes[name] > 1e6)
