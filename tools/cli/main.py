"""The root of the `runtime` command: its commands, and the output of errors."""

import sys
import traceback

import click

from tools.cli.exit_codes import ExitCode
from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "demo": LazyCommand("tools.cli.demo", "demo", "Run two bots, a backtest and a schedule on a temporary stack."),
    "dev": LazyCommand("tools.cli.dev", "dev", "A complete stack on this machine: up, down, status."),
    "bot": LazyCommand("tools.cli.bot", "bot", "Deploy, list, follow, stop and remove bots."),
    "backtest": LazyCommand("tools.cli.backtest", "backtest", "Run backtests and show their results."),
    "schedule": LazyCommand("tools.cli.schedule", "schedule", "Run bots at set times: deploy, list, trigger, pause."),
    "status": LazyCommand("tools.cli.status", "status", "Show masters, workers, segments and bots."),
    "worker": LazyCommand("tools.cli.worker", "worker", "For operators: list, cordon and drain workers."),
    "audit": LazyCommand("tools.cli.audit", "audit", "Show who deployed, changed, killed or read what."),
    "secrets": LazyCommand("tools.cli.secrets", "secrets", "Seal secrets of bots: make keys, seal values."),
    "dlq": LazyCommand("tools.cli.dlq", "dlq", "Dead letters, events that could not be applied: show, replay, remove."),
    "gc": LazyCommand(
        "tools.cli.gc", "collect", "List the code, logs, results and records that the masters would remove."
    ),
    "load": LazyCommand(
        "tools.cli.load", "load", "Generate load: create and remove many small bots, backtests or schedules."
    ),
    "setup": LazyCommand("tools.cli.setup", "setup", "Prepare the Docker engine and the bots' images."),
    "bot-runner": LazyCommand(
        "tools.cli.services", "bot_runner", "Run a process of the service that keeps bots running."
    ),
    "backtest-runner": LazyCommand(
        "tools.cli.services", "backtest_runner", "Run a process of the service for backtests."
    ),
    "bot-scheduler": LazyCommand("tools.cli.services", "bot_scheduler", "Run a process of the service for schedules."),
}


_HELP = """Runs trading bots: continuously, on a schedule, or once as a backtest.

New here? `runtime demo` shows everything once; `runtime dev up` starts a local stack for your own bots.

Exit codes: 0 success, 1 failure, 2 invalid usage or settings, 3 dependency unreachable, 4 not found, 5 timeout,
130 interrupted.
"""


def _show_version(context: click.Context, _option: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or context.resilient_parsing:
        return
    from libs.core.process.process import runtime_version  # slow to import

    click.echo(f"runtime {runtime_version()}")
    context.exit()


_VERSION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)

runtime = LazyGroup("runtime", _HELP, _COMMANDS, [_VERSION])


def main() -> None:
    """Run the command of the process's arguments and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors are printed on standard error."""
    try:
        result = runtime.main(arguments, prog_name="runtime", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output is gone (`| head`); Python would report it at exit
        return ExitCode.OK
    except BaseException as error:  # noqa: BLE001 - the edge of the process: every error ends as an exit code
        return _report(error)
    return result if isinstance(result, int) else ExitCode.OK


def _report(error: BaseException) -> int:
    from tools.cli.failures import Failure, code_of, first_of
    from tools.cli.untrusted import harmless_lines

    first = first_of(error)
    if isinstance(first, SystemExit):
        return first.code if isinstance(first.code, int) else ExitCode.FAILED
    code = code_of(first)
    if code is None:
        traceback.print_exception(error)
        return ExitCode.FAILED
    if code is not ExitCode.INTERRUPTED:
        click.echo(f"error: {harmless_lines(str(first))}", err=True)
    elif isinstance(first, Failure) and str(first):
        # What goes on without the command.
        click.echo(harmless_lines(str(first)), err=True)
    return code
