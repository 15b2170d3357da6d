"""`runtime backtest run --local`: run a folder as a backtest here, and show its metrics, without servers."""

from collections.abc import Mapping
from pathlib import Path

from libs.core.process.service import BACKTEST_RUNNER
from libs.core.room import MIB
from libs.docker_runner.containers.container import RunOutcome
from libs.docker_runner.logs.output import LogLine
from services.backtest_runner.verdict import verdict_of
from tools.backtests.results import Known
from tools.bots.folder import BotFolder
from tools.cli.backtest_show import show_result
from tools.cli.local_run import Wanted, exit_code_of, run_to_its_end, write_output

# As the default of BOT_RESULT_MB; only for a message.
_RESULT_BYTES = 16 * MIB


def run_backtest_here(
    folder: BotFolder,
    backtest_id: str,
    env_file: Path | None,
    html_file: Path | None,
    output: str,
    *,
    no_build: bool,
    data: tuple[str, ...],
) -> int:
    """Run it, show its output and its result, and return the bot's exit code; 1 if its result cannot be used."""
    shown = OutputWithoutResult(quiet=output == "json")
    wanted = Wanted(folder, backtest_id, "backtest", BACKTEST_RUNNER.name, env_file, no_build, data)

    def take(outcome: RunOutcome) -> tuple[Known, str]:
        """Read its files, which are removed with the run."""
        printed = outcome.output_path.read_text(errors="replace") if html_file is not None else ""
        return _known(backtest_id, outcome), printed

    ended, (known, printed) = run_to_its_end(wanted, shown.write, take)
    shown.end(is_result=known.failure is None)
    code = exit_code_of(ended)
    return code or show_result(known, printed, html_file, output)


def _known(backtest_id: str, outcome: RunOutcome) -> Known:
    verdict = verdict_of(outcome, timeout_seconds=0, result_bytes=_RESULT_BYTES)
    if not verdict.succeeded:
        error = verdict.message
        return Known(backtest_id, None, {"status": "error", "message": error, "error": error}, [])
    value = outcome.result if outcome.returned is not None else {}
    return Known(backtest_id, None, value if isinstance(value, Mapping) else {"results": value}, [])


class OutputWithoutResult:
    """Writes the output, except the last line if that is the result, which is shown as a table."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._perhaps_result: list[LogLine] = []

    def write(self, line: LogLine) -> None:
        """Write *line*, or hold it back while it may be the result, whose line the engine splits when it is long."""
        if self._quiet:
            return
        is_more = self._perhaps_result and not self._perhaps_result[-1].data.endswith(b"\n")
        if line.stream == "stdout" and (is_more or line.data.startswith(b"{")):
            if not is_more:
                self.end(is_result=False)
            self._perhaps_result.append(line)
            return
        self.end(is_result=False)
        write_output(line)

    def end(self, *, is_result: bool) -> None:
        """Write what was held back, unless it is the result."""
        held, self._perhaps_result = self._perhaps_result, []
        for line in held if not is_result else ():
            write_output(line)
