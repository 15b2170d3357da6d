import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tools.author.checks import check_code, check_config, refuse_config, size_findings
from tools.author.findings import refuse
from tools.author.json_schema import violations
from tools.author.starter import SCHEMA
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import read_folder
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run

MAIN = "def main(id, config): pass\n"
STRICT = {"type": "object", "required": ["symbol"], "properties": {"symbol": {"type": "string"}}}


def bot(folder: Path, **description: Any) -> Path:
    (folder / "main.py").write_text(MAIN)
    (folder / "bot.json").write_text(json.dumps(description))
    return folder


FULL: dict[str, Any] = {
    "$schema": "./bot.schema.json",
    "name": "b",
    "description": "d",
    "version": 1.5,
    "author": "a",
    "type": "real-time",
    "runtime": "python3.11",
    "entrypoints": {"bot": "main.py"},
    "schema": STRICT,
    "readme": "# b",
    "metadata": {"tags": ["a"]},
    "config": {"symbol": "A"},
    "else": [1],
}
REFUSED: list[dict[str, Any]] = [
    {"entrypoints": ["main.py"]},
    {"entrypoints": {"bot": 1}},
    {"runtime": "cobol"},
    {"config": 1},
    {"config": []},
    {"schema": ""},
]


@pytest.mark.parametrize("description", [{}, FULL, *({name: value} for name, value in FULL.items())], ids=str)
def test_published_schema_accepts_what_a_deploy_accepts(tmp_path: Path, description: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_text())
    folder = read_folder(bot(tmp_path, **description))

    assert violations(description, schema) == []
    assert check_code(folder) == []
    assert set(schema["properties"]) >= set(FULL) - {"else"}


@pytest.mark.parametrize("description", REFUSED, ids=str)
def test_published_schema_refuses_what_a_deploy_refuses(tmp_path: Path, description: dict[str, Any]) -> None:
    with pytest.raises(BotFolderInvalid):
        read_folder(bot(tmp_path, **description))

    assert violations(description, json.loads(SCHEMA.read_text())) != []


@pytest.mark.parametrize("field", ["name", "description", "author", "type"])
def test_field_of_the_wrong_type_is_refused_by_a_deploy(tmp_path: Path, field: str) -> None:
    folder = read_folder(bot(tmp_path, **{field: 5}))

    with pytest.raises(BotFolderInvalid, match=f"bot.json: {field}: must be of type string; correct it"):
        refuse(check_code(folder))


def test_all_findings_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "test.py").write_text("def main(:")
    folder = read_folder(bot(tmp_path, author=1, entrypoints={"bot": "main.py", "backtest": "test.py"}))

    with pytest.raises(BotFolderInvalid) as refused:
        refuse(check_code(folder))

    assert [line.partition(" ")[0] for line in str(refused.value).splitlines()] == [
        f"{tmp_path}/bot.json:",
        f"{tmp_path}/test.py:1:",
    ]


def test_config_that_does_not_match_the_schema_is_refused_by_a_deploy(tmp_path: Path) -> None:
    folder = read_folder(bot(tmp_path, schema=STRICT))

    refuse_config(folder, "bot", {"symbol": "A"})
    with pytest.raises(BotFolderInvalid, match=r"the config: config.symbol: must be of type string"):
        refuse_config(folder, "bot", {"symbol": 1})


def test_folder_that_workers_would_reject_is_reported_with_its_largest_parts(tmp_path: Path) -> None:
    bot(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "zeros.bin").write_bytes(bytes(40_000_000))

    (finding,), package = size_findings(read_folder(tmp_path))

    assert package is None
    assert "workers would reject this bot" in finding.problem
    assert "data (40 MB)" in finding.remedy


