"""`runtime backtest run` that is left before its backtest is done."""

import asyncio
import signal
from pathlib import Path

import pytest
from pymongo import MongoClient

from tests.support.rigs.terminal import Terminal
from tools import samples
from tools.cli.exit_codes import ExitCode

BACKTEST = str(Path(samples.__file__).parent / "moving_average_crossover")


@pytest.mark.parametrize("options", [(), ("--output", "json")])
async def test_ctrl_c_reports_that_backtest_continues_and_names_commands(
    mongo_uri: str, server_variables: dict[str, str], bucket_prefix: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    backtest_id = f"{bucket_prefix} b"
    process = await Terminal(tmp_path, server_variables).start(
        "backtest", "run", BACKTEST, "--id", backtest_id, *options
    )
    with MongoClient[dict[str, object]](mongo_uri) as client:
        backtests = client["backtest_runner"]["backtests"]
        while await asyncio.to_thread(backtests.find_one, {"id": backtest_id}) is None:
            assert process.returncode is None
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

        assert process.returncode == ExitCode.INTERRUPTED
        assert out.decode() == ""
        assert f"{backtest_id} continues to run" in err.decode()
        for command in ("logs -f", "show", "cancel"):
            assert f"runtime backtest {command} '{backtest_id}'" in err.decode()
        assert await asyncio.to_thread(backtests.find_one, {"id": backtest_id}) is not None
        client.drop_database("backtest_runner")
