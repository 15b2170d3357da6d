"""A folder to start from: a bot, a backtest or a schedule in one of the languages."""

import json
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from tools.bots.description import DESCRIPTION
from tools.bots.errors import BotFolderInvalid
from tools.bots.package import EDITOR_FOLDER

_STARTERS = Path(__file__).parent / "starters"
SCHEMA = Path(__file__).parent / "bot.schema.json"
"""The JSON Schema of `bot.json`, for editors."""


class Language(StrEnum):
    """The language of a starter."""

    PYTHON = "python"
    NODE = "node"
    TYPESCRIPT = "typescript"


class StarterKind(StrEnum):
    """What a starter is deployed as."""

    BOT = "bot"
    BACKTEST = "backtest"
    SCHEDULE = "schedule"


_RUNTIMES = {
    Language.PYTHON: ("python3.11", "main.py"),
    Language.NODE: ("nodejs20", "main.js"),
    Language.TYPESCRIPT: ("nodejs20", "main.ts"),
}
_TYPES = {StarterKind.BOT: "real-time", StarterKind.BACKTEST: "backtest", StarterKind.SCHEDULE: "scheduled"}
_SYMBOL = {"type": "string", "description": "what to trade, such as BTC-USD"}
_CONFIGS: Mapping[StarterKind, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    StarterKind.BOT: (
        {"symbol": "BTC-USD", "interval_seconds": 1},
        {"symbol": _SYMBOL, "interval_seconds": {"type": "number", "exclusiveMinimum": 0}},
    ),
    StarterKind.BACKTEST: (
        {"symbol": "BTC-USD", "cash": 1000, "days": 250},
        {
            "symbol": _SYMBOL,
            "cash": {"type": "number", "exclusiveMinimum": 0},
            "days": {"type": "integer", "minimum": 2},
        },
    ),
    StarterKind.SCHEDULE: (
        {"schedule": "0 9 * * MON-FRI", "timezone": "UTC", "symbol": "BTC-USD", "amount": 0.1},
        {"symbol": _SYMBOL, "amount": {"type": "number", "exclusiveMinimum": 0}},
    ),
}
_README = """# {title}

```sh
runtime bot check {name}
runtime {here}
runtime {deployed}
```

The first command checks the folder, the second runs it on this machine without servers, and the third runs the {kind}
on a stack, such as that of `runtime dev up`.
"""
_HERE = {
    StarterKind.BOT: "bot run {name}",
    StarterKind.BACKTEST: "backtest run {name} --local",
    StarterKind.SCHEDULE: "schedule run {name}",
}
_DEPLOYED = {
    StarterKind.BOT: "bot deploy {name}",
    StarterKind.BACKTEST: "backtest run {name}",
    StarterKind.SCHEDULE: "schedule deploy {name}",
}


def write_starter(directory: Path, language: Language, kind: StarterKind) -> list[str]:
    """Write a starter into *directory*, which is new or empty, and return the names of its files.

    Raises:
        BotFolderInvalid: there is something in the folder, or it cannot be written.
    """
    files = starter(directory.resolve().name, language, kind)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(path.name != ".git" for path in directory.iterdir()):
            raise BotFolderInvalid(f"{directory} is not empty; give the name of a new folder")
        for name, text in files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BotFolderInvalid(f"{directory} cannot be written: {error.strerror or error}") from error
    return list(files)


def starter(name: str, language: Language, kind: StarterKind) -> dict[str, str]:
    """Return the files of a starter called *name*: text by path."""
    runtime, script = _RUNTIMES[language]
    config, properties = _CONFIGS[kind]
    description = {
        "$schema": f"./{EDITOR_FOLDER}/{SCHEMA.name}",
        "name": name,
        "description": f"a {kind} to start from",
        "version": "0.1.0",
        "author": "you",
        "type": _TYPES[kind],
        "runtime": runtime,
        "entrypoints": {"backtest" if kind is StarterKind.BACKTEST else "bot": script},
        "schema": {"type": "object", "required": list(properties)[:1], "properties": properties},
        "config": config,
    }
    code = (_STARTERS / language / kind).with_suffix(Path(script).suffix)
    return {
        script: code.read_text(encoding="utf-8"),
        DESCRIPTION: json.dumps(description, indent=2, ensure_ascii=False) + "\n",
        f"{EDITOR_FOLDER}/{SCHEMA.name}": SCHEMA.read_text(encoding="utf-8"),
        "README.md": _readme(name, kind),
    }


def _readme(name: str, kind: StarterKind) -> str:
    word = shlex.quote(name)
    here, deployed = _HERE[kind].format(name=word), _DEPLOYED[kind].format(name=word)
    return _README.format(title=name, name=word, kind=kind, here=here, deployed=deployed)
