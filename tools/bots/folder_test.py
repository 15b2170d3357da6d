import json
from pathlib import Path
from typing import Any

import pytest

from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import read_folder


def bot(folder: Path, *files: str, **description: Any) -> Path:
    for file in files:
        (folder / file).write_text("")
    if description:
        (folder / "bot.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    ("file", "runtime"), [("main.py", "python3.11"), ("main.js", "nodejs20"), ("index.js", "nodejs20")]
)
def test_without_a_description_runtime_and_entrypoint_are_guessed(tmp_path: Path, file: str, runtime: str) -> None:
    folder = read_folder(bot(tmp_path, file))

    assert folder.description["runtime"] == runtime
    assert folder.description["entrypoints"] == {"bot": file}
    assert folder.name == tmp_path.name


def test_the_description_is_taken_as_it_is_and_the_config_out_of_it(tmp_path: Path) -> None:
    description = {"name": "b", "version": "2", "runtime": "nodejs20", "entrypoints": {"bot": "a.js"}, "x": [1]}

    folder = read_folder(bot(tmp_path, "a.js", **description, config={"symbol": "BTC"}))

    assert folder.description == description
    assert folder.config == {"symbol": "BTC"}


def test_command_line_takes_precedence(tmp_path: Path) -> None:
    bot(tmp_path, "main.py", "other.js", entrypoints={"bot": "main.py"}, runtime="python3.11")

    folder = read_folder(tmp_path, runtime="nodejs20", entrypoint="other.js")

    assert folder.description["runtime"] == "nodejs20"
    assert folder.description["entrypoints"] == {"bot": "other.js"}


@pytest.mark.parametrize(("given", "file"), [(None, "main.py"), ("other.py", "other.py")])
def test_a_backtest_has_an_entrypoint_of_its_own(tmp_path: Path, given: str | None, file: str) -> None:
    folder = read_folder(bot(tmp_path, "main.py", "other.py"), entrypoint=given, kind="backtest")

    assert folder.description["entrypoints"] == {"backtest": file}
    assert folder.description["runtime"] == "python3.11"


def test_a_bot_is_not_run_as_a_backtest(tmp_path: Path) -> None:
    bot(tmp_path, "main.py", entrypoints={"bot": "main.py"})

    with pytest.raises(BotFolderInvalid, match="has no 'backtest', only 'bot'"):
        read_folder(tmp_path, kind="backtest")


@pytest.mark.parametrize(
    ("files", "description", "message"),
    [
        ([], {}, "has neither a bot.json with `entrypoints` nor one of main.py"),
        (["a.txt"], {"entrypoints": {"bot": "a.txt"}}, "unknown runtime None; known are: nodejs20, python"),
        (["main.py"], {"runtime": "cobol"}, "unknown runtime 'cobol'"),
        (["main.py"], {"entrypoints": {"bot": "gone.py"}}, "the bot entrypoint 'gone.py' is not a file"),
        (["main.py"], {"entrypoints": {"backtest": "main.py"}}, "has no 'bot', only 'backtest'; add it, or name the"),
        (["main.py"], {"entrypoints": ["main.py"]}, "`entrypoints` must be an object"),
        (["main.py"], {"config": 1}, "`config` must be an object"),
    ],
)
def test_invalid_folder_is_reported_with_remedy(
    tmp_path: Path, files: list[str], description: dict[str, Any], message: str
) -> None:
    bot(tmp_path, *files, **description)

    with pytest.raises(BotFolderInvalid, match=message):
        read_folder(tmp_path)


def test_description_that_is_not_json_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bot.json").write_text("{")

    with pytest.raises(BotFolderInvalid, match=r"bot.json cannot be read as JSON"):
        read_folder(tmp_path)


def test_an_entrypoint_for_node_may_lack_its_suffix(tmp_path: Path) -> None:
    folder = read_folder(bot(tmp_path, "index.mjs", entrypoints={"bot": "index"}))

    assert (folder.description["entrypoints"], folder.description["runtime"]) == ({"bot": "index"}, "nodejs20")
