import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.author.checks import check_code, check_config
from tools.author.starter import Language, StarterKind, write_starter
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import read_folder
from tools.bots.package import pack
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run

ENDLESS = "import sys; sys.path[:0] = ['.']; import main; main.time.sleep = lambda seconds: sys.exit(3); "


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("kind", StarterKind)
def test_starter_can_be_deployed_as_what_it_is_for(tmp_path: Path, language: Language, kind: StarterKind) -> None:
    write_starter(tmp_path / "mine", language, kind)

    folder = read_folder(tmp_path / "mine", kind="backtest" if kind is StarterKind.BACKTEST else "bot")
    assert folder.name == "mine"
    assert folder.description["runtime"] == ("python3.11" if language is Language.PYTHON else "nodejs20")
    assert pack(tmp_path / "mine").files == 3
    assert check_code(folder) == []
    assert check_config(folder, "bot", folder.config) == []
    assert ("schedule" in folder.config) == (kind is StarterKind.SCHEDULE)


def test_python_bot_prints_until_it_is_stopped(tmp_path: Path) -> None:
    write_starter(tmp_path / "mine", Language.PYTHON, StarterKind.BOT)
    config = dict(read_folder(tmp_path / "mine").config)

    done = subprocess.run(
        [sys.executable, "-c", f"{ENDLESS}main.main('b', {config!r})"],
        cwd=tmp_path / "mine",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert done.stdout.splitlines()[0] == "b watches BTC-USD"
    assert done.stdout.splitlines()[-1] == "stopping: cancel open orders here"


@pytest.mark.parametrize(("kind", "key"), [(StarterKind.BACKTEST, "metrics"), (StarterKind.SCHEDULE, "bought")])
def test_python_run_returns_a_result(tmp_path: Path, kind: StarterKind, key: str) -> None:
    write_starter(tmp_path, Language.PYTHON, kind)
    config = json.loads((tmp_path / "bot.json").read_text())["config"]
    code = {"__name__": "main"}
    exec((tmp_path / "main.py").read_text(), code)  # our own text

    assert key in code["main"]("b", config)  # type: ignore[operator]


def test_folder_with_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("mine")

    with pytest.raises(BotFolderInvalid, match="is not empty; give the name of a new folder"):
        write_starter(tmp_path, Language.PYTHON, StarterKind.BOT)

    assert [path.name for path in tmp_path.iterdir()] == ["main.py"]
    assert (tmp_path / "main.py").read_text() == "mine"


def test_command_writes_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bot", "init", str(tmp_path / "new" / "b"), "--lang", "node", "--kind", "schedule", "--output", "json"]
    assert run(arguments) == ExitCode.OK

    assert json.loads(capsys.readouterr().out)["files"] == [
        *("main.js", "bot.json", ".the0/bot.schema.json", "README.md")
    ]
    assert json.loads((tmp_path / "new" / "b" / "bot.json").read_text())["name"] == "b"
    assert run(arguments) == ExitCode.USAGE
    assert "is not empty" in capsys.readouterr().err
