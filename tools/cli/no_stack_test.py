"""Commands where no server is named and no stack runs."""

from pathlib import Path

import pytest

from tools import samples
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run

BOT = str(Path(samples.__file__).parent / "price_ticker")


@pytest.fixture(autouse=True)
def _nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MONGO_TIMEOUT_SECONDS", "0.2")
    for name in ("MONGO_URI", "NATS_URL", "MINIO_ENDPOINT", "MINIO_ACCESS_KEY_ID", "MINIO_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "command",
    [
        *("status", "bot ls", "bot show x", "bot rm x", "bot kill x", "bot stop x", "bot start x", "bot logs x"),
        *("worker ls", "worker cordon x", "worker drain x", "worker uncordon x"),
        *("dlq ls", "dlq show 1", "dlq replay --all", "dlq purge --yes"),
        *("load run bots --count 1", "load remove bots x"),
        *("backtest ls", "backtest show x", "backtest logs x", "backtest cancel x"),
        *("schedule ls", "schedule history x", "schedule trigger x", "schedule pause x", "schedule rm x"),
        *(f"bot deploy {BOT}", f"schedule deploy {BOT} --schedule @hourly"),
    ],
)
def test_a_command_that_needs_servers_names_the_one_that_starts_them(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(command.split())

    _, err = capsys.readouterr()
    assert (code, "`runtime dev up`" in err) == (ExitCode.UNREACHABLE, True), err
    assert "ACCESS_KEY" not in err


def test_a_variable_that_looks_like_a_setting_is_named_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_LIMITMB", "hunter2")

    run(["bot", "ls"])

    _, err = capsys.readouterr()
    assert "warning: MEMORY_LIMITMB is no setting and is ignored; is it MEMORY_LIMIT_MB?" in err
    assert "hunter2" not in err
