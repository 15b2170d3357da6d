"""README.md agrees with the code."""

import re
from pathlib import Path
from typing import Any

import click
import pytest

import tools
from services.bot_scheduler.cron import parse, upcoming
from services.bot_scheduler.policy import Policy
from tools.author.starter import StarterKind
from tools.backtests.findings import findings
from tools.bots.folder import Kind, read_folder
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run, runtime

ROOT = Path(tools.__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands() -> set[tuple[str, ...]]:
    """What is called in shell blocks, in text and in the table of commands, as words without arguments."""
    written = re.findall(r"(?:^|`)\./runtime ([a-z][a-z -]*)", README + CONTRIBUTING, re.MULTILINE)
    section = README.partition("## Commands")[2].partition("| exit code |")[0]
    for cell in re.findall(r"^\| (`.*?`) \| [a-z]", section, re.MULTILINE):
        written += re.findall(r"`([a-z][a-z -]*)", cell)
    return {_command(text.split()) for text in written}


def _command(words: list[str]) -> tuple[str, ...]:
    """Leave out what follows the name of a command."""
    group: click.Command = runtime
    for count, word in enumerate(words):
        if not isinstance(group, click.Group):
            return tuple(words[:count])
        group = group.get_command(click.Context(group), word) or click.Command("unknown")
    return tuple(words)


@pytest.mark.parametrize("command", sorted(commands()), ids=" ".join)
def test_every_command_that_it_names_exists(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == ExitCode.OK


def test_its_exit_codes_are_those_of_the_command() -> None:
    table = re.findall(r"^\| (\d+) \| ", README, re.MULTILINE)

    assert [int(code) for code in table] == list(ExitCode)


def code_of(section: str, language: str) -> str:
    """The only code of that language below a heading."""
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(code)


@pytest.mark.parametrize(
    ("section", "file", "language", "kind", "runtime"),
    [
        ("Write a bot", "main.py", "python", "bot", "python3.11"),
        ("Write a bot", "main.js", "js", "bot", "nodejs20"),
        ("Write a backtest", "main.py", "python", "backtest", "python3.11"),
        ("Write a schedule", "main.py", "python", "bot", "python3.11"),
    ],
)
def test_its_code_can_be_deployed_as_it_stands(
    tmp_path: Path, section: str, file: str, language: str, kind: Kind, runtime: str
) -> None:
    (tmp_path / file).write_text(code_of(section, language))

    assert read_folder(tmp_path, kind=kind).description["runtime"] == runtime


def test_its_backtest_finds_what_people_are_shown() -> None:
    backtest: dict[str, Any] = {}
    exec(code_of("Write a backtest", "python"), backtest)  # our own text

    found = findings(backtest["main"]("first", {"cash": 1000}))

    assert found.metrics == {"total_return_percent": pytest.approx(7.0)}
    assert [(plot.title, plot.series[0].name, len(plot.series[0].ys)) for plot in found.plots] == [
        ("Equity", "buy and hold", 4)
    ]
    assert [(table.columns, len(table.rows)) for table in found.tables] == [(["day", "price"], 4)]


def test_its_schedule_comes_to_an_end() -> None:
    schedule: dict[str, Any] = {}
    exec(code_of("Write a schedule", "python"), schedule)  # our own text

    assert schedule["main"]("my-schedule", {"portfolio": "main"}) == {"orders": 0}


def test_its_cron_expressions_can_be_used() -> None:
    rows = README.partition("| expression |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]*) \| ", rows, re.MULTILINE)
    expressions = [expression for cell in cells for expression in re.findall(r"`([^`]*)`", cell)]

    assert len(expressions) == 11
    assert all(next(upcoming(parse(expression), 0)) > 0 for expression in expressions)


def test_the_rules_of_schedules_are_those_that_there_are() -> None:
    text = README.partition("| field | default |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.*?) \| (.*?) \| ", text, re.MULTILINE)
    documented = {field: value for names, values in rows for field, value in _pairs(names, values)}

    policy = Policy()
    assert documented == {
        "overlap": policy.overlap,
        "misfire": policy.misfire,
        "misfireGrace": f"{policy.misfire_grace_seconds:g}",
        "timeout": "none",
        "retries": str(policy.retries),
        "retryDelay": f"{policy.retry_delay_seconds:g}",
    }


def test_every_link_within_it_has_a_target() -> None:
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    headings = {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}

    links = set(re.findall(r"\]\(#([\w-]+)\)", README))
    assert links
    assert links <= headings


def test_first_steps_change_what_bot_init_writes(tmp_path: Path) -> None:
    folder = tmp_path / "my-bot"
    assert run(["bot", "init", str(folder)]) == ExitCode.OK
    code = code_of("Five minutes with a bot of your own", "python")
    (folder / "main.py").write_text(code)

    used = set(re.findall(r'config\["(\w+)"\]', code))
    assert used
    assert used <= set(read_folder(folder).config or {})


@pytest.mark.parametrize("kind", list(StarterKind))
def test_page_of_a_new_folder_names_commands_that_exist(
    kind: StarterKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bot", "init", str(tmp_path / "mine"), "--kind", kind.value]) == ExitCode.OK
    lines = re.findall(r"^runtime (.*)$", (tmp_path / "mine" / "README.md").read_text(), re.MULTILINE)

    assert len(lines) == 3
    for line in lines:
        assert run([*line.split(), "--help"]) == ExitCode.OK, line
        assert "--local" not in line or "--local" in capsys.readouterr().out


def test_its_description_of_a_bot_is_one(tmp_path: Path) -> None:
    (description,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "main.py").write_text("")
    (tmp_path / "bot.json").write_text(description)

    assert read_folder(tmp_path).config == {"symbol": "BTC-USD"}


def _pairs(names: str, values: str) -> list[tuple[str, str]]:
    """One row of a table that may describe several fields: `a`, `b` | 1, 2."""
    return list(zip(names.replace("`", "").split(", "), values.replace("`", "").split(", "), strict=True))
