"""README.md says what is so."""

import re
from pathlib import Path

import pytest

import tools
from tools.bots.folder import read_folder
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run

ROOT = Path(tools.__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands() -> set[tuple[str, ...]]:
    """What is called in shell blocks, in text and in the table of commands, as words without arguments."""
    written = re.findall(r"(?:^|`)\./runtime ([a-z][a-z -]*)", README + CONTRIBUTING, re.MULTILINE)
    section = README.partition("## Commands")[2].partition("| exit code |")[0]
    for cell in re.findall(r"^\| (`.*?`) \| [a-z]", section, re.MULTILINE):
        written += re.findall(r"`([a-z][a-z -]*)", cell)
    groups = {"backtest", "bot", "bot-runner", "dev", "dlq", "schedule"}
    return {tuple(text.split()[: 2 if text.split()[0] in groups else 1]) for text in written}


@pytest.mark.parametrize("command", sorted(commands()), ids=" ".join)
def test_every_command_that_it_names_exists(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == ExitCode.OK


def test_its_exit_codes_are_those_of_the_command() -> None:
    table = re.findall(r"^\| (\d+) \| ", README, re.MULTILINE)

    assert [int(code) for code in table] == list(ExitCode)


@pytest.mark.parametrize(("file", "runtime"), [("main.py", "python3.11"), ("main.js", "nodejs20")])
def test_its_bots_can_be_deployed_as_they_stand(tmp_path: Path, file: str, runtime: str) -> None:
    language = {"main.py": "python", "main.js": "js"}[file]
    (code,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (tmp_path / file).write_text(code)

    assert read_folder(tmp_path).description["runtime"] == runtime


def test_its_description_of_a_bot_is_one(tmp_path: Path) -> None:
    (description,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "main.py").write_text("")
    (tmp_path / "bot.json").write_text(description)

    assert read_folder(tmp_path).config == {"symbol": "BTC-USD"}
