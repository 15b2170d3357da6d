import pytest

from services.backtest_runner.parameters import Parameters
from tools.backtests.results import Known
from tools.cli.backtest_show import show_result
from tools.cli.exit_codes import ExitCode


def test_config_with_control_characters_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    known = Known("b", None, {"metrics": {}}, [], parameters=Parameters({"symbol": "BTC\x1b[2J\nfast=5", "fast": 7}))

    assert show_result(known, "", None, "text") == ExitCode.OK

    assert "  config: symbol=BTC\\x1b[2J\\nfast=5, fast=7\n" in capsys.readouterr().out