def test_platform_description_is_read_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "bot-schema.json").write_text(json.dumps(STRICT))
    (tmp_path / "README.md").write_text("# Hello")
    (tmp_path / "bot-config.yaml").write_text(
        "name: my-bot\ndescription: does it\nversion: 1.0\nauthor: me\ntype: scheduled\nruntime: python3.11\n"
        "entrypoints:\n  bot: main.py\n  backtest:\nschema:\n  bot: bot-schema.json\nreadme: README.md\n"
        "hasFrontend: true\nmetadata:\n  tags: [a, b]\n  since: 2024-01-31\n"
    )

    folder = read_folder(tmp_path)

    assert folder.description == {
        "name": "my-bot",
        "description": "does it",
        "version": "1.0",
        "author": "me",
        "type": "scheduled",
        "runtime": "python3.11",
        "entrypoints": {"bot": "main.py"},
        "schema": {"bot": STRICT},
        "readme": "# Hello",
        "hasFrontend": True,
        "metadata": {"tags": ["a", "b"], "since": "2024-01-31"},
    }
    assert check_code(folder) == []
    assert [finding.where for finding in check_config(folder, "bot", {})] == [f"{tmp_path}/bot-config.yaml: config"]


def test_bot_json_counts_before_the_description_of_the_platform(tmp_path: Path) -> None:
    (tmp_path / "bot-config.yaml").write_text("name: other")

    assert read_folder(bot(tmp_path, name="b")).name == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read as YAML"),
        ("- a", "must contain an object"),
        ("schema: {bot: gone.json}", "gone.json"),
    ],
)
def test_platform_description_that_cannot_be_used_is_reported(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "bot-config.yaml").write_text(text)

    with pytest.raises(BotFolderInvalid, match=rf"bot-config.yaml.*{message}"):
        read_folder(tmp_path)


def test_aliases_that_make_a_short_description_very_large_are_refused(tmp_path: Path) -> None:
    levels = [f"{name}: &{name} [{', '.join([f'*{former}'] * 9)}]" for former, name in pairwise("abcdefghijkl")]
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "bot-config.yaml").write_text("\n".join(["a: &a [1]", *levels]))

    with pytest.raises(BotFolderInvalid, match="more than 100000 values"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["../schema.json", "/etc/hostname", "a\0b"])
def test_schema_outside_of_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "bot").mkdir()

    with pytest.raises(BotFolderInvalid, match="which is not a file in"):
        read_folder(bot(tmp_path / "bot", schema=name))


def test_command_prints_each_finding_with_file_and_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bot(tmp_path, schema=STRICT, config={"symbol": 1, "schedule": "whenever"})

    assert run(["bot", "check", str(tmp_path)]) == ExitCode.USAGE

    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {tmp_path}/bot.json: config.symbol: must be of type string; correct the config")
    assert "whenever" in lines[1]
    assert len(lines) == 2


def test_command_accepts_a_folder_with_the_config_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bot(tmp_path, name="b", schema=STRICT, config={"symbol": 1})

    assert run(["bot", "check", str(tmp_path), "--config", '{"symbol": "A"}', "--output", "json"]) == ExitCode.OK

    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["findings"], found["files"]) == ("b", [], 2)


@pytest.mark.parametrize("command", ["bot deploy", "schedule deploy", "backtest run"])
def test_deploy_refuses_a_description_that_cannot_be_read(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bot(tmp_path, schema="gone.json")

    assert run([*command.split(), str(tmp_path)]) == ExitCode.USAGE
    assert "gone.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [("def main(:", '{"symbol": "A"}', "main.py:1: is not Python 3.11"), (MAIN, "{}", "config: lacks 'symbol'")],
)
def test_backtest_is_refused_without_a_server(
    tmp_path: Path, source: str, config: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bot(tmp_path, entrypoints={"backtest": "main.py"}, schema=STRICT)
    (tmp_path / "main.py").write_text(source)

    assert run(["backtest", "run", str(tmp_path), "--config", config]) == ExitCode.USAGE
    assert message in capsys.readouterr().err
