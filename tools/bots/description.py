"""Read the description of a bot's folder: `bot.json`, or the platform's `bot-config.yaml`.

The schemas of the config and the readme may be named as files; the description then has their contents.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.schema_parameters import is_by_entrypoint
from tools.bots.errors import BotFolderInvalid

DESCRIPTION = "bot.json"
PLATFORM_DESCRIPTION = "bot-config.yaml"
_PLATFORM_NAMES = (PLATFORM_DESCRIPTION, "bot-config.yml")
# For editors only.
_EDITOR_FIELD = "$schema"
_BY_ENTRY = ("entrypoints", "schema")
_MOST_BYTES = 256 * 1024
_MOST_VALUES = 100_000


@dataclass(frozen=True)
class Description:
    """The description of a bot, and the *file* that has it, for messages."""

    file: Path
    fields: Mapping[str, Any]


def read_description(folder: Path) -> Description:
    """Return the description of *folder*; one without fields when it has no such file.

    Raises:
        BotFolderInvalid: it cannot be read; the message names the file.
    """
    file = description_file(folder)
    fields = _read(file) if file.exists() else {}
    fields.pop(_EDITOR_FIELD, None)
    if "schema" in fields:
        fields["schema"] = _with_files(folder, file, fields["schema"])
    if isinstance(fields.get("readme"), str):
        fields["readme"] = _readme(folder, file, fields["readme"])
    return Description(file, fields)


def description_file(folder: Path) -> Path:
    """Return the file that describes *folder*; that of `bot.json` when it has none."""
    names = (DESCRIPTION, *_PLATFORM_NAMES)
    return next((folder / name for name in names if (folder / name).exists()), folder / DESCRIPTION)


def _read(file: Path) -> dict[str, Any]:
    is_json = file.suffix == ".json"
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text) if is_json else _parse_yaml(text)
    except (ValueError, OSError, RecursionError) as error:
        raise BotFolderInvalid(f"{file} cannot be read as {'JSON' if is_json else 'YAML'}: {error}") from error
    if not isinstance(content, dict):
        raise BotFolderInvalid(f"{file} must contain an object")
    return content


def _parse_yaml(text: str) -> Any:
    import yaml  # slow to import

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if _values_in(content, _MOST_VALUES) >= _MOST_VALUES:
        # Aliases make a short file a very large value.
        raise ValueError(f"it has more than {_MOST_VALUES} values")
    # Dates become text.
    content = json.loads(json.dumps({} if content is None else content, default=str))
    if not isinstance(content, dict):
        return content
    # A version such as 1.0 is no number, and an entry without a value is none.
    if isinstance(content.get("version"), int | float):
        content["version"] = str(content["version"])
    return {name: _given(value) if name in _BY_ENTRY else value for name, value in _given(content).items()}


def _values_in(value: object, most: int) -> int:
    """Return the number of values in *value*, at most *most*; a value that occurs again counts again."""
    waiting, count = [value], 0
    while waiting and count < most:
        count += 1
        one = waiting.pop()
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return count


def _given(value: Any) -> Any:
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


def _with_files(folder: Path, file: Path, schema: object) -> object:
    """Return *schema* with the contents of the files that it names."""
    if isinstance(schema, str):
        return _schema_file(folder, file, schema)
    if isinstance(schema, dict) and is_by_entrypoint(schema):
        return {
            entry: _schema_file(folder, file, one) if isinstance(one, str) else one for entry, one in schema.items()
        }
    return schema


def _schema_file(folder: Path, file: Path, name: str) -> dict[str, Any]:
    path = _inside(folder, name)
    if path is None or not path.is_file():
        raise BotFolderInvalid(
            f"{file}: `schema` names {name!r}, which is not a file in {folder}; add it or correct it"
        )
    content = _read(path)
    if path.stat().st_size > _MOST_BYTES:
        raise BotFolderInvalid(f"{path} is larger than {_MOST_BYTES // 1024} KiB; shorten the schema")
    return content


def _readme(folder: Path, file: Path, text: str) -> str:
    """Return the content of the file that *text* names; *text* itself if it names none."""
    path = _inside(folder, text)
    try:
        if path is None or not path.is_file():
            return text
        if path.stat().st_size > _MOST_BYTES:
            raise BotFolderInvalid(
                f"{path}, the `readme` of {file}, is larger than {_MOST_BYTES // 1024} KiB; shorten it"
            )
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        # A long text is no file name.
        return text


def _inside(folder: Path, name: str) -> Path | None:
    """Return the path of *name* in *folder*; None if it is none, or leads out of it."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):
        return None
