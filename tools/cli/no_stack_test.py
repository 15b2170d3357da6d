"""Commands where no server is named and no stack runs."""

from pathlib import Path

import pytest

from tests.support.rigs.terminal import Done, Terminal
from tools import samples
from tools.cli.exit_codes import ExitCode

BOT = str(Path(samples.__file__).parent / "price_ticker")


async def run(command: str, home: Path, **settings: str) -> Done:
    """A separate process ends together with the connections that it tries to open."""
    return await Terminal(home, {"MONGO_TIMEOUT_SECONDS": "0.2", **settings}).run(*command.split())


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
async def test_a_command_that_needs_servers_names_the_one_that_starts_them(command: str, tmp_path: Path) -> None:
    done = await run(command, tmp_path)

    assert (done.code, "`runtime dev up`" in done.err) == (ExitCode.UNREACHABLE, True), done.err
    assert "ACCESS_KEY" not in done.err


NOWHERE = {
    "MONGO_URI": "mongodb://127.0.0.1:1/?directConnection=true",
    "NATS_URL": "nats://127.0.0.1:1",
    "MINIO_ACCESS_KEY_ID": "a",
    "MINIO_SECRET_ACCESS_KEY": "b",
}


@pytest.mark.parametrize(
    ("command", "message"), [("bot ls", "MongoDB is unavailable"), ("dlq ls", "NATS did not respond")]
)
async def test_a_server_that_does_not_answer_is_named_in_one_line_with_an_exit_code(
    command: str, message: str, tmp_path: Path
) -> None:
    done = await run(command, tmp_path, **NOWHERE)

    assert (done.code, message in done.err, "Traceback" in done.err) == (ExitCode.UNREACHABLE, True, False), done.err


async def test_a_variable_that_looks_like_a_setting_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    done = await run("bot ls", tmp_path, MEMORY_LIMITMB="hunter2")

    assert "warning: MEMORY_LIMITMB is not a setting and is ignored; did you mean MEMORY_LIMIT_MB?" in done.err
    assert "hunter2" not in done.err
