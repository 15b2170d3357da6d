import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.cli.exit_codes import ExitCode
from tools.cli.main import run

NOWHERE = {
    "MONGO_URI": "mongodb://127.0.0.1:1/?directConnection=true",
    "MONGO_TIMEOUT_SECONDS": "0.2",
    "NATS_URL": "nats://127.0.0.1:1",
    "MINIO_ACCESS_KEY_ID": "a",
    "MINIO_SECRET_ACCESS_KEY": "b",
}


@pytest.fixture(autouse=True)
def _no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_HOME", str(tmp_path / "home"))
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "setup",
        "status",
        *("dev", "dev up", "dev down", "dev status"),
        *("bot", "bot deploy", "bot ls", "bot show", "bot logs", "bot rm", "bot kill", "bot resume"),
        *("bot config", "bot config show", "bot config set", "bot config unset"),
        *("bot stop", "bot start", "bot init", "bot check", "bot run", "schedule run"),
        *("worker", "worker ls", "worker cordon", "worker drain", "worker uncordon"),
        *("secrets", "secrets keygen", "secrets seal", "audit"),
        *("dlq", "dlq ls", "dlq show", "dlq replay", "dlq purge"),
        *("bot-runner", "bot-runner master", "bot-runner worker", "backtest-runner standalone", "bot-scheduler master"),
    ],
)
def test_every_command_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == ExitCode.OK
    assert "usage: runtime" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("bogus", ExitCode.USAGE, "No such command 'bogus'; commands are: demo, dev, bot,"),
        ("bto ls", ExitCode.USAGE, "No such command 'bto'; did you mean 'bot'?"),
        ("bot inti", ExitCode.USAGE, "No such command 'inti'; did you mean 'init'?"),
        ("bot kill", ExitCode.USAGE, "give exactly one of ID, --selector and --all"),
        ("bot kill --selector nonsense", ExitCode.USAGE, "'nonsense' is not a selector"),
        ("dlq replay", ExitCode.USAGE, "give either numbers or --all"),
        ("bot-runner", ExitCode.USAGE, "the following arguments are required: master|worker"),
        ("bot-runner master --nonsense", ExitCode.USAGE, "unrecognized arguments: --nonsense"),
        ("bot-runner master --mode sideways", ExitCode.USAGE, "--mode='sideways' must be one of cluster, standalone"),
        ("dev status", ExitCode.NOT_FOUND, "`runtime dev up` starts one"),
    ],
)
def test_error_is_one_line_with_exit_code(
    command: str, code: ExitCode, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command.split()) == code

    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_folder_that_is_no_bot_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bot", "deploy", str(tmp_path)]) == ExitCode.USAGE
    assert "has neither a bot.json" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["{", "[1]", "/does/not/exist"])
def test_a_config_that_is_no_object_is_a_usage_error(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.py").write_text("")

    assert run(["bot", "deploy", str(tmp_path), "--config", config]) == ExitCode.USAGE
    assert "--config" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.OK
    assert re.fullmatch(r"runtime \S+\n", capsys.readouterr().out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_RUNTIME_COMPLETE", f"{shell}_source")

    assert run([]) == ExitCode.OK

    assert f"_RUNTIME_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("runtime d", ["demo", "dev", "dlq"]),
        ("runtime bot st", ["state", "stop", "start"]),
        ("runtime bot kill --f", ["--future"]),
        ("runtime --v", ["--version"]),
        ("runtime bot ls --output ", ["text", "json"]),
    ],
)
def test_commands_and_options_are_completed(
    typed: str, completed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_RUNTIME_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" ")) - 1))

    assert run([]) == ExitCode.OK

    assert capsys.readouterr().out.split() == [f"plain,{word}" for word in completed]


def test_a_service_is_started_without_what_the_other_commands_import() -> None:
    program = (
        "import tools.cli.main, tools.cli.services, sys; print(sorted(set(sys.modules) & {'rich', 'docker', 'nats'}))"
    )
    path = ":".join(part for part in sys.path if part)

    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
