"""`runtime backtest compare` and `runtime backtest ls --columns` over real servers, with stored results."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.backtest_runner.parameters import Parameters
from tests.support.rigs.commands import Commands
from tests.support.rigs.played_worker import PlayedWorker, played_worker
from tools.cli.exit_codes import ExitCode
from tools.stack.s3 import S3Server


@pytest.fixture
def done(commands: Commands, s3_server: S3Server, bucket_prefix: str) -> None:
    """Three completed backtests: fast 5, 10 and 15, of which the last one has failed."""
    error = {"status": "error", "message": "boom", "error": "boom"}
    with played_worker(commands.mongo, s3_server, f"{bucket_prefix}results", lambda config: None) as worker:
        for number, (fast, sharpe) in enumerate([(5, 1.5), (10, 2.5), (15, None)]):
            plots = [{"title": "Equity", "data": [{"name": "strategy", "y": [100, 100 + fast]}]}]
            metrics = {"sharpe": sharpe, "total_return": fast / 100}
            result = {"metrics": metrics, "plots": plots} if sharpe is not None else error
            _complete(commands, worker, f"b{fast}", number, {"fast": fast, "slow": 50}, result)


def _complete(
    commands: Commands, worker: PlayedWorker, name: str, number: int, config: dict[str, Any], result: dict[str, Any]
) -> None:
    worker.complete(name, result)
    at = datetime(2026, 1, 1, number, tzinfo=UTC)
    run = {"entity_id": name, "segment_id": 0, "worker_id": "w", "host": "h", "epoch": 1, "started_at": at}
    end = {"ended_at": datetime.now(UTC), "reason": "finished" if "metrics" in result else "exception", "open": False}
    more = {"parameters": Parameters(config).to_text(), "attempt": 1}
    commands.mongo["backtest_runner"]["runs"].insert_one({"_id": name, **run, **end, **more})


@pytest.mark.usefixtures("done")
def test_metrics_and_differing_parameters_are_side_by_side(commands: Commands) -> None:
    lines = [line.split() for line in commands.text("backtest", "compare", "b5", "b10", "b15", "b5").splitlines()]

    assert lines == [
        ["metric", "b5", "b10", "b15"],
        ["state", "finished", "finished", "failed"],
        ["fast", "5", "10", "15"],
        ["sharpe", "1.5", "2.5", "-"],
        ["total", "return", "0.05", "0.1", "-"],
        ["b15:", "boom"],
    ]
    first, _ = commands.json("backtest", "compare", "b5", "b10")
    assert (first["config"], first["metrics"]["sharpe"]) == ({"fast": 5, "slow": 50}, 1.5)


@pytest.mark.usefixtures("done")
def test_comparison_page_has_all_curves(commands: Commands, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    commands.text("backtest", "compare", "b5", "b10", "--html", str(page))

    assert page.read_text().count("<path") == 2


@pytest.mark.usefixtures("done")
def test_config_is_shown_with_the_result_and_on_its_page(commands: Commands, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    shown = commands.text("backtest", "show", "b5", "--html", str(page))

    assert "config: fast=5, slow=50" in shown
    assert "<td>fast</td><td>5</td>" in page.read_text()


@pytest.mark.parametrize(
    ("options", "order"),
    [
        (["--sort", "sharpe"], ["b10", "b5", "b15"]),
        (["--sort", "sharpe", "--lowest-first"], ["b5", "b10", "b15"]),
        (["--sort", "fast"], ["b15", "b10", "b5"]),
        (["--sort", "Total-Return", "-n", "2"], ["b10", "b15"]),
        ([], ["b15", "b10", "b5"]),
    ],
)
@pytest.mark.usefixtures("done")
def test_backtests_are_sorted_by_metric_or_parameter(commands: Commands, options: list[str], order: list[str]) -> None:
    assert [row["id"] for row in commands.json("backtest", "ls", *options)] == order


@pytest.mark.usefixtures("done")
def test_columns_are_metrics_parameters_and_usual_ones(commands: Commands) -> None:
    code, out, err = commands.run("backtest", "ls", "--columns", "sharpe,fast,shrape,worker", "--sort", "sharpe")

    assert code == ExitCode.OK
    assert [line.split() for line in out.splitlines()] == [
        ["id", "state", "sharpe", "fast", "shrape", "worker"],
        ["b10", "finished", "2.5", "10", "-", "w"],
        ["b5", "finished", "1.5", "5", "-", "w"],
        ["b15", "failed", "-", "15", "-", "w"],
    ]
    assert "no listed backtest has shrape in its metrics or its config; similar: sharpe\n" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "b1", "b2"], ExitCode.NOT_FOUND, "there is no backtest 'b1'"),
        (["compare", "b1", "b1"], ExitCode.USAGE, "name at least two backtests"),
        (["compare"], ExitCode.USAGE, "ID"),
        (["ls", "--columns", "a,,b"], ExitCode.USAGE, "write names with commas between"),
    ],
)
def test_invalid_comparison_is_refused(commands: Commands, arguments: list[str], code: ExitCode, message: str) -> None:
    found, out, err = commands.run("backtest", *arguments)

    assert (found, out) == (code, "")
    assert message in err
